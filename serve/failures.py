"""What goes wrong while a variant answers says whose it is, so that it is counted for that variant."""

from __future__ import annotations

import logging
from types import TracebackType

from conf.errors import BadInput
from serve.answers import Refused
from serve.variants import Variant

log = logging.getLogger("ray.serve")


class AnsweredBy:
    """Around the answer of a variant: raises what it refuses, or fails with, as Refused with its headers."""

    __slots__ = ("_request_id", "_variant")

    def __init__(self, variant: Variant, request_id: str) -> None:
        self._variant, self._request_id = variant, request_id

    def __enter__(self) -> None:
        """Begin; on this path nothing is made that only an error needs."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Raise Refused: as it was, 422 for BadInput, 500 (with a traceback in the log) for what nobody foresaw."""
        if error is None or not isinstance(error, Exception):  # a request that was cancelled has nobody to tell
            return
        headers = self._variant.headers(self._request_id)
        if isinstance(error, Refused):
            raise Refused(error.status, error.why, {**error.headers, **headers}) from error
        if isinstance(error, BadInput):
            raise Refused(422, error, headers) from error
        name, number = self._variant.version.name, self._variant.version.number
        log.error("%s: version %s failed", name, number, exc_info=error)
        why = BadInput("model", name, f"failed in version {number}", "send it again; the log has the reason")
        raise Refused(500, why, headers) from error

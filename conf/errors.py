"""The one error a user can cause: said in one sentence, without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """Something a person said or gave cannot be used.

    The message is one sentence made of four parts: the key, the value given, the bound it breaks, and the remedy.
    Entrypoints print it and exit with code 2; serving answers it as JSON with a 4xx status.
    """

    def __init__(self, key: str, value: object, bound: str, remedy: str) -> None:
        self.key, self.value, self.bound, self.remedy = key, value, bound, remedy
        shown = "" if value is None else f" {value!r}" if isinstance(value, str) else f" {value}"
        super().__init__(f"{key}:{shown} {bound}; {remedy}.")

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, object, str, str]]:
        """Survive the way back from a Ray worker."""
        return type(self), (self.key, self.value, self.bound, self.remedy)


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return the remedy for a misspelt word: the nearest match first, then all that is allowed."""
    names = sorted(allowed)
    match = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    listing = ", ".join(names) or "nothing here"
    return f"did you mean {match[0]!r}? Allowed: {listing}" if match else f"allowed: {listing}"

"""How serving answers: JSON, and one shape for whatever a client got wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from conf.errors import BadInput

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


BODY_S = 10.0  # for a body to come
_AGAIN = (429, 503)  # with which a client may ask again, after a second


class Refused(Exception):
    """A request that cannot be answered, with its HTTP status, and headers for the client."""

    def __init__(self, status: int, why: BadInput, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(why))
        self.status, self.why, self.headers = status, why, headers or {}


@dataclass(frozen=True)
class Answer:
    """A status, headers, and a body: bytes as they are, whatever else as JSON."""

    body: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refusal(refused: Refused) -> Answer:
    """Return the one JSON shape of errors: key, value, bound, remedy, and the sentence made of them."""
    why = refused.why
    error = {"key": why.key, "value": why.value, "bound": why.bound, "remedy": why.remedy, "message": str(why)}
    return Answer({"error": error}, refused.status, refused.headers)


async def send(answer: Answer, respond: Send) -> None:
    """Send an answer through ASGI."""
    body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body, default=str)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **answer.headers}
    if answer.status in _AGAIN:
        headers["retry-after"] = "1"
    elif answer.status == 401:
        headers["www-authenticate"] = "Bearer"
    pairs = [(key.encode("latin-1"), _header_value(value)) for key, value in headers.items()]
    await respond({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await respond({"type": "http.response.body", "body": body})


def _header_value(text: str) -> bytes:
    """Return a client's text as a header value: a line break in it must not begin another header."""
    said = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return said.encode("latin-1", "replace")


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """Return the request's body; raises Refused where it is too large (413), too slow (408) or cut (400)."""
    chunks, size, more = [], 0, True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, BadInput("body", None, "ended before its end", "send all of it"))
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                more = message.get("more_body", False)
                if size > most_bytes:
                    bound = f"is larger than {most_bytes:,} bytes"
                    raise Refused(413, BadInput("body", None, bound, "send fewer rows at once"))
    except TimeoutError as error:
        why = BadInput("body", None, f"did not come within {BODY_S:g} s", "send it faster, or less at once")
        raise Refused(408, why) from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def read_json(body: bytes) -> dict[str, Any]:
    """Return a body's JSON object; raises Refused with 400 where it is none."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, BadInput("body", None, f"is not JSON ({error})", "send a JSON object")) from error
    if not isinstance(said, dict):
        raise Refused(400, BadInput("body", None, "is not a JSON object", 'send {"rows": [...]}'))
    return said


def content_type(scope: Scope, *known: str) -> str:
    """Return the request's content type, the first known one where it says none; raises Refused (415) for another."""
    kind = header(scope, b"content-type").split(";")[0].strip().lower() or known[0]
    if kind not in known:
        raise Refused(
            415, BadInput("content-type", kind, "is not taken here", f"send content-type: {' or '.join(known)}")
        )
    encoding = header(scope, b"content-encoding").lower()
    if encoding not in ("", "identity"):
        raise Refused(415, BadInput("content-encoding", encoding, "is not taken here", "send the body as it is"))
    return kind


def header(scope: Scope, name: bytes) -> str:
    """Return a request header, "" where it is not given."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""

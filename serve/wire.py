"""How answers reach the socket: head and body of each in one write."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWrite(asyncio.Transport):
    """A transport that hands on at the end of a turn of the event loop what was written during it, at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep bytes until the turn's end."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(bytes(data))

    def _flush(self) -> None:
        if self._parts:
            written = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(written)

    def close(self) -> None:
        """Close after what was written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it closes or is closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport beneath knows of itself."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another protocol."""
        self._transport.set_protocol(protocol)


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol on such a transport.

    By itself it writes a head and its body apart, which costs a second system call, and where the replica is killed
    between the two HAProxy has passed the head on and cannot ask another replica.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(OneWrite(transport, self.loop))


def write_answers_at_once() -> None:
    """Have the servers that uvicorn starts in this process from now on use it."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{OneWriteProtocol.__name__}"

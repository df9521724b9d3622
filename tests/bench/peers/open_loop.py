"""Requests by a clock, not by answers: python -m tests.bench.peers.open_loop PORT REQUESTS_FOLDER RATE SECONDS.

Each latency is from the moment at which its request was due, so that a server that stalls is charged for all that
waited meanwhile (Tene's coordinated omission). Raw sockets, each with one request at a time, waited for by select(),
whose timeout is exact to microseconds. Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.bench.peers.load import UNIT

MOST = 256  # connections
PATIENCE_S = 10.0  # after the last request was due


@dataclass(frozen=True)
class Answer:
    """Moments by time.perf_counter(); status 0: the connection failed, or nothing came. version: what answered."""

    due: float
    sent: float
    done: float
    status: int
    version: int = 0


@dataclass(eq=False)
class Connection:
    """A socket and what it waits for."""

    port: int
    due: float = 0.0
    sent: float = 0.0
    _read: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """Let select() wait for it."""
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        """Send a whole request."""
        self._read.clear()
        self.due, self.sent = due, time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """Return the answer once it is whole."""
        try:
            piece = self.socket.recv(65536)
        except OSError:
            piece = b""
        if not piece:
            return Answer(self.due, self.sent, time.perf_counter(), 0)
        self._read += piece
        head, found, rest = bytes(self._read).partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if not found or len(rest) < int(headers[b"content-length"]):
            return None
        done, version = time.perf_counter(), int(headers.get(b"x-version", 0))
        return Answer(self.due, self.sent, done, int(head.split(b" ", 2)[1]), version)


def drive(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Iterator[Answer]:
    """Send rate * seconds requests, each when it is due; yield the answers as they come, the missing at the end."""
    pieces = [request.split(UNIT.encode(), 1) for request in requests]
    total, number, began = int(rate * seconds), 0, time.perf_counter() + 0.1
    idle: deque[Connection] = deque()
    busy: set[Connection] = set()
    while (number < total or busy) and time.perf_counter() < began + seconds + PATIENCE_S:
        while number < total and (due := began + number / rate) <= time.perf_counter() and len(busy) < MOST:
            connection = idle.popleft() if idle else Connection(port)
            before, after = pieces[number % len(pieces)]
            try:
                connection.send(b"%bu%09d%b" % (before, number, after), due)
            except OSError:  # it was closed while idle
                yield Answer(due, connection.sent, time.perf_counter(), 0)
            else:
                busy.add(connection)
            number += 1
        wait = began + number / rate - time.perf_counter() if number < total and len(busy) < MOST else 0.1
        for connection in select.select(list(busy), [], [], max(wait, 0.0))[0]:
            answer = connection.receive()
            if answer is not None:
                busy.discard(connection)
                if answer.status:
                    idle.append(connection)
                else:
                    connection.socket.close()
                yield answer
    for connection in busy:
        yield Answer(connection.due, connection.sent, time.perf_counter(), 0)
    for connection in {*busy, *idle}:
        connection.socket.close()


def main(port: int, folder: Path, rate: float, seconds: float) -> None:
    """Print milliseconds of the answers, and how late this client itself was to send."""
    requests = [path.read_bytes() for path in sorted(folder.iterdir())]
    list(drive(port, requests, rate, 1.0))  # warm
    gc.disable()
    answers = list(drive(port, requests, rate, seconds))
    latency = 1000 * np.array([answer.done - answer.due for answer in answers])
    late = 1000 * np.array([answer.sent - answer.due for answer in answers])
    said = {f"p{share:g}_ms": round(float(np.percentile(latency, share)), 3) for share in (50, 99, 99.9)}
    said |= {"late_p99_ms": round(float(np.percentile(late, 99)), 3), "answered": len(answers)}
    good = sum(200 <= answer.status < 300 for answer in answers)
    print(json.dumps(said | {"failed": int(rate * seconds) - good}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))

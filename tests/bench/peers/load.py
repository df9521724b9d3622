"""Load on a server: whole requests, sent by wrk as fast as they are answered, or by a clock (`open_loop`)."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

UNIT = "@UNITUNIT@"  # in a request, where a unit as long takes its place
LUA = Path(__file__).with_name("predict.lua")
CONNECTIONS = 32
JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"

Row = Mapping[str, float]


def whole(port: int, path: str, body: bytes, kind: str = JSON) -> bytes:
    """Return a whole request; its unit is in a header, unless the body has a place for it."""
    unit = "" if UNIT.encode() in body else f"x-unit-id: {UNIT}\r\n"
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: {kind}\r\n{unit}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def body(form: str, rows: Sequence[Row]) -> bytes:
    """Return rows in a form: rows, body_unit (LitServe), dataframe_records (MLflow), columns or arrow."""
    if form == "arrow":
        sink, table = io.BytesIO(), pa.Table.from_pylist(list(map(dict, rows)))
        with ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue()
    said: dict[str, Any] = {
        "rows": {"rows": rows},
        "body_unit": {"rows": rows, "unit": UNIT},
        "dataframe_records": {"dataframe_records": rows},
        "columns": {"columns": {name: [row[name] for row in rows] for name in rows[0]}},
    }[form]
    return json.dumps(said).encode()


@dataclass(frozen=True)
class Measured:
    """What wrk counted. refused: answers that are not 2xx; lost: connections that failed or were too late."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    lost: int

    @property
    def failed(self) -> int:
        """Return the requests without a good answer; at least one where there was no answer at all."""
        return max(self.refused + self.lost, int(self.answered == 0))

    @property
    def rate(self) -> float:
        """Return good answers a second."""
        return (self.answered - self.refused) / self.seconds


def wrk(port: int, requests: Sequence[bytes], seconds: int, folder: Path, threads: int = 1) -> Measured:
    """Send requests over 32 connections for so many seconds."""
    folder.mkdir(exist_ok=True)
    files = []
    for i, request in enumerate(requests):
        files.append(folder / f"{i}.http")
        files[-1].write_bytes(request)
    amount = [f"-t{threads}", f"-c{CONNECTIONS * threads}", f"-d{seconds}s", "-s", str(LUA)]
    command = ["wrk", *amount, f"http://127.0.0.1:{port}/", "--", *map(str, files)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stderr}"
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))

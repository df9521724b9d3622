"""What all rows of the serving benchmark stand on: a model registered twice, real rows, and servers that are ended."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

import cluster
from cluster.background import session_pids
from cluster.ports import free_port
from cluster.registry import Registry
from cluster.storage import VARIABLE
from cluster.tracking import connect
from conf.schema import Cluster, Tracking
from conf.service import Traffic
from tests.bench.peers.ab import FOLDER
from tests.bench.peers.load import UNIT, Row, body, whole

ROOT = Path(__file__).parents[3]
NAME, COLUMNS, ROWS = "bench", 8, 20_000
AB = "traffic.weights={champion: 0.5, challenger: 0.5}"
START_S, END_S = 120.0, 10.0
HAS_SHADOW = "shadow" in {item.name for item in fields(Traffic)}


def environment(**more: str) -> dict[str, str]:
    """Return this environment without what our own code and Ray left in it."""
    ours = {*cluster.ENVIRONMENT, VARIABLE, "RUNGWAY_TOKENS", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"}
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
    return {**inherited, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@dataclass(frozen=True)
class Ground:
    """A storage folder of the benchmark's own. others: a Python that has the peers which this one has not."""

    folder: Path
    others: str = ""

    @property
    def storage(self) -> str:
        """Return the override that every command gets."""
        return f"cluster.storage='{self.folder}'"

    @property
    def cluster(self) -> Cluster:
        """Return the cluster of that folder."""
        return Cluster(storage=str(self.folder))

    @cached_property
    def rows(self) -> list[Row]:
        """Return 256 rows of the table, as JSON has them."""
        table = parquet.read_table(self.folder / "table.parquet")
        rows: list[Row] = table.drop_columns("y").slice(0, 256).to_pylist()
        return rows

    @cached_property
    def registry(self) -> Registry:
        """Return the registry."""
        return Registry(connect(Tracking(), self.cluster))

    def call(self, *said: str) -> None:
        """Run one of our commands."""
        command = [sys.executable, "-m", *said, self.storage]
        ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{command}: {ended.stdout[-1000:]}{ended.stderr[-3000:]}"

    def prepare(self) -> None:
        """Train an MLP of 256-256 twice, and copy the bundles for those who have no registry."""
        rng = np.random.default_rng(0)
        numbers = np.round(rng.standard_normal((ROWS, COLUMNS)), 4)
        target = (numbers.sum(1) + rng.standard_normal(ROWS) > 0).astype(np.int64)
        table = pa.table({**{f"x{i}": numbers[:, i] for i in range(COLUMNS)}, "y": target})
        parquet.write_table(table, self.folder / "table.parquet")
        data = ["dataset=table", f"dataset.path='{self.folder}/table.parquet'", "dataset.target=y", f"name={NAME}"]
        model = ["model=mlp", "model.width=256", "model.layers=2", "training.epochs=1"]
        for seed in (0, 1):
            self.call("jobs.train", *data, *model, f"seed={seed}")
        self.registry.set_alias(NAME, "challenger", 2)
        for alias in ("champion", "challenger"):
            shutil.copytree(self.registry.resolve(NAME, alias).folder, self.folder / "bundles" / alias)

    def python_for(self, package: str) -> str | None:
        """Return the Python that has a package: this one, else the other, else none."""
        if not package or importlib.util.find_spec(package):
            return sys.executable
        look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        there = self.others and subprocess.run([self.others, "-c", look], check=False).returncode == 0
        return self.others if there else None

    @contextmanager
    def ours(self, *said: str) -> Iterator[int]:
        """Deploy on a head of its own; give the port."""
        port = free_port()
        try:
            self.call("serve.deploy", f"name={NAME}", f"serving.http.port={port}", *said)
            yield port
        finally:
            self.call("serve.stop")

    @contextmanager
    def server(self, command: Sequence[str], path: str, form: str, port: int, **variables: str) -> Iterator[int]:
        """Start a server, wait until it answers a prediction, and end it with all that it started."""
        said = {FOLDER: str(self.folder), **variables}
        with (self.folder / "server.log").open("w") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment(**said), stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait(process, port, path, form)
            yield port
        finally:
            end(process)

    def _wait(self, process: subprocess.Popen[bytes], port: int, path: str, form: str) -> None:
        deadline = time.monotonic() + START_S
        while why := why_no_answer(port, path, body(form, self.rows[:1])):
            said = (self.folder / "server.log").read_text()[-3000:]
            assert process.poll() is None, f"the server ended: {said}"
            assert time.monotonic() < deadline, f"no answer from {path} ({why}): {said}"
            time.sleep(0.1)

    def requests(self, port: int, path: str, form: str) -> list[bytes]:
        """Return requests of a row each, of 64 rows in turn."""
        return [whole(port, path, body(form, [row])) for row in self.rows[:64]]


def why_no_answer(port: int, path: str, sent: bytes, patience_s: float = 5.0) -> str:
    """Return why a prediction is not answered, "" where it is."""
    headers = {"content-type": "application/json", "x-unit-id": "u1"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", sent.replace(UNIT.encode(), b"u1"), headers)
    try:
        urllib.request.urlopen(asked, timeout=patience_s).close()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read()[:300]!r}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server that leads a session, and then what is left of its session, by pid."""
    process.terminate()
    deadline = time.monotonic() + END_S
    while session_pids(process.pid) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.05)
    for pid in session_pids(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself
    process.wait()

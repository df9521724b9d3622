"""Serving under load: replicas really killed and versions changed, and every request answered by one whole version."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.background import RECORD
from cluster.bundle import Bundle
from cluster.columns import raw_from_rows
from cluster.ports import free_port
from cluster.registry import Registry
from cluster.tracking import connect
from conf.schema import Cluster
from jobs.train import train

ROOT = Path(__file__).parents[2]
CLIENTS = 4


@dataclass
class Load:
    """Clients that ask without a pause and without asking twice; what they were answered."""

    port: int
    rows: list[dict[str, object]]
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json"}
        i = 0
        while not self._stop.is_set():
            i = (i + 1) % len(self.rows)
            try:
                connection.request("POST", "/houses/predict", json.dumps({"rows": [self.rows[i]]}), headers)
                answer = connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.failures.append(f"{answer.status} {said[:200]!r}")
            else:
                self.answers.append((i, json.loads(said)))
        connection.close()

    def until(self, more: int) -> None:
        """Wait for so many answers more."""
        wanted, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, self.failures[-1:]
            time.sleep(0.01)


@dataclass
class House:
    """What is served, by two replicas behind HAProxy."""

    registry: Registry
    storage: Path
    port: int

    def replicas(self) -> list[int]:
        """Return the pids of the model's replicas."""
        head = json.loads((self.storage / RECORD).read_text())["pid"]
        listed = subprocess.run(
            ["ps", "-o", "pid=,cmd=", "--sid", str(head)], capture_output=True, text=True, check=True
        )
        lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, name in lines if name.startswith("ray::ServeReplica:houses")]

    def load(self) -> Load:
        """Return clients for it."""
        return Load(self.port, Bundle.load(self.registry.resolve("houses", "1").folder).example())


@pytest.fixture
def house(houses: Callable[..., Any], tmp_path: Path) -> Iterator[House]:
    cfg = houses("name=houses")
    cfg.cluster = Cluster(storage=str(tmp_path))
    for cfg.seed in (0, 1):
        train(cfg)
    port = free_port()
    said = [f"cluster.storage='{tmp_path}'", f"serving.http.port={port}", "name=houses", "cluster.num_cpus=2"]
    serving = ["serving.num_replicas=2", "serving.cpus_per_replica=0.5", "serving.poll_s=0.05"]
    call = [sys.executable, "-m", "serve.deploy", *said, *serving]
    try:
        made = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        yield House(Registry(connect(cfg.tracking, cfg.cluster)), tmp_path, port)
    finally:
        subprocess.run([sys.executable, "-m", "serve.stop", f"cluster.storage='{tmp_path}'"], cwd=ROOT, check=True)


def test_a_killed_replica_costs_no_answer(house: House) -> None:
    with house.load() as load:
        for _ in range(2):
            load.until(200)
            before = house.replicas()
            assert len(before) == 2
            os.kill(before[0], signal.SIGKILL)
            load.until(200)
            deadline = time.monotonic() + 60
            while len(now := house.replicas()) < 2 or before[0] in now:
                assert time.monotonic() < deadline, now
                time.sleep(0.1)
            load.until(200)
            time.sleep(2)  # HAProxy has heard of the new one
    assert load.failures == []


def test_changed_versions_answer_whole_and_without_a_failure(house: House) -> None:
    rows = house.load().rows
    wanted = {}
    for number in (1, 2):
        bundle = Bundle.load(house.registry.resolve("houses", str(number)).folder)
        wanted[number] = bundle.predict(raw_from_rows(rows, bundle.schema))
    with house.load() as load:
        for i in range(200):
            house.registry.set_alias("houses", "champion", 2 - i % 2)
            load.until(5)
    assert load.failures == []
    assert {said["version"] for _, said in load.answers} == {1, 2}
    for i, said in load.answers:
        found = list(said["predictions"][0]["probabilities"].values())
        np.testing.assert_allclose(found, wanted[said["version"]][i], atol=1e-5)

"""Serving under load: no answer lost to a kill, versions change whole, too much is refused."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hydra
import numpy as np
import pytest

from cluster.bundle import Bundle
from cluster.columns import raw_from_rows
from cluster.ports import free_port
from cluster.reading import read
from cluster.records import FEEDBACK
from cluster.registry import Registry
from cluster.tracking import connect
from conf import store
from conf.compose import compose
from conf.schema import Cluster, TrainConfig
from jobs.train import train
from tests.conftest import QUICK
from tests.faults.serving import HAPROXY, House, Load
from tests.serve.conftest import until as within

ROOT = Path(__file__).parents[2]
until = partial(within, seconds=60)  # so long may Ray take to start a replica


def deploy(house: House, *overrides: str) -> None:
    call = [sys.executable, "-m", "serve.deploy", "name=houses", f"cluster.storage='{house.storage}'"]
    call += ["cluster.num_cpus=2", f"serving.http.port={house.port}", "serving.num_replicas=2"]
    call += ["serving.cpus_per_replica=0.5", "serving.poll_s=0.05", *overrides]
    made = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="module")
def house(small_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    storage = tmp_path_factory.mktemp("serving")
    store.register()
    said = ["dataset=table", f"dataset.path='{small_csv}'", "dataset.target=dear", "dataset.exclude=[price,band]"]
    with hydra.initialize_config_module("conf", version_base="1.3"):
        cfg = compose("train", [*said, *QUICK, "name=houses"], TrainConfig)
    cfg.cluster = Cluster(storage=str(storage))
    for cfg.seed in (0, 1):
        train(cfg)
    house = House(Registry(connect(cfg.tracking, cfg.cluster)), storage, free_port())
    try:
        deploy(house)
        yield house
    finally:
        subprocess.run([sys.executable, "-m", "serve.stop", f"cluster.storage='{storage}'"], cwd=ROOT, check=True)


def kill_one_replica(house: House) -> None:
    """Kill one of the two and wait for the one in its place, of which HAProxy has heard."""
    before = house.replicas()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(now := house.replicas()) == 2 and before[0] not in now)
    until(lambda: house.up() == 2)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_replica_costs_no_answer(house: House, kills: int) -> None:
    with house.load() as load:
        for _ in range(kills):
            load.until(200)
            kill_one_replica(house)
            load.until(200)
    assert load.failures == []


def test_feedback_that_was_acknowledged_before_a_kill_is_all_there_once(house: House) -> None:
    acknowledged, stop = list[str](), threading.Event()

    def tell() -> None:
        while not stop.is_set():
            request_id = f"told {len(acknowledged)}"
            status, _ = house.ask("POST", "/feedback", {"request_id": request_id, "label": "yes"})
            assert status == 200
            acknowledged.append(request_id)

    teller = threading.Thread(target=tell)
    teller.start()
    for _ in range(2):
        told = len(acknowledged)
        until(lambda told=told: len(acknowledged) > told + 50)
        kill_one_replica(house)
    stop.set()
    teller.join()
    assert len(acknowledged) > 100
    tables = read(house.storage, FEEDBACK, "houses")
    kept = [request_id for table in tables for request_id in table["request_id"].to_pylist()]
    assert sorted(each for each in kept if each.startswith("told ")) == sorted(acknowledged)


def test_changed_versions_answer_whole_and_without_a_failure(house: House) -> None:
    with house.load() as load:
        for i in range(200):
            house.registry.set_alias("houses", "champion", 2 - i % 2)
            load.until(5)
    assert load.failures == []
    check_answers(house, load)


def check_answers(house: House, load: Load) -> None:
    """Check that both versions answered, and each what it predicts by itself."""
    assert {said["version"] for _, said in load.answers} == {1, 2}
    wanted = {}
    for number in (1, 2):
        bundle = Bundle.load(house.registry.resolve("houses", str(number)).folder)
        wanted[number] = bundle.predict(raw_from_rows(load.rows, bundle.schema))
    for i, said in load.answers:
        found = list(said["predictions"][0]["probabilities"].values())
        np.testing.assert_allclose(found, wanted[said["version"]][i], atol=1e-5)


@pytest.mark.parametrize("part", [HAPROXY, "ray::HAProxyManager", "ray::ServeController"])
def test_what_is_before_the_replicas_comes_back_with_the_same_policy(house: House, part: str) -> None:
    _, before = house.ask("GET", "/healthz")
    pids = house.pids(part)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: house.pids(part) and not set(house.pids(part)) & set(pids))
    until(lambda: house.ask("GET", "/healthz")[0] == 200)
    _, after = house.ask("GET", "/healthz")
    assert (after["weights"], after["variants"]) == (before["weights"], before["variants"])
    with house.load() as load:
        load.until(500)
    assert load.failures == []


def test_what_is_too_much_is_refused_at_once_and_what_is_taken_is_answered(house: House) -> None:
    with house.load(clients=300) as load:
        load.until(2000)
    refused = [failure for failure in load.failures if failure.startswith("429 ")]
    assert refused
    assert refused == load.failures
    assert "serving.max_ongoing" in refused[0]
    with house.load() as after:
        after.until(200)
    assert after.failures == []


def test_clients_that_never_end_their_request_keep_nobody_waiting(house: House) -> None:
    head = "POST /houses/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", house.port))) for _ in range(200)]
        for i, connection in enumerate(slow):
            connection.sendall((head + ("\r\n{" if i % 2 else "")).encode())
        with house.load() as load:
            load.until(500)
        assert load.failures == []
        for connection in slow:  # each is told so, or its connection ended, after a while
            connection.settimeout(30)
            with contextlib.suppress(ConnectionError):
                said = connection.recv(1000)
                assert said.startswith(b"HTTP/1.1 408") or not said


def test_a_redeploy_costs_no_answer_and_load_adds_a_replica(house: House) -> None:
    before = house.replicas()
    scaling = "serving.scaling={max_replicas:3,target_ongoing:1,up_after_s:0.5}"
    with house.load(clients=8) as load:
        load.until(200)
        deploy(house, scaling)
        until(lambda: len(now := house.replicas()) == 3 and not set(now) & set(before))
        until(lambda: house.up() == 3)
        load.until(200)
    assert load.failures == []


def test_variants_in_deployments_of_their_own_answer_alike_and_are_swapped(house: House) -> None:
    house.registry.set_alias("houses", "champion", 1)
    house.registry.set_alias("houses", "challenger", 2)
    own = ["serving.isolation=deployment", "serving.isolated.cpus=0.25", "serving.cpus_per_replica=0.25"]
    with house.load() as load:
        deploy(house, *own, "traffic=ab")
        load.until(200)
        house.registry.set_alias("houses", "challenger", 1)
        until(lambda: house.ask("GET", "/healthz")[1]["variants"] == {"champion": 1, "challenger": 1})
        load.until(200)
    assert load.failures == []
    check_answers(house, load)
    assert house.pids("ray::ServeReplica:houses:houses-challenger")

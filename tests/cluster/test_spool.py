"""The spool, on real MLflow: every record exactly once, in order, though the server or the driver is killed."""

import json
import math
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cluster.ports import free_port
from cluster.spool import Spool, TrialRecord
from cluster.tracking import KIND, NAME, PARENT, connect
from conf.schema import Cluster
from conf.schema import Tracking as TrackingConfig

ROOT = Path(__file__).parents[2]
BEGAN = 1_700_000_000_000


def record(number: int, state: str = "complete", **changed) -> TrialRecord:
    began = BEGAN + number * 100
    values = {
        "params": {"optimizer.lr": str(number / 7), "model": "mlp"},
        "history": [{"loss": 1 / (number + step + 1), "accuracy": step / 10} for step in range(3)],
        "times": [began, began + 1, began + 2],
        "error": "it broke" if state == "failed" else "",
    }
    return TrialRecord(number=number, state=state, started=began, ended=began + 50, **(values | changed))


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """Return an embedded store."""
    return connect(TrackingConfig(), Cluster(storage=str(tmp_path_factory.mktemp("own"))))


@pytest.fixture
def embedded(tracking):
    """Return an embedded store and the run of a search in it."""
    return tracking, tracking.start("m", "tune").id


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound how long MLflow itself tries."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def children(tracking, parent):
    """Return a search's trials in the order in which they began."""
    experiment = tracking.client.get_run(parent).info.experiment_id
    found = tracking.client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=10_000)
    return sorted(found, key=lambda run: run.info.start_time)


def check_all(tracking, parent, numbers) -> None:
    """Check that each of the records is there exactly once, whole and ended."""
    runs = children(tracking, parent)
    assert [int(run.data.tags["trial"]) for run in runs] == list(numbers)
    for run in runs:
        wanted = record(int(run.data.tags["trial"]))
        assert (run.info.status, run.data.params) == ("FINISHED", wanted.params)
        assert run.data.metrics == wanted.history[-1]
    for run in (runs[0], runs[-1]):
        assert len(tracking.client.get_metric_history(run.info.run_id, "loss")) == 3


def test_a_record_becomes_a_run(embedded, tmp_path) -> None:
    tracking, parent = embedded
    spool = Spool(tmp_path / "spool.jsonl", tracking, "m", parent)
    odd = {"history": [{"loss": math.inf}, {"loss": math.nan}, {"loss": -math.inf}]}
    for sent in (record(0), record(1, "pruned", **odd), record(2, "failed")):
        spool.append(sent)
    assert spool.close(20) == spool.unsent == spool.refused == 0
    first, pruned, failed = children(tracking, parent)
    assert first.data.tags.items() >= {KIND: "trial", NAME: "m", PARENT: parent, "state": "complete"}.items()
    assert first.data.params == record(0).params
    assert (first.info.start_time, first.info.end_time) == (BEGAN, BEGAN + 50)
    history = tracking.client.get_metric_history(first.info.run_id, "loss")
    assert [(m.step, m.value, m.timestamp - BEGAN) for m in history] == [(1, 1, 0), (2, 1 / 2, 1), (3, 1 / 3, 2)]
    assert (pruned.info.status, pruned.data.tags["state"]) == ("FINISHED", "pruned")
    history = tracking.client.get_metric_history(pruned.info.run_id, "loss")
    assert [math.isnan(m.value) for m in sorted(history, key=lambda m: m.step)] == [False, True, False]
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "it broke")


def test_what_was_sent_is_not_sent_again(embedded, tmp_path) -> None:
    tracking, parent = embedded
    path = tmp_path / "spool.jsonl"
    for start in (0, 4):
        spool = Spool(path, tracking, "m", parent)
        assert spool.unsent == 0
        for number in range(start, start + 4):
            spool.append(record(number))
        assert spool.close(20) == 0
    path.with_name("spool.jsonl.sent").write_text("")  # as if nothing had been noted
    assert Spool(path, tracking, "m", parent).close(20) == 0
    check_all(tracking, parent, range(8))


@pytest.mark.parametrize("left", ["created", "logged", "twice"])
def test_a_run_that_was_begun_is_ended(embedded, tmp_path, left) -> None:
    tracking, parent = embedded
    experiment, tags = tracking.client.get_run(parent).info.experiment_id, {PARENT: parent, "trial": "0"}
    for _ in range(2 if left == "twice" else 1):
        begun = tracking.client.create_run(experiment, record(0).started, tags).info.run_id
    if left == "logged":
        tracking.client.log_batch(begun, metrics=record(0).metrics())
    path = tmp_path / "spool.jsonl"
    path.write_text(json.dumps(vars(record(0))) + "\n")
    assert Spool(path, tracking, "m", parent).close(20) == 0
    check_all(tracking, parent, [0])


def test_a_half_written_line_is_dropped(embedded, tmp_path) -> None:
    tracking, parent = embedded
    path = tmp_path / "spool.jsonl"
    lines = [json.dumps(vars(record(number))) + "\n" for number in range(3)]
    path.write_text("".join(lines)[:-5])
    spool = Spool(path, tracking, "m", parent)
    spool.append(record(2))
    assert spool.close(20) == 0
    assert path.read_text().count("\n") == 3
    check_all(tracking, parent, range(3))


def test_what_mlflow_refuses_holds_nothing_up(embedded, tmp_path, capfd) -> None:
    tracking, parent = embedded
    spool = Spool(tmp_path / "spool.jsonl", tracking, "m", parent)
    odd = [{"params": {"no good key?": "1"}}, {"history": [{"loss?!": 0.5}], "times": [BEGAN]}, {"times": [BEGAN]}]
    for number, changed in enumerate([{}, *odd, {}]):
        spool.append(record(number, **changed))
    assert (spool.close(20), spool.refused) == (0, 3)
    runs = children(tracking, parent)
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FAILED", "FAILED", "FINISHED"]
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("MLflow refuses a trial (")


@contextmanager
def serving(folder: Path, port: int):
    """Run a tracking server; kill it by its pid, with the workers that it started."""
    folder.mkdir(exist_ok=True)
    at = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seconds sooner
    call = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *at]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(call, stdout=log, stderr=log, start_new_session=True, env=env)
    try:
        yield server
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def wait_until(true, within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_is_killed_and_comes_back_costs_one_warning(tmp_path, impatient, capfd) -> None:
    port, said = free_port(), []

    def warned() -> bool:
        said.extend(capfd.readouterr().err.splitlines())
        return bool(said)

    tracking = connect(TrackingConfig(uri=f"http://127.0.0.1:{port}"), Cluster(storage=str(tmp_path / "own")))
    with serving(tmp_path / "server", port):
        wait_until(lambda: answers(port))
        parent = tracking.start("m", "tune").id
        spool = Spool(tmp_path / "spool.jsonl", tracking, "m", parent)
        for number in range(20):
            spool.append(record(number))
        wait_until(lambda: spool.unsent < 15)
    began = time.perf_counter()
    for number in range(20, 40):
        spool.append(record(number))
    assert time.perf_counter() - began < 0.5
    wait_until(warned)
    assert spool.unsent > 20
    with serving(tmp_path / "server", port):
        spool.append(record(40, history=[{"loss": math.nan}, {"loss": math.inf}], times=[BEGAN, BEGAN]))
        assert spool.close(40) == spool.refused == 0
        odd = children(tracking, parent)[-1].info.run_id
        assert math.isnan(tracking.client.get_metric_history(odd, "loss")[0].value)
        tracking.client.delete_run(odd)
        check_all(tracking, parent, range(40))
    with closing(sqlite3.connect(tmp_path / "server" / "mlflow.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM runs ORDER BY rowid")]
    assert names == ["m-tune", *(f"m-trial-{number}" for number in range(41))]
    warned()
    first, second = said
    assert first.startswith("MLflow does not answer (")
    assert second.startswith("MLflow answers again after ")


def test_closing_waits_no_longer_than_told(tmp_path, impatient, capfd) -> None:
    tracking = connect(TrackingConfig(uri=f"http://127.0.0.1:{free_port()}"), Cluster(storage=str(tmp_path / "own")))
    spool = Spool(tmp_path / "spool.jsonl", tracking, "m", "0" * 32)
    for number in range(3):
        spool.append(record(number))
    began = time.monotonic()
    assert spool.close(0.5) == 3
    assert time.monotonic() - began < 2
    assert Spool(tmp_path / "spool.jsonl", tracking, "m", "0" * 32).close(0) == 3


DRIVER = """
import sys, time
from pathlib import Path
from cluster.spool import Spool
from cluster.tracking import connect
from conf.schema import Cluster, Tracking
from test_spool import record
spool = Spool(Path(sys.argv[1]), connect(Tracking(), Cluster(storage=sys.argv[2])), "m", sys.argv[3])
for number in range(int(sys.argv[4]), 100_000):
    spool.append(record(number))
    print(number, flush=True)
    time.sleep(0.005)
"""


def driver(script: str, *said: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    call = [sys.executable, "-c", script, *map(str, said)]
    return subprocess.Popen(call, env=os.environ | {"PYTHONPATH": paths}, text=True, stdout=subprocess.PIPE)


def test_a_driver_that_is_killed_loses_and_doubles_nothing(embedded, tmp_path) -> None:
    tracking, parent = embedded
    path, appended = tmp_path / "spool.jsonl", 0
    for _ in range(2):
        with driver(DRIVER, path, tracking.storage, parent, appended) as killed:
            assert int(killed.stdout.readline()) == appended
            time.sleep(random.uniform(0, 0.5))
            killed.kill()
            acknowledged = appended + 1 + killed.stdout.read().count("\n")
        appended = path.read_bytes().count(b"\n")
        assert appended >= acknowledged
    spool = Spool(path, tracking, "m", parent)
    assert spool.close(60) == 0
    check_all(tracking, parent, range(appended))


FULL = """
import resource, sys
from pathlib import Path
from cluster.spool import Spool
from cluster.tracking import connect
from conf.schema import Cluster, Tracking
from test_spool import record
path = Path(sys.argv[1])
tracking = connect(Tracking(), Cluster(storage=sys.argv[2]))
spool = Spool(path, tracking, "m", sys.argv[3])
spool.append(record(0))
assert spool.close(20) == 0
spool, hard = Spool(path, tracking, "m", sys.argv[3]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))  # half a record fits
for _ in range(2):
    try:
        spool.append(record(1))
    except OSError as error:
        print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
spool.append(record(1))
assert spool.close(20) == 0
"""


def test_a_full_disk_is_said_and_leaves_no_half_line(embedded, tmp_path) -> None:
    tracking, parent = embedded
    path = tmp_path / "spool.jsonl"
    with driver(FULL, path, tracking.storage, parent) as full:
        out, _ = full.communicate(timeout=60)
    assert full.returncode == 0
    assert len(out.splitlines()) == 2
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]
    check_all(tracking, parent, range(2))

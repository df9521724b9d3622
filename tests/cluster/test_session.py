"""The background head: started once, joined by later commands, ended by pid with all that it started."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.background import RECORD, Head, running_head, start_head, stop_head
from cluster.session import find_address
from conf.schema import Cluster

ROOT = Path(__file__).parents[2]
ASK = "from cluster.session import connect; from conf.schema import Cluster; import ray, json\n"
SAY = "print(json.dumps([ray.get_runtime_context().gcs_address, ray.get(ray.remote(lambda: 42).remote())]))"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster(storage=str(tmp_path / "a b"), num_cpus=1, dashboard=False)
    yield cluster
    stop_head(cluster)


def processes_of(session: int) -> list[int]:
    """Return the live processes of a process session."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--sid", str(session)], capture_output=True, text=True, check=False
    )
    lines = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, state in lines if not state.startswith("Z")]


def test_a_head_outlives_its_command_is_joined_and_ends_whole(cluster) -> None:
    head = start_head(cluster)
    assert start_head(cluster) == head
    assert find_address(cluster) == head.address
    script = f"{ASK}with connect(Cluster(storage={cluster.storage!r})):\n    {SAY}"
    for _ in range(2):  # the head is there for the next command too
        said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        address, answer = json.loads(said.stdout)
        assert (address.split(":")[1], answer) == (head.address.split(":")[1], 42), said.stderr
    assert len(processes_of(head.pid)) > 1
    assert stop_head(cluster)
    assert processes_of(head.pid) == []
    assert not stop_head(cluster)
    assert find_address(cluster) is None


def test_a_record_of_a_process_that_is_gone_or_another_is_not_believed(tmp_path) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    record = {"address": "127.0.0.1:1", "pid": sleeper.pid, "started": 1, "dashboard_url": ""}
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert running_head(tmp_path) is None  # the pid lives, but began at another time
    assert not stop_head(Cluster(storage=str(tmp_path)))
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()
    assert not Head("", sleeper.pid, 1, "").lives()


def test_what_lay_in_ray_may_be_dropped_as_soon_as_it_is_left(tmp_path) -> None:
    script = (
        f"{ASK}import time\nwith connect(Cluster(storage={str(tmp_path)!r}, num_cpus=1)):\n"
        "    refs = [ray.put(i) for i in range(3000)]\n"
        "while refs:\n    refs.pop()\n    time.sleep(0.0005)\n"
        "print('ended')"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "ended\n"), said.stderr


def test_an_address_that_does_not_answer_is_named(tmp_path) -> None:
    script = (
        f"{ASK}from conf.errors import BadInput\ntry:\n"
        f"    with connect(Cluster(storage={str(tmp_path)!r}, address='127.0.0.1:1')): pass\n"
        "except BadInput as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.stdout.startswith("cluster.address: '127.0.0.1:1' does not answer; start it"), said.stderr

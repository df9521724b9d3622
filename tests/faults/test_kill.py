"""Really killed: an interrupted pipeline leaves nothing running, a killed training nothing half-registered."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.background import RECORD
from cluster.bundle import Bundle
from cluster.registry import Registry
from cluster.tracking import connect
from conf.schema import Cluster, Tracking

ROOT = Path(__file__).parents[2]
QUICK = ("training.epochs=2", "training.batch_size=64", "model.width=16", "model.layers=1")


def command(module: str, csv: Path, storage: Path, *said: str) -> subprocess.Popen[str]:
    overrides = ["dataset=table", f"dataset.path='{csv}'", "dataset.target=dear", "dataset.exclude=[price,band]"]
    call = [sys.executable, "-m", module, *overrides, f"cluster.storage='{storage}'", *QUICK, *said]
    return subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def alive_in(session: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-o", "stat=,cmd=", "--sid", str(session)], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


def interrupt(csv: Path, storage: Path, how: signal.Signals, after_s: float) -> None:
    """Start a pipeline, interrupt it some time after its Ray is there, and look for what is left."""
    pipeline = command("jobs.pipeline", csv, storage, "tuning.num_samples=4", "serving.http.port=8123")
    deadline = time.monotonic() + 120
    while not (storage / RECORD).exists():
        assert pipeline.poll() is None, pipeline.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    head = json.loads((storage / RECORD).read_text())["pid"]
    time.sleep(after_s)
    pipeline.send_signal(how)
    said, _ = pipeline.communicate(timeout=120)
    over = "all runs: " in said  # everything is done: Python itself is ending, and dies of a signal
    assert pipeline.returncode in (0, 130) or (over and pipeline.returncode == -how), said
    assert alive_in(head) == []
    assert not (storage / RECORD).exists()
    assert "Traceback" not in said


@pytest.mark.parametrize(("how", "after_s"), [(signal.SIGTERM, 25.0), (signal.SIGINT, 2.0)])
def test_an_interrupted_pipeline_leaves_nothing_running(small_csv, tmp_path, how, after_s) -> None:
    interrupt(small_csv, tmp_path / "a b", how, after_s)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_an_interrupted_pipeline_leaves_nothing_running_at_any_moment(small_csv, tmp_path, trial) -> None:
    moment = random.Random(trial)
    interrupt(small_csv, tmp_path, moment.choice([signal.SIGTERM, signal.SIGINT]), moment.uniform(0, 60))


def kill_training(csv: Path, storage: Path, after_s: float) -> None:
    """Kill -9 a training and check that whatever is registered is whole."""
    training = command("jobs.train", csv, storage)
    time.sleep(after_s)
    training.kill()
    training.communicate()
    registry = Registry(connect(Tracking(), Cluster(storage=str(storage))))
    for name in registry.names():
        if registry.aliases(name):
            Bundle.load(registry.resolve(name, "latest").folder)
    ended = command("jobs.train", csv, storage)
    said, _ = ended.communicate(timeout=120)
    assert ended.returncode == 0, said
    assert Bundle.load(registry.resolve("my-houses", "latest").folder).schema.task == "binary"


def test_a_killed_training_registers_nothing_half(small_csv, tmp_path) -> None:
    kill_training(small_csv, tmp_path, 6.0)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_killed_training_registers_nothing_half_at_any_moment(small_csv, tmp_path, trial) -> None:
    kill_training(small_csv, tmp_path, random.Random(trial).uniform(2, 9))

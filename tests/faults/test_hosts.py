"""Training on two hosts, nothing said of interfaces; one is lost, and the run goes on."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.tracking import KIND, connect
from conf.schema import Cluster, Tracking
from tests.jobs.training.hosts import Hosts, cluster_of, why_not

ROOT = Path(__file__).parents[2]
TRAINING = (
    "dataset=digits",
    "model.width=64",
    "model.dropout=0",
    "training.batch_size=8",
    "training.keep=last",
    "training.checkpoint_every_s=0.3",
    "register=false",
)
DDP = ("scaling=ddp", "scaling.num_workers=2")


@pytest.fixture
def two() -> Hosts:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with cluster_of(2) as made:
        yield made


def start(two: Hosts, storage: Path, *said: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "jobs.train", f"cluster.storage='{storage}'", *TRAINING, *said]
    return subprocess.Popen(
        two.command(0, call), cwd=ROOT, env=two.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def losses(storage: Path) -> tuple[list[float], dict[str, str]]:
    """Return the only run's train losses by epoch, and its tags."""
    tracking = connect(Tracking(), Cluster(storage=str(storage)))
    experiments = [experiment.experiment_id for experiment in tracking.client.search_experiments()]
    (run,) = tracking.client.search_runs(experiments, f"tags.`{KIND}` = 'train'")
    assert run.info.status == "FINISHED"
    history = tracking.client.get_metric_history(run.info.run_id, "train_loss")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)], run.data.tags


def records(storage: Path) -> list[dict[str, object]]:
    path = next(iter((storage / "train").glob("*/records.jsonl")), None)
    return [json.loads(line) for line in path.read_text().splitlines()] if path else []


ELASTIC = (*DDP, "scaling.min_workers=1", "scaling.max_workers=2")


def wait(running: subprocess.Popen[str], storage: Path, enough: Callable[[list[dict[str, object]]], bool]) -> None:
    deadline = time.monotonic() + 240
    while not enough(records(storage)):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline, records(storage)[-3:]
        time.sleep(0.05)


def epochs(found: list[dict[str, object]]) -> int:
    return len([record for record in found if "metrics" in record])


def lost(two: Hosts, tmp_path: Path, lose: Callable[[int], None]) -> None:
    """Lose the second host in a run's middle; its curve is that of one process, and one worker ended it."""
    alone = [sys.executable, "-m", "jobs.train", f"cluster.storage='{tmp_path / 'alone'}'", *TRAINING]
    subprocess.run([*alone, "training.epochs=8"], cwd=ROOT, capture_output=True, check=True)
    running = start(two, tmp_path / "both", *ELASTIC, "training.epochs=8")
    wait(running, tmp_path / "both", lambda found: epochs(found) >= 3)
    lose(1)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    (curve, _), (together, tags) = losses(tmp_path / "alone"), losses(tmp_path / "both")
    np.testing.assert_allclose(together, curve, rtol=2e-3)
    assert int(tags["restarts"]) >= 1
    assert "on 1 workers" in tags[f"restart.{tags['restarts']}"]


def test_two_hosts_follow_the_curve_of_one_process_and_a_lost_one_is_done_without(two, tmp_path) -> None:
    lost(two, tmp_path, two.kill)


@pytest.mark.slow
def test_a_host_off_the_network_is_done_without(two, tmp_path) -> None:
    lost(two, tmp_path, two.cut)


@pytest.mark.slow
def test_a_run_grows_again_when_its_host_is_back(two, tmp_path) -> None:
    running = start(two, tmp_path, *ELASTIC, "training.epochs=2000")
    try:
        wait(running, tmp_path, lambda found: epochs(found) >= 2)
        two.kill(1)
        wait(running, tmp_path, lambda found: found[-1].get("epoch", 0) and workers(found) == [2, 1])
        two.start(1)
        wait(running, tmp_path, lambda found: workers(found)[-1] == 2 and "metrics" in found[-1])
    finally:
        running.kill()
        running.communicate(timeout=60)


def workers(found: list[dict[str, object]]) -> list[object]:
    """Return how many workers each start had."""
    return [record["workers"] for record in found if "started" in record]


def test_a_storage_path_that_a_host_does_not_see_is_refused_before_training(two, tmp_path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (node,) = [pid for pid in two.hosts[1].pids() if "raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_text()]
    mount = ["nsenter", "--target", str(node), "--mount", "mount", "-t", "tmpfs", "none", str(hidden)]
    subprocess.run(mount, check=True)
    refused = start(two, hidden, *DDP)
    said, _ = refused.communicate(timeout=120)
    assert refused.returncode == 2, said
    assert f"is not seen by {two.hosts[1].ip}; give a folder that all hosts share" in said

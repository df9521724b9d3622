"""A training that is really killed or interrupted goes on, and ends with the weights of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from cluster.tracking import KIND, connect
from conf.schema import Cluster, Tracking

ROOT = Path(__file__).parents[2]
EPOCHS = 12
TRAINING = (
    "dataset=digits",
    "model.width=64",
    "training.batch_size=8",
    f"training.epochs={EPOCHS}",
    "training.keep=last",
    "training.checkpoint_every_s=0.3",
    "register=false",
)
DDP = ("scaling=ddp", "scaling.cpus_per_worker=0.5")


def start(storage: Path, *said: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "jobs.train", f"cluster.storage='{storage}'", *said]
    clean = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        call, cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def train(storage: Path, *said: str) -> str:
    """Train to the end and return what was said."""
    running = start(storage, *said)
    words, _ = running.communicate(timeout=300)
    assert running.returncode == 0, words
    return words


def weights(storage: Path) -> list[str]:
    """Return the weights' hash of each finished run, each of which is one MLflow run with one metric per epoch."""
    tracking = connect(Tracking(), Cluster(storage=str(storage)))
    experiments = [experiment.experiment_id for experiment in tracking.client.search_experiments()]
    runs = tracking.client.search_runs(experiments, f"tags.`{KIND}` = 'train'")
    for run in runs:
        assert run.info.status == "FINISHED"
        history = tracking.client.get_metric_history(run.info.run_id, "train_loss")
        assert sorted(metric.step for metric in history) == list(range(1, EPOCHS + 1))
    return [run.data.tags["weights_sha256"] for run in runs]


def records(storage: Path) -> list[dict[str, object]]:
    path = next(iter((storage / "train").glob("*/records.jsonl")), None)
    return [json.loads(line) for line in path.read_text().splitlines()] if path else []


def epochs_over(storage: Path) -> int:
    return len([record for record in records(storage) if "metrics" in record])


def wait(running: subprocess.Popen[str], storage: Path, epochs: int) -> None:
    """Wait until the training has begun, and so many of its epochs are over."""
    deadline = time.monotonic() + 120
    while not records(storage) or epochs_over(storage) < epochs:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_driver(running: subprocess.Popen[str], storage: Path) -> None:
    running.kill()


def kill_worker(running: subprocess.Popen[str], storage: Path) -> None:
    os.kill(int(str([r for r in records(storage) if "started" in r][-1]["pid"])), signal.SIGKILL)


def terminate(running: subprocess.Popen[str], storage: Path) -> None:
    running.send_signal(signal.SIGTERM)


def kill_head(running: subprocess.Popen[str], storage: Path) -> None:
    """Kill Ray's own processes: its control store and its raylet."""
    call = ["ps", "-ww", "-o", "pid=,args=", "--sid", str(running.pid)]
    listed = subprocess.run(call, capture_output=True, text=True, check=False).stdout
    rows = [line.split(None, 1) for line in listed.splitlines()]
    for pid, command in rows:
        if "gcs_server" in command.split()[0] or "raylet/raylet" in command.split()[0]:
            os.kill(int(pid), signal.SIGKILL)


def broken_and_resumed(
    storage: Path, unbroken: str, kill: Callable[[subprocess.Popen[str], Path], None], epochs: int, *said: str
) -> None:
    running = start(storage, *TRAINING, *said)
    wait(running, storage, epochs)
    kill(running, storage)
    words, _ = running.communicate(timeout=300)
    if running.returncode != 0:
        if kill is terminate:
            assert running.returncode == 130, words
            assert "go on with: python -m jobs.train resume=" in words
            assert "Traceback" not in words, words
        train(storage, "resume=latest")
    assert weights(storage) == [unbroken]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("unbroken alone")
    train(folder, *TRAINING)
    return weights(folder)[0]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("unbroken together")
    train(folder, *TRAINING, *DDP)
    return weights(folder)[0]


@pytest.mark.parametrize("kill", [kill_driver, terminate])
def test_a_training_in_process_goes_on(tmp_path, alone, kill) -> None:
    broken_and_resumed(tmp_path / "a b", alone, kill, 3)


@pytest.mark.parametrize("kill", [kill_driver, terminate, kill_worker, kill_head])
def test_a_training_on_workers_goes_on(tmp_path, together, kill) -> None:
    broken_and_resumed(tmp_path, together, kill, 3, *DDP)


def drain(pid: int) -> None:
    """Tell the Ray of a worker that its host will be taken away in ten minutes."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    address = next(line for line in variables if line.startswith("RAY_ADDRESS=")).removeprefix("RAY_ADDRESS=")
    client = GcsClient(address=address)
    (node,) = client.get_all_node_info()
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why_not = client.drain_node(node.hex(), reason, "a test", int((time.time() + 600) * 1000))
    assert accepted, why_not


def test_a_training_is_saved_when_its_host_is_about_to_be_taken_away(tmp_path) -> None:
    long = ("training.epochs=1000", "training.patience=1000", "training.checkpoint_every_s=3600")
    running = start(tmp_path, *TRAINING, *long, *DDP)
    try:
        wait(running, tmp_path, 1)
        assert not list(tmp_path.glob("train/*/checkpoints/*"))
        drain(int(str(records(tmp_path)[0]["pid"])))
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("train/*/checkpoints/*/plain.json")):
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.1)
        before = epochs_over(tmp_path)
        wait(running, tmp_path, before + 2)  # and it goes on until the host is gone
    finally:
        running.kill()
        running.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_training_goes_on_from_any_moment(tmp_path, alone, together, trial) -> None:
    moment = random.Random(trial)
    if trial % 2:
        kill = moment.choice([kill_driver, terminate, kill_worker, kill_head])
        broken_and_resumed(tmp_path, together, kill, moment.randrange(EPOCHS - 2), *DDP)
    else:
        broken_and_resumed(tmp_path, alone, moment.choice([kill_driver, terminate]), moment.randrange(EPOCHS - 2))


def test_what_would_train_another_model_is_refused(tmp_path) -> None:
    running = start(tmp_path, *TRAINING)
    wait(running, tmp_path, 2)
    terminate(running, tmp_path)
    running.communicate(timeout=60)
    refused = start(tmp_path, "resume=latest", "model.width=32")
    words, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "began with other values of model.width; leave them out, or train anew" in words
    train(tmp_path, "resume=latest", "training.checkpoint_every_s=10")
    finished = start(tmp_path, "resume=latest")
    words, _ = finished.communicate(timeout=60)
    assert finished.returncode == 2
    assert "has finished; name a run that was interrupted, or train anew" in words


def test_a_full_disk_ends_a_training_in_one_sentence_and_it_goes_on_later(tmp_path, alone) -> None:
    script = (
        "import runpy, sys\n"
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from jobs.training import folder\n"
        "record, seen = folder.RunFolder.record, []\n"
        "def full(self, said):\n"
        "    seen.append(said)\n"
        "    if len(seen) > 5:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (self.records.stat().st_size, resource.RLIM_INFINITY))\n"
        "    record(self, said)\n"
        "folder.RunFolder.record = full\n"
        "sys.argv = ['jobs.train', *sys.argv[1:]]\n"
        "runpy.run_module('jobs.train', run_name='__main__')\n"
    )
    call = [sys.executable, "-c", script, f"cluster.storage='{tmp_path}'", *TRAINING]
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert "cannot be written (File too large); make room, then: python -m jobs.train resume=" in ended.stderr
    train(tmp_path, "resume=latest")
    assert weights(tmp_path) == [alone]

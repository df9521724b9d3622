"""A search that is really killed: nothing finished is repeated or lost, and it ends with all its trials."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from cluster.tracking import PARENT, connect
from conf.schema import Cluster, Tracking
from jobs.tuning.journal import read_study

ROOT = Path(__file__).parents[2]
TRIALS, EPOCHS = 6, 60
QUICK = ("model.width=16", "model.layers=1", "training.batch_size=32", "tuning.checkpoint_every_s=0.2")
LONG = (f"training.epochs={EPOCHS}", f"training.patience={EPOCHS}", "tuning.report_every_s=0.2")
SPACE = ("optimizer.lr=tag(log, interval(1e-4, 1e-1))", "model.dropout=interval(0, 0.5)", "scheduler.grace_period=20")


def start(storage: Path, *said: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "jobs.tune", f"cluster.storage='{storage}'", *said]
    clean = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS",)}
    return subprocess.Popen(
        call, cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def search(storage: Path, *said: str) -> subprocess.Popen[str]:
    return start(storage, "dataset=digits", *QUICK, *LONG, *SPACE, f"tuning.num_samples={TRIALS}", *said)


def journal(storage: Path) -> Path | None:
    return next(iter((storage / "tune").glob("*.journal")), None)


def trials(storage: Path) -> list[optuna.trial.FrozenTrial]:
    path = journal(storage)
    if path is None:
        return []
    try:
        return read_study(path).trials
    except (KeyError, ValueError):  # the study is being made
        return []


def wait(running: subprocess.Popen[str], storage: Path, ended: int) -> None:
    """Wait until so many trials have ended, and one more has epochs."""
    deadline = time.monotonic() + 240
    while True:
        found = trials(storage)
        states = [trial.state for trial in found]
        busy = any(t.state == TrialState.RUNNING and t.intermediate_values for t in found)
        if len([state for state in states if state.is_finished()]) >= ended and busy:
            return
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def family(pid: int) -> dict[int, str]:
    """Return the live processes of a process session: pid -> its command."""
    call = ["ps", "-ww", "-o", "pid=,stat=,args=", "--sid", str(pid)]
    listed = subprocess.run(call, capture_output=True, text=True, check=False)
    rows = (line.split(None, 2) for line in listed.stdout.splitlines())
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and not row[1].startswith("Z")}


def kill_driver(running: subprocess.Popen[str]) -> None:
    running.kill()


def kill_everything(running: subprocess.Popen[str]) -> None:
    for pid in family(running.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_worker(running: subprocess.Popen[str]) -> None:
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")
    workers = [
        pid for pid, said in family(running.pid).items() if said.startswith("ray::") and not said.startswith(agents)
    ]
    assert workers, family(running.pid)
    os.kill(workers[0], signal.SIGKILL)


def finished(storage: Path) -> dict[int, tuple[TrialState, tuple[float, ...], object]]:
    done = [trial for trial in trials(storage) if trial.state.is_finished()]
    return {t.number: (t.state, tuple(t.intermediate_values.values()), t.datetime_complete) for t in done}


def check_whole(storage: Path, before: dict[int, object]) -> None:
    """Assert that all trials are there, each once in study and MLflow, and that what had finished was not touched."""
    after = finished(storage)
    assert len(after) == len(trials(storage)) == TRIALS
    assert {number: after[number] for number in before} == before
    for trial in trials(storage):
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
    tracking = connect(Tracking(), Cluster(storage=str(storage)))
    path = journal(storage)
    assert path is not None
    parent = tracking.client.get_run(path.stem)
    assert parent.info.status == "FINISHED"
    runs = tracking.client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{path.stem}'")
    assert sorted(int(run.data.tags["trial"]) for run in runs) == list(range(TRIALS))
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    for run in runs:
        number = int(run.data.tags["trial"])
        assert run.data.tags["state"] == states[after[number][0]]
        history = tracking.client.get_metric_history(run.info.run_id, "val_log_loss")
        assert sorted(metric.step for metric in history) == list(range(1, len(after[number][1]) + 1))


def kill_and_resume(storage: Path, kill, ended: int) -> None:
    running = search(storage)
    wait(running, storage, ended)
    kill(running)
    running.communicate(timeout=240)
    before = finished(storage)
    half = {t.number: len(t.intermediate_values) for t in trials(storage) if t.state == TrialState.RUNNING}
    stem = (journal(storage) or Path()).stem
    again = start(storage, "resume=latest")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    check_whole(storage, before)
    assert half, "something was interrupted"
    asked = json.loads(connect(Tracking(), Cluster(storage=str(storage))).read_text(str(stem), "search.json"))
    assert asked["space"]["model.dropout"]["said"] == "interval(0, 0.5)"


@pytest.mark.parametrize("kill", [kill_driver, kill_everything])
def test_a_killed_search_goes_on(tmp_path, kill) -> None:
    kill_and_resume(tmp_path / "a b", kill, 3)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_killed_search_goes_on_from_any_moment(tmp_path, trial) -> None:
    moment = random.Random(trial)
    kill_and_resume(tmp_path, moment.choice([kill_driver, kill_everything]), moment.randrange(TRIALS - 2))


def worker_killed(storage: Path, ended: int) -> None:
    running = search(storage)
    wait(running, storage, ended)
    kill_worker(running)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    check_whole(storage, {})
    assert all(trial.state != TrialState.FAIL for trial in trials(storage))


def test_a_killed_worker_costs_no_trial(tmp_path) -> None:
    worker_killed(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_a_killed_worker_costs_no_trial_at_any_moment(tmp_path, trial) -> None:
    worker_killed(tmp_path, random.Random(trial).randrange(TRIALS - 2))


def test_an_interrupted_search_says_how_to_go_on_and_a_changed_one_is_refused(tmp_path) -> None:
    running = search(tmp_path)
    wait(running, tmp_path, 2)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=240)
    path = journal(tmp_path)
    assert path is not None
    assert running.returncode == 130
    assert f"go on with: python -m jobs.tune resume={path.stem}" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while family(running.pid) and time.monotonic() < deadline:  # the last worker may still be ending
        time.sleep(0.1)
    assert family(running.pid) == {}
    before = finished(tmp_path)
    refused = start(tmp_path, "resume=latest", "training.batch_size=64", "model.width=8")
    said, _ = refused.communicate(timeout=240)
    assert refused.returncode == 2
    assert "began with other values of model.width, training.batch_size; its trials could not be compared" in said
    again = start(tmp_path, f"resume={path.stem}", f"tuning.num_samples={TRIALS}")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    check_whole(tmp_path, before)


def test_a_full_disk_ends_a_search_in_one_sentence(tmp_path) -> None:
    script = (
        "import resource, runpy, sys\n"
        "from pathlib import Path\n"
        "from jobs.tuning import journal\n"
        "write = journal.DriverJournal.append_logs\n"
        "def full(self, logs):\n"
        "    if len(self._logs) > 120:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (self._file.tell(), resource.RLIM_INFINITY))\n"
        "    write(self, logs)\n"
        "journal.DriverJournal.append_logs = full\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.argv = ['jobs.tune', *sys.argv[1:]]\n"
        "runpy.run_module('jobs.tune', run_name='__main__')\n"
    )
    said = ["dataset=digits", *QUICK, *LONG, *SPACE, f"tuning.num_samples={TRIALS}", f"cluster.storage='{tmp_path}'"]
    call = [sys.executable, "-c", script, *said]
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert "cannot be written (File too large)" in ended.stderr
    assert "resume=" in ended.stderr

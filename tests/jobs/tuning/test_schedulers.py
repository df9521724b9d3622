"""What every scheduler in conf/scheduler keeps to, each in a small real search."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

import conf
from cluster.storage import storage_path
from cluster.tracking import PARENT, connect
from conf.errors import BadInput
from jobs.training.epoch import LAST, OBJECTIVE
from jobs.training.loop import Diverged
from jobs.tuning.coordinator import coordinate
from jobs.tuning.journal import journal_path, read_study
from jobs.tuning.objectives import METRICS
from jobs.tuning.search import search
from jobs.tuning.searcher import ERROR, OVERRIDES
from jobs.tuning.trial import DIVERGED, FAILED, Asked

NAMES = sorted(path.stem for path in (Path(conf.__path__[0]) / "scheduler").glob("*.yaml"))
DIGITS = ("dataset=digits", "training.patience=9", "training.batch_size=256")
SMALL = (*DIGITS, "model.width=8", "model.layers=1")
LR = {"optimizer.lr": "tag(log, interval(1e-5, 1e-1))"}
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@pytest.fixture
def found(ray_session, train_config, request):
    """Return a function that searches and returns the result, the study's trials and the runs in MLflow."""

    def made(*said, space=LR, trials=4, epochs=4, small=SMALL, fails=None):
        name = f"sched-{request.node.name}"[:60].replace("[", "-").rstrip("]")
        budget = f"training.epochs={epochs}", f"tuning.num_samples={trials}", f"name='{name}'"
        cfg = train_config(*small, *budget, *said)
        tracking, result = connect(cfg.tracking, cfg.cluster), None
        if fails is None:
            result = search(cfg, space)
        else:
            with pytest.raises(BadInput, match=fails):
                search(cfg, space)
        run = result.run_id if result else tracking.find("latest", "tune", name, finished=False)
        study = read_study(journal_path(storage_path(cfg.cluster) / "tune", run))
        parent = tracking.client.get_run(run)
        children = tracking.client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{run}'")
        return SimpleNamespace(result=result, trials=study.trials, children=children, parent=parent)

    return made


def agree(found, trials):
    """All trials ended, are counted and are in MLflow as they ended."""
    assert [trial.number for trial in found.trials] == list(range(trials))
    assert all(trial.state in STATES for trial in found.trials)
    states = {str(trial.number): STATES[trial.state] for trial in found.trials}
    assert {child.data.tags["trial"]: child.data.tags["state"] for child in found.children} == states
    assert len(found.children) == trials
    assert {child.info.status for child in found.children} <= {"FINISHED", "FAILED"}
    counts = [list(states.values()).count(state) for state in ("complete", "pruned", "failed")]
    assert [found.result.completed, found.result.pruned, found.result.failed] == counts


@pytest.mark.parametrize("name", NAMES)
def test_every_trial_ends_and_the_winner_has_finished(found, name) -> None:
    trials = found(f"scheduler={name}", trials=5)
    agree(trials, 5)
    complete = [trial for trial in trials.trials if trial.state == TrialState.COMPLETE]
    assert complete
    assert trials.result.value == min(trial.value for trial in complete)
    won = next(trial for trial in complete if trial.value == trials.result.value)
    assert trials.parent.data.tags["best_trial"] == str(won.number)
    assert set(won.user_attrs[OVERRIDES]) <= set(trials.result.overrides)
    for trial in trials.trials:
        steps = sorted(trial.intermediate_values)
        assert (steps[-1] == 4) == (trial.state == TrialState.COMPLETE)
        if name != "pbt":  # a trial that goes on from another may be further at once
            assert steps == list(range(1, len(steps) + 1))
    if name == "none":
        assert len(complete) == 5


def test_rungs_in_samples_decide_as_rungs_in_epochs(found, train_config) -> None:
    from jobs.data.load import load

    cfg = train_config(*SMALL)
    rows = load(cfg.dataset, cfg.split).sizes["train"]
    said = "searcher=random", "tuning.max_concurrent=1"
    by_epochs = found("scheduler.grace_period=1", *said, trials=6)
    in_samples = found("scheduler.time_attr=samples", f"scheduler.grace_period={rows}", *said, trials=6)
    ends = [[(trial.state, len(trial.intermediate_values)) for trial in one.trials] for one in (by_epochs, in_samples)]
    assert ends[0] == ends[1]
    assert (TrialState.PRUNED, 1) in ends[0]


def test_population_based_training_perturbs_within_bounds(found) -> None:
    space = {
        "optimizer.lr": "tag(log, interval(1e-3, 3e-2))",
        "optimizer.weight_decay": "choice(0.0,0.01,0.1)",
        "model": "choice(mlp,linear)",
        "model.width": "choice(4,8)",
    }
    said = "scheduler=pbt", "scheduler.perturbation_interval=1", "scheduler.synch=true", "searcher=random"
    trials = found(*said, small=DIGITS, space=space)
    agree(trials, 4)
    changed = 0
    for trial in trials.trials:
        said = dict(override.split("=") for override in trial.user_attrs[OVERRIDES])
        assert 1e-3 <= float(said["optimizer.lr"]) <= 3e-2
        assert float(said["optimizer.weight_decay"]) in (0.0, 0.01, 0.1)
        assert ("model.width" in said) == (said["model"] == "mlp")
        changed += float(said["optimizer.lr"]) != trial.params["optimizer.lr"]
    assert changed


@pytest.mark.parametrize(
    "said,space,why",
    [
        (("scheduler=pbt",), {"model.width": "choice(8,16)"}, "scheduler: 'pbt' has nothing to perturb"),
        (
            ("scheduler=pbt", "scheduler._target_=ray.tune.schedulers.PopulationBasedTraining"),
            LR,
            "'ray.tune.schedulers.PopulationBasedTraining' takes no searcher; say scheduler=pbt",
        ),
        (("tuning.objectives={val_accuracy:max,parameters:min}",), LR, "are several for ASHAScheduler"),
        (("tuning.objectives={val_acuracy:max}",), LR, "is not a metric of a multiclass task; did you mean"),
        (("tuning.constraints={parameters:5}",), LR, "'5' is no bound; say"),
        (("scaling.num_workers=2",), LR, "needs scaling.strategy=ddp or fsdp; say scaling=ddp"),
        (("tuning.cpus_per_trial=64",), LR, "tuning.cpus_per_trial: 64.0 is more than the cluster's 2"),
        (("scaling=ddp", "tuning.constraints={parameters:{max:5}}"), LR, "is not measured on several workers"),
        (("scaling=ddp", "scaling.num_workers=64"), LR, "needs 64 CPU, the cluster has 2"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_a_sentence(ray_session, train_config, said, space, why) -> None:
    with pytest.raises(BadInput) as refused:
        search(train_config(*SMALL, *said), space)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_trials_on_two_workers_wait_for_each_other(found) -> None:
    said = "scaling=ddp", "scaling.num_workers=2", "scaling.cpus_per_worker=0.75", "scheduler=none"
    began = time.monotonic()
    confirm = "tuning.confirm_top_k=1", "tuning.confirm_seeds=1"
    trials = found(*said, *confirm, trials=2, epochs=2)
    agree(trials, 2)
    assert trials.result.completed == 2
    assert trials.result.expected not in (None, trials.result.value), "it was trained on the workers with another seed"
    assert all(sorted(trial.intermediate_values) == [1, 2] for trial in trials.trials)
    assert time.monotonic() - began < 120


@pytest.mark.parametrize(
    "raised,report",
    [
        (Diverged("optimizer.lr", 9, "made the loss inf", "lower it"), {DIVERGED: str, LAST: True, "done": True}),
        (BadInput("optimizer", "SGD", "cannot be built", "see conf/optimizer"), {FAILED: str, "done": True}),
        (ValueError("no such thing"), {FAILED: str, "done": True}),
    ],
)
def test_what_a_worker_raises_is_said_as_in_a_trial_of_its_own(monkeypatch, raised, report) -> None:
    def fit(*_):
        raise WorkerGroupError("a traceback", {0: UserExceptionWithTraceback(raised, "a traceback")})

    said = []
    monkeypatch.setattr("jobs.training.workers.fit_on_workers", fit)
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", lambda: None)
    monkeypatch.setattr("ray.tune.report", said.append)
    monkeypatch.setattr(Asked, "configs", lambda _: [None])
    coordinate(Asked(0, "", {}).to_dict(), None, "")
    (found,) = said
    for key, value in report.items():
        assert str(raised) in found[key] if value is str else found[key] == value
    assert "a traceback" not in str(found)
    assert found[OBJECTIVE] == math.inf


def test_several_objectives_give_a_pareto_set(found) -> None:
    said = "tuning.objectives={val_accuracy:max,parameters:min}", "scheduler=none"
    trials = found(*said, space={"model.width": "choice(4,8,16)", "model.layers": "range(1,3)"}, trials=5, epochs=2)
    agree(trials, 5)
    front = trials.result.pareto
    assert front
    assert "Pareto set" in str(trials.result)
    for _, (accuracy, parameters) in front:
        others = [(a, p) for _, (a, p) in front if (a, p) != (accuracy, parameters)]
        assert all(a > accuracy or p < parameters for a, p in others)
    for trial in trials.trials:
        assert trial.values == [trial.user_attrs[METRICS]["val_accuracy"], trial.user_attrs[METRICS]["parameters"]]
        assert trial.values[1] > 64


def test_bounds_decide_the_winner_and_the_best_are_confirmed(found) -> None:
    said = "tuning.constraints={parameters:{max:700}}", "tuning.confirm_top_k=2", "tuning.confirm_seeds=2"
    space = {**LR, "model.width": "choice(4,8,64)"}
    trials = found(*said, "scheduler=none", space=space, trials=6, epochs=2)
    agree(trials, 6)
    assert {"model.width=64"}.isdisjoint(trials.result.overrides)
    assert any(trial.params["model.width"] == "64" for trial in trials.trials)
    assert trials.result.expected is not None
    assert trials.result.expected != trials.result.value
    assert trials.parent.data.metrics["expected"] == pytest.approx(trials.result.expected)


def test_a_trial_that_takes_too_long_has_failed(found) -> None:
    long = "training.epochs=100000", "training.keep=last", "scheduler=none", "tuning.report_every_s=0.1"
    began = time.monotonic()
    timeout = "tuning.trial_timeout_s=0.5", "tuning.most_alike=99"
    why = r"the first 2 failed alike \(tuning.trial_timeout_s: 0.5 was over in epoch \d+; allow more"
    trials = found(*long, *timeout, trials=2, fails=why)
    assert time.monotonic() - began < 60
    assert [trial.state for trial in trials.trials] == [TrialState.FAIL] * 2
    assert [child.data.tags["state"] for child in trials.children] == ["failed"] * 2


def test_the_time_budget_ends_a_search_which_can_go_on(found) -> None:
    began = time.monotonic()
    trials = found("tuning.time_budget_s=12", "scheduler=none", "searcher=random", trials=2000)
    assert time.monotonic() - began < 60
    states = [trial.state for trial in trials.trials]
    assert 1 <= states.count(TrialState.COMPLETE) == trials.result.completed < 2000
    assert states.count(TrialState.RUNNING) <= 4  # two that ran, and what was asked for ahead
    assert len(trials.children) == trials.result.completed


def test_three_that_fail_alike_end_the_search_with_their_error(found) -> None:
    why = r"^trials: the first 3 failed alike \(optimizer: 'torch.optim.AdamW' cannot be built .*Invalid weight_decay"
    broken = {"optimizer.weight_decay": "interval(-2,-1)"}
    trials = found("model=linear", small=DIGITS, space=broken, trials=12, fails=why)
    states = [trial.state for trial in trials.trials]
    assert 3 <= states.count(TrialState.FAIL) < 6
    assert len(states) < 8
    assert all("Invalid weight_decay" in child.data.tags["error"] for child in trials.children)
    assert trials.parent.info.status == "FAILED"


def test_what_is_not_a_number_is_recorded_as_the_worst(found) -> None:
    trials = found(space={"optimizer.lr": "choice(1e-2,1e30)"}, trials=4)
    agree(trials, 4)
    for trial in trials.trials:
        if trial.params["optimizer.lr"] == "1e+30":
            assert (trial.state, trial.value) == (TrialState.COMPLETE, math.inf)
            assert ERROR in trial.user_attrs
    assert math.isfinite(trials.result.value)

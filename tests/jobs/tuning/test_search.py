"""A search on a real Ray: trials ended as they ended, the winner trained from its record, mistakes said once."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from hydra.errors import HydraException
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cluster.ports import free_port
from cluster.storage import storage_path
from cluster.tracking import PARENT, connect
from conf.errors import BadInput
from jobs.training.context import LocalContext
from jobs.training.loop import Loop
from jobs.tuning.grammar import parse_space
from jobs.tuning.replicates import Replicates
from jobs.tuning.search import Search, run_search
from jobs.tuning.space import Space, has_key
from jobs.tuning.sweep import plan
from jobs.tuning.winner import with_winner

DIGITS = ("dataset=digits", "model.width=16", "model.layers=1", "training.epochs=6", "training.patience=6")


def searched(cfg, *said: str, replicates=((),)):
    return Search(cfg, plan(said, searching=True).searched, tuple(replicates))


@pytest.fixture(scope="module")
def found(ray_session):
    import hydra

    from conf import store
    from conf.compose import compose
    from conf.schema import TrainConfig

    store.register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        said = [*DIGITS, "name=found", "tuning.num_samples=6", "scheduler.grace_period=1"]
        cfg = compose("train", said, TrainConfig)
        return cfg, run_search(searched(cfg, "optimizer.lr=tag(log, interval(1e-5, 1e-1))", "model.width=choice(8,32)"))


def test_stopped_trials_are_told_as_pruned_with_their_values(found) -> None:
    cfg, result = found
    journal = storage_path(cfg.cluster) / "tune" / f"{result.run_id}.journal"
    study = optuna.load_study(study_name=result.run_id, storage=JournalStorage(JournalFileBackend(str(journal))))
    states = [trial.state for trial in study.trials]
    assert len(states) == 6
    assert states.count(TrialState.COMPLETE) == result.completed >= 1
    assert states.count(TrialState.PRUNED) == result.pruned >= 1
    for trial in study.trials:
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == 6 if trial.state == TrialState.COMPLETE else len(steps) < 6
    assert study.best_value == pytest.approx(result.value)


def test_optunas_dashboard_opens_the_journal(found) -> None:
    cfg, result = found
    journal = storage_path(cfg.cluster) / "tune" / f"{result.run_id}.journal"
    port = free_port()
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(journal), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            (listed,) = fetched(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
            shown = fetched(f"http://127.0.0.1:{port}/api/studies/{listed['study_id']}")
        finally:
            dashboard.terminate()
    assert listed["study_name"] == result.run_id
    assert [trial["state"] for trial in shown["trials"]].count("Pruned") == result.pruned
    assert len(shown["trials"]) == 6


def fetched(url: str):
    """Return the JSON of a server that may still be starting."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_each_trial_has_a_run_under_the_searchs(found) -> None:
    cfg, result = found
    tracking = connect(cfg.tracking, cfg.cluster)
    parent = tracking.client.get_run(result.run_id)
    children = tracking.client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{result.run_id}'")
    assert (
        sorted(child.data.tags["state"] for child in children)
        == ["complete"] * result.completed + ["pruned"] * result.pruned
    )
    assert all("optimizer.lr" in child.data.params and "val_log_loss" in child.data.metrics for child in children)


def test_the_winner_is_trained_from_its_record(found, train_config) -> None:
    cfg, result = found
    tracking = connect(cfg.tracking, cfg.cluster)
    won = with_winner(train_config("tuned=latest", "name=found", "seed=7"), tracking)
    assert won.seed == 7
    assert won.dataset.name == "digits"
    assert f"optimizer.lr={won.optimizer['lr']!r}" in result.overrides
    with pytest.raises(BadInput, match="no finished tune run of nobody"):
        with_winner(train_config("tuned=latest", "name=nobody"), tracking)


def test_a_search_in_which_all_trials_fail_says_why_once(ray_session, train_config) -> None:
    cfg = train_config("dataset=digits", "model=linear", "tuning.num_samples=3", "name=failing")
    why = r"the first 3 failed alike \(optimizer: 'torch.optim.AdamW' cannot be built .*Invalid weight_decay"
    with pytest.raises(BadInput, match=why):
        run_search(searched(cfg, "optimizer.weight_decay=interval(-2,-1)"))
    tracking = connect(cfg.tracking, cfg.cluster)
    with pytest.raises(BadInput, match="no finished tune run"):
        tracking.find("latest", "tune", "failing")


def test_replicates_in_lockstep_train_as_they_would_alone(houses) -> None:
    from jobs.data.load import load
    from jobs.training.examples import prepare

    configs = [houses(f"seed={seed}", "training.epochs=4", "training.patience=9") for seed in (1, 2)]
    data = prepare(configs[0], load(configs[0].dataset, configs[0].split))
    alone = [list(Loop(cfg, data, LocalContext())) for cfg in configs]
    together = list(Replicates(configs, data))
    assert [epoch.number for epoch in together] == [1, 2, 3, 4]
    for mean, first, second in zip(together, *alone, strict=True):
        assert mean.metrics["val_loss"] == (first.metrics["val_loss"] + second.metrics["val_loss"]) / 2
    assert [epoch.last for epoch in together] == [False, False, False, True]


def test_a_key_that_exists_only_under_a_choice_is_conditional(train_config) -> None:
    cfg = train_config("dataset=digits")
    said = ["model=choice(mlp,linear)", "model.width=choice(8,16)", "optimizer.lr=interval(0.1,0.2)"]
    space = Space("train", tuple(cfg.overrides), plan(said, searching=True).searched)
    for model, keys in (("linear", ["model", "optimizer.lr"]), ("mlp", ["model", "model.width", "optimizer.lr"])):
        trial = optuna.trial.FixedTrial({"model": model, "model.width": "16", "optimizer.lr": 0.15})
        sampled = space.sample(trial)
        assert [override.split("=")[0] for override in sampled] == keys
        assert has_key(space.compose(sampled), "model.width") == (model == "mlp")


@pytest.mark.parametrize(
    "said,why",
    [
        ("model.widht=choice(1,2)", "model.widht: is not a config key; did you mean 'width'"),
        ("training.epohcs=range(1,3)", "did you mean 'epochs'"),
        ("model=choice(mlp,linaer)", "did you mean 'linear'"),
        ("dataset.name=choice(a,b)", "cannot be searched"),
    ],
)
def test_a_dimension_that_is_no_key_ends_before_ray_starts(train_config, said, why) -> None:
    from conf.mistakes import as_bad_input

    cfg = train_config("dataset=digits")
    with pytest.raises((BadInput, HydraException)) as raised:
        run_search(searched(cfg, said))
    assert why in str(as_bad_input(raised.value))


def test_nothing_to_search_is_refused(train_config) -> None:
    with pytest.raises(BadInput, match="leaves nothing to search; add search_space=mlp"):
        run_search(Search(train_config("dataset=digits"), parse_space({})))

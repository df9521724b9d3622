"""What every searcher in conf/searcher does with a finite space, a warm start, bounds and several objectives."""

import math
import shutil

import optuna
import pytest

from cluster.storage import storage_path
from cluster.tracking import connect
from conf.errors import BadInput
from jobs.tuning.journal import WARM, journal_path, read_study
from jobs.tuning.searcher import OVERRIDES
from jobs.tuning.warm import warm_start
from tests.jobs.tuning.searching import CELLS, ENUMERATES, MIXED, NAMES, ask, finish, own_space, rename, run, told

pytestmark = pytest.mark.parametrize("name", NAMES)


def test_a_finite_space_is_enumerated_once(make, name) -> None:
    if name not in ENUMERATES:
        pytest.skip("it samples")
    made = make(name, CELLS, total=50)
    found = [ask(made, str(i)) for i in range(50)]  # none has ended: no cell is given out twice for that
    assert sum(asked is not None for asked in found) == 12
    assert len({asked[1] for asked in found if asked}) == 12
    assert found[12:] == [None] * 38
    resumed = make(name, CELLS, total=50)
    assert [ask(resumed, str(i)) for i in range(13)] == found[:13]
    for i in range(12):
        finish(resumed, str(i), 1.0)
    assert ask(resumed, "end") is None
    made.searcher.close()
    resumed.searcher.close()


def test_warm_start_brings_in_what_fits_and_counts_none_of_it(make, name, train_config) -> None:
    cfg = train_config("dataset=digits", f"searcher={name}", f"name=warm-{name}")
    tracking = connect(cfg.tracking, cfg.cluster)
    run_before = tracking.start(f"warm-{name}", "tune")
    earlier = make(name, CELLS, total=6)
    before = run(earlier, 6)
    earlier.searcher.close()
    path = journal_path(storage_path(cfg.cluster) / "tune", run_before.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(earlier.study._storage._backend._file.name, path)
    rename(path, "study", run_before.id)
    run_before.tag({"metric": "val_log_loss", "mode": "min", "data_hash": "data"})
    wider = {"model.width": "choice(16,32,64)", "model.layers": "range(1,4)"}
    said = f"searcher.warm_start={run_before.id}", f"name=warm-{name}"
    now = make(name, wider, *said, file="now", total=4)
    count = warm_start(now.cfg, now.study, now.space, now.goals, tracking, "data")
    fitting = [o for _, o in before if not {"model.width=8", "model.layers=4"} & set(o)]
    brought = [trial for trial in now.study.trials if WARM in trial.user_attrs]
    assert count == len(brought) == len(fitting)
    assert [tuple(trial.user_attrs[OVERRIDES]) for trial in brought] == fitting
    assert not now.study.own_trials()
    assert len(run(now, 20)) == 4
    assert warm_start(now.cfg, now.study, now.space, now.goals, tracking, "data") == 0
    now.searcher.close()
    other = make(name, wider, *said, file="other")
    with pytest.raises(BadInput, match="searched on other data"):
        warm_start(other.cfg, other.study, other.space, other.goals, tracking, "changed")
    more = make(name, {**wider, "model.embedding": "choice(4,8)"}, *said, file="more")
    assert warm_start(more.cfg, more.study, more.space, more.goals, tracking, "data") == 0


def test_bounds_are_learned_or_refused(make, name) -> None:
    said = ("tuning.constraints={parameters:{max:1000}}",)
    if name not in ("tpe", "gp"):
        with pytest.raises(BadInput, match=r"^tuning.constraints: .* are not for \w+Sampler; say searcher=tpe\.$"):
            make(name, own_space(name), *said)
        return
    made = make(name, MIXED, *said, total=12)
    for i in range(12):
        _, overrides = ask(made, str(i))
        width = int(dict(override.split("=") for override in overrides)["model.width"])
        made.searcher.on_trial_complete(str(i), told(1, 1 / width, i % 5 != 4, parameters=width * 50.0))
    made.searcher.close()
    (best, *_) = made.goals.best(made.study.trials)
    assert best.params["model.width"] == "16"
    assert {
        tuple(trial.constraints.values()) for trial in made.study.trials if trial.params["model.width"] == "32"
    } == {(600.0,)}


def test_several_objectives_give_a_pareto_set_or_are_refused(make, name) -> None:
    said = ("tuning.objectives={val_accuracy:max,parameters:min}", "scheduler=none")
    if name == "cmaes":
        with pytest.raises(BadInput, match=r"^tuning.objectives: .* are several for CmaEsSampler; say searcher=tpe\.$"):
            make(name, own_space(name), *said)
        return
    made = make(name, own_space(name), *said, total=8)
    for i in range(8):
        _, overrides = ask(made, str(i))
        width = int(dict(override.split("=") for override in overrides)["model.width"])
        accuracy = math.nan if i == 3 else (0.5 if i == 4 else 0.9) + width / 1000
        made.searcher.on_trial_complete(str(i), told(1, 0.5, True, val_accuracy=accuracy, parameters=width * 50.0))
    made.searcher.close()
    front = made.goals.best(made.study.trials)
    assert {trial.number for trial in front} == {trial.number for trial in made.study.best_trials}
    assert len({trial.params["model.width"] for trial in front}) == len({tuple(trial.values) for trial in front})
    assert made.study.trials[3].values[0] == -math.inf


def test_optuna_reads_the_journal_while_it_is_written(make, name, tmp_path) -> None:
    made = make(name, own_space(name), total=3)
    ask(made, "a")
    seen = read_study(tmp_path / "study.journal")
    assert isinstance(seen, optuna.Study)
    assert seen.trials[0].user_attrs[OVERRIDES] == list(made.searcher.asked["a"].overrides)
    made.searcher.close()

"""What every searcher in conf/searcher keeps to, without Ray: it is asked and told as Ray Tune would."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

import conf
from cluster.storage import storage_path
from cluster.tracking import connect
from conf.errors import BadInput
from jobs.training.context import EPOCH, LAST, OBJECTIVE, SAMPLES
from jobs.tuning.components import make_sampler
from jobs.tuning.grammar import parse_space
from jobs.tuning.journal import WARM, journal_path, open_study, read_study
from jobs.tuning.objectives import objectives
from jobs.tuning.searcher import ERROR, OVERRIDES, Form, OptunaSearcher
from jobs.tuning.space import Space
from jobs.tuning.trial import CURVE, DIVERGED, FAILED, Asked
from jobs.tuning.warm import warm_start

NAMES = sorted(path.stem for path in (Path(conf.__path__[0]) / "searcher").glob("*.yaml"))
ENUMERATES = ("grid",)
EARLY = dict.fromkeys(("tpe", "gp"), ("searcher.n_startup_trials=4",))  # the model is asked soon
LR, WIDTH, LAYERS = "tag(log, interval(1e-4, 1e-1))", "choice(8,16,32)", "range(1,5)"
NUMBERS = {"optimizer.lr": LR, "model.dropout": "interval(0.0,0.5)", "model.layers": LAYERS}
CELLS = {"model.width": WIDTH, "model.layers": LAYERS}
MIXED = {"optimizer.lr": LR, "model.width": WIDTH, "model.layers": LAYERS}
BRANCHES = {"model": "choice(mlp,linear)", "model.width": "choice(8,16)", "optimizer": "choice(adamw,sgd)"}
WHEN = {"when": {"optimizer=sgd": {"optimizer.momentum": "choice(0.0,0.9)"}}}

pytestmark = pytest.mark.parametrize("name", NAMES)


def own_space(name):
    return CELLS if name in ENUMERATES else MIXED


@pytest.fixture
def make(train_config, tmp_path):
    """Return a maker of searchers; the same file is the same study."""

    def made(name, space, *said, file="study", total=12):
        cfg = train_config("dataset=digits", f"searcher={name}", *EARLY.get(name, ()), *said)
        dimensions = parse_space(space)
        goals = objectives(cfg.tuning, "multiclass", "val_log_loss", str(cfg.scheduler["_target_"]).split(".")[-1])
        study = open_study(
            tmp_path / f"{file}.journal", goals.directions.values(), make_sampler(cfg, dimensions, goals)
        )
        checked = Space("train", tuple(cfg.overrides), dimensions)
        searcher = OptunaSearcher(study, checked, goals, Form(((),)), total, cfg.seed)
        return SimpleNamespace(cfg=cfg, study=study, searcher=searcher, space=checked, goals=goals)

    return made


def ask(made, trial_id):
    """Return what is suggested as (number, overrides), what is asked for ahead waited for; None at the end."""
    said = made.searcher.suggest(trial_id)
    if made.searcher._ahead:
        made.searcher._ahead.result()
    if said == made.searcher.FINISHED:
        return None
    asked = Asked.from_dict(said)
    sampled = made.searcher.asked[trial_id]
    assert (asked.number, asked.overrides) == (sampled.number, sampled.overrides)
    assert asked.said() == list(sampled.overrides)
    return sampled.number, sampled.overrides


def told(epoch, value, last=False, **more):
    return {EPOCH: epoch, SAMPLES: epoch * 100, OBJECTIVE: value, LAST: last, **more}


def value_of(overrides):
    """Return a smooth objective of a config, the less the better."""
    said = dict(override.split("=") for override in overrides)
    lr, width = float(said.get("optimizer.lr", 0.01)), float(said.get("model.width", 8))
    return (math.log10(lr) + 2) ** 2 + abs(width - 16) / 16 + float(said.get("model.layers", 1)) / 10


def finish(made, trial_id, value):
    made.searcher.on_trial_complete(trial_id, told(3, value, True, **{CURVE: [told(e, value + 3 - e) for e in (1, 2)]}))


def run(made, count, prefix="t"):
    """Ask and tell one after another; every third is stopped after its first epoch."""
    found = []
    for i in range(count):
        if (asked := ask(made, f"{prefix}{i}")) is None:
            break
        value = value_of(asked[1])
        if i % 3 == 2:
            made.searcher.on_trial_complete(f"{prefix}{i}", told(1, value + 1))
        else:
            finish(made, f"{prefix}{i}", value)
        found.append(asked)
    return found


def test_suggests_within_the_space_and_ends_after_num_samples(make, name) -> None:
    space = own_space(name)
    made = make(name, space, total=10)
    found = run(made, 20)
    made.searcher.close()
    assert [number for number, _ in found] == list(range(10))
    assert len(made.study.trials) == 10
    for _, overrides in found:
        said = dict(override.split("=") for override in overrides)
        assert set(said) == set(space)
        assert int(said["model.width"]) in (8, 16, 32)
        assert int(said["model.layers"]) in (1, 2, 3, 4)
        assert 1e-4 <= float(said.get("optimizer.lr", 0.01)) <= 1e-1
    assert len({overrides for _, overrides in found}) > 5
    assert made.space.compose(found[-1][1]).model["width"] == int(said["model.width"])


def test_numbers_alone_are_searched_too(make, name) -> None:
    if name in ENUMERATES:
        with pytest.raises(BadInput, match=r"^model.dropout: .*is an interval, which no grid enumerates; write choice"):
            make(name, {"model.dropout": NUMBERS["model.dropout"]})
        return
    made = make(name, NUMBERS, total=9)
    for _, overrides in run(made, 9):
        assert 0 <= float(dict(override.split("=") for override in overrides)["model.dropout"]) <= 0.5
    made.searcher.close()


def test_a_trial_is_told_as_it_ended(make, name) -> None:
    made = make(name, own_space(name), total=5)
    searcher, study = made.searcher, made.study
    for trial_id in ("finished", "stopped", "wrong", "dead", "diverged"):
        ask(made, trial_id)
    searcher.on_trial_result("finished", told(2, 0.5, **{CURVE: [told(1, 0.7), told(2, 0.5)]}))
    searcher.on_trial_complete("finished", told(3, 0.4, True))
    searcher.on_trial_result("stopped", told(1, 0.9))
    searcher.on_trial_result("stopped", told(1, 0.9))  # a report that comes again after a restart
    searcher.on_trial_complete("stopped", told(3, 0.8, **{CURVE: [told(2, 0.85), told(3, 0.8)]}))
    searcher.on_trial_result("wrong", told(1, 0.9))
    searcher.on_trial_complete("wrong", {FAILED: "model: cannot be built; see conf/model.", "done": True})
    searcher.on_trial_complete("dead", error=True)
    searcher.on_trial_complete("diverged", told(2, math.inf, True, **{DIVERGED: "the loss is not finite"}))
    searcher.close()
    trials = {key: study.trials[asked.number] for key, asked in searcher.asked.items()}
    states = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE
    assert tuple(trial.state for trial in trials.values()) == states
    assert (trials["finished"].value, trials["finished"].intermediate_values) == (0.4, {1: 0.7, 2: 0.5, 3: 0.4})
    assert trials["stopped"].intermediate_values == {1: 0.9, 2: 0.85, 3: 0.8}
    assert trials["wrong"].user_attrs[ERROR] == "model: cannot be built; see conf/model."
    assert trials["dead"].user_attrs[ERROR] == "its process died"
    assert (trials["diverged"].value, trials["diverged"].user_attrs[ERROR]) == (math.inf, "the loss is not finite")


def test_the_worst_value_breaks_no_later_suggestion(make, name) -> None:
    made = make(name, own_space(name), total=9)
    for i in range(9):
        number, overrides = ask(made, str(i))
        value = math.inf if number in (1, 5) else value_of(overrides)
        made.searcher.on_trial_complete(str(i), told(1, value, last=number != 7))
    made.searcher.close()
    assert len(made.study.trials) == 9
    assert made.goals.best(made.study.trials)[0].value < math.inf


def test_all_worst_values_break_nothing(make, name) -> None:
    made = make(name, own_space(name), total=7)
    for i in range(7):
        ask(made, str(i))
        made.searcher.on_trial_complete(str(i), told(1, math.inf, last=True))
    made.searcher.close()
    assert len(made.study.trials) == 7


def test_a_key_is_suggested_only_where_it_exists(make, name) -> None:
    space = {**BRANCHES, **WHEN} if name in ENUMERATES else {**BRANCHES, "optimizer.lr": LR, **WHEN}
    most = 9 if name == "gp" else 24
    made = make(name, space, total=most)
    found = run(made, most)
    made.searcher.close()
    shapes = {}
    for _, overrides in found:
        said = dict(override.split("=") for override in overrides)
        shapes[said["model"], said["optimizer"]] = overrides
        assert ("model.width" in said) == (said["model"] == "mlp")
        assert ("optimizer.momentum" in said) == (said["optimizer"] == "sgd")
    for overrides in shapes.values():
        made.space.compose(overrides)  # Hydra refuses a key that does not exist
    assert len(shapes) == 4 or name == "gp"
    if name in ENUMERATES:  # mlp has two widths, sgd two momenta; linear has no width
        assert len(found) == len({overrides for _, overrides in found}) == 3 * 3


def test_the_same_seed_suggests_the_same(make, name) -> None:
    one, again = (run(make(name, own_space(name), file=file), 8) for file in ("a", "b"))
    assert one == again
    other = run(make(name, own_space(name), "seed=1", file="c"), 8)
    assert [overrides for _, overrides in other] != [overrides for _, overrides in one]


@pytest.mark.parametrize("space", ["own", "conditional"])
def test_an_interrupted_search_goes_on_as_if_nothing_had_been(make, name, space, tmp_path) -> None:
    own = own_space(name) if space == "own" else {**BRANCHES, "model.layers": LAYERS}
    most = 11  # six that ended, two that run, one asked for ahead, two more
    made = make(name, own, total=most)
    done = run(made, 6)
    running = [ask(made, "x"), ask(made, "y")]  # and one more is asked for ahead
    made.searcher.on_trial_result("x", told(1, 0.9))
    shutil.copy(tmp_path / "study.journal", tmp_path / "copy.journal")
    rename(tmp_path / "copy.journal", "study", "copy")
    resumed = make(name, own, file="copy", total=most)
    ahead = ask(made, "z")
    assert [ask(resumed, trial_id) for trial_id in ("x", "y", "z")] == [*running, ahead]
    assert resumed.study.trials[running[0][0]].intermediate_values == {1: 0.9}
    for of in (made, resumed):  # what was asked for ahead knew as much in both
        for trial_id in ("x", "y", "z"):
            finish(of, trial_id, value_of(of.searcher.asked[trial_id].overrides))
    rest, anew = run(made, 9, "r"), run(resumed, 9, "r")
    assert rest == anew
    assert [number for number, _ in [*done, *running, ahead, *anew]] == list(range(most))
    made.searcher.close()
    resumed.searcher.close()
    third = make(name, own, file="copy", total=most)
    assert ask(third, "q") is None
    third.searcher.close()


def rename(path, before, after):
    """Give the study in a journal another name (a study is found by its file's)."""
    path.write_text(path.read_text().replace(f'"study_name":"{before}"', f'"study_name":"{after}"', 1))


def test_a_trial_that_was_half_asked_for_is_asked_on(make, name, tmp_path) -> None:
    made = make(name, own_space(name), total=4)
    first = ask(made, "a")
    made.searcher.close()
    lines = (tmp_path / "study.journal").read_text().splitlines(keepends=True)
    cut = next(i for i in reversed(range(len(lines))) if OVERRIDES in lines[i])
    whole = read_study(tmp_path / "study.journal").trials[1].user_attrs[OVERRIDES]
    (tmp_path / "half.journal").write_text("".join(lines[: cut - 1]) + lines[cut - 1][:9])
    rename(tmp_path / "half.journal", "study", "half")
    half = make(name, own_space(name), file="half", total=4)
    assert half.study.trials[1].state == TrialState.RUNNING
    assert ask(half, "a") == first
    number, overrides = ask(half, "b")
    assert (number, overrides[:-1], len(overrides)) == (1, tuple(whole[:-1]), len(whole))
    half.searcher.close()


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
    said = ("+tuning.constraints={parameters:{max:1000}}",)
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
    said = ("+tuning.objectives={val_accuracy:max,parameters:min}", "scheduler=none")
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

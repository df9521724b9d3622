"""What every searcher in conf/searcher keeps to, without Ray: it is asked and told as Ray Tune would."""

import math
import shutil

import pytest
from optuna.trial import TrialState

from conf.errors import BadInput
from jobs.tuning.journal import read_study
from jobs.tuning.searcher import ERROR, OVERRIDES
from jobs.tuning.trial import CURVE, DIVERGED, FAILED
from tests.jobs.tuning.searching import (
    BRANCHES,
    ENUMERATES,
    LAYERS,
    LR,
    NAMES,
    NUMBERS,
    WHEN,
    ask,
    finish,
    own_space,
    rename,
    run,
    told,
    value_of,
)

pytestmark = pytest.mark.parametrize("name", NAMES)


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
    searcher.begun.add("dead")
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


def test_a_trial_whose_process_died_before_it_ran_is_handed_out_again(make, name) -> None:
    made = make(name, own_space(name), total=3)
    first, second, third = (ask(made, trial_id) for trial_id in ("a", "b", "c"))
    made.searcher.begun.add("b")
    for trial_id in ("a", "b"):
        made.searcher.on_trial_complete(trial_id, error=True)
    assert ask(made, "d") == first
    assert ask(made, "e") is None
    for trial_id in ("c", "d"):
        finish(made, trial_id, 0.5)
    assert made.searcher.suggest("f") == made.searcher.FINISHED
    states = {trial.number: trial.state for trial in made.study.trials}
    assert states[second[0]] == TrialState.FAIL
    assert states[first[0]] == states[third[0]] == TrialState.COMPLETE
    made.searcher.close()

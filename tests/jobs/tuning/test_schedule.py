"""What a schedule does with learning curves: counted by hand, against the definition of ASHA, and by properties."""

import math
import time

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.schedulers import PopulationBasedTraining as Population

from conf.errors import BadInput
from jobs.training.epoch import EPOCH, OBJECTIVE, SAMPLES
from jobs.tuning.journal import WARM
from jobs.tuning.schedule import Curve, curves_of, expected_epochs, replayed, rungs_of, simulate

ROWS = 120


def asha(mode="max", grace=1, factor=2.0, max_t=4, unit=1, **more):
    of_time = {"time_attr": EPOCH if unit == 1 else SAMPLES, "max_t": max_t * unit, "grace_period": grace * unit}
    return ASHAScheduler(metric=OBJECTIVE, mode=mode, reduction_factor=factor, **of_time, **more)


def median(mode="max", **more):
    return MedianStoppingRule(metric=OBJECTIVE, mode=mode, **{"time_attr": EPOCH, "grace_period": 1, **more})


def flat(*levels, epochs=4):
    return [Curve(number, (level,) * epochs, finished=True) for number, level in enumerate(levels)]


@pytest.mark.parametrize(
    "levels,stopped,epochs",
    [
        ((4, 3, 2, 1), {1: 1, 2: 1, 3: 1}, 7),  # always worse than the best half of those before: 4 + 1 + 1 + 1
        ((1, 2, 3, 4), {}, 16),  # always the best so far
        ((4, 1, 3, 2), {1: 1, 2: 2, 3: 1}, 8),  # 3 is among the best two of three, but not at the next rung
        ((2, 2, 2, 2), {}, 16),  # equals go on
    ],
)
def test_asha_keeps_the_best_half_of_those_seen_at_a_rung(levels, stopped, epochs) -> None:
    done = simulate(asha(), flat(*levels), 1, ROWS, "max")
    assert (done.stopped, done.epochs, done.unknown, done.rungs) == (stopped, epochs, (), (1, 2, 4))
    mirrored = simulate(asha("min"), flat(*(-level for level in levels)), 1, ROWS, "min")
    assert mirrored == done


def test_asha_in_two_slots_decides_by_what_was_there_in_time() -> None:
    late = [Curve(0, (1, 1, 1, 1), True), Curve(1, (0, 9, 9, 9), True), Curve(2, (5, 5, 5, 5), True)]
    done = simulate(asha(), late, 2, ROWS, "max")
    # epoch 1: trial 0 is the first, trial 1 is worse; trial 2 starts then and is the best at both rungs
    assert (done.stopped, done.epochs) == ({1: 1}, 9)
    crossing = [Curve(0, (3, 3, 3, 3), True), Curve(1, (4, 2, 2, 2), True)]
    assert [simulate(asha(), crossing, slots, ROWS, "max").stopped for slots in (1, 2)] == [{1: 2}, {1: 2}]
    assert simulate(asha(), crossing[::-1], 1, ROWS, "max").stopped == {0: 1}


def reference(curves, factor, rungs):
    """ASHA as Li et al. 2020 define it, one trial after another, with Ray's interpolation between ranks."""
    seen, stopped = {rung: [] for rung in rungs}, {}
    for curve in curves:
        for rung in rungs:
            if rung >= len(curve.values):
                if rung == len(curve.values):
                    seen[rung].append(curve.values[-1])
                break
            others, value = sorted(seen[rung]), curve.values[rung - 1]
            seen[rung].append(value)
            if others:
                place = (1 - 1 / factor) * (len(others) - 1)
                below, above = others[math.floor(place)], others[math.ceil(place)]
                if value < below + (above - below) * (place - math.floor(place)):
                    stopped[curve.number] = rung
                    break
    return stopped


EPOCHS = st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=9)
CURVES = st.lists(st.tuples(EPOCHS, st.booleans()), max_size=14).map(
    lambda made: [Curve(number, tuple(values), finished) for number, (values, finished) in enumerate(made)]
)
SLOTS, MODE = st.integers(1, 5), st.sampled_from(["max", "min"])
MAKE = st.sampled_from([asha, median, lambda mode: asha(mode, brackets=2), lambda _: FIFOScheduler()])


@given(st.lists(EPOCHS, max_size=14), st.sampled_from([2, 4]))
def test_asha_is_the_papers(made, factor) -> None:
    curves = [Curve(number, tuple(values), True) for number, values in enumerate(made)]
    rungs = tuple(factor**k for k in range(4) if factor**k < 9)
    done = simulate(asha(factor=factor, max_t=9), curves, 1, ROWS, "max")
    assert done.rungs == (*rungs, 9)
    assert done.stopped == reference(curves, factor, rungs)


@given(MAKE, CURVES, SLOTS, MODE)
def test_every_trial_ends_once_and_nothing_is_trained_that_was_not_recorded(make, curves, slots, mode) -> None:
    done = simulate(make(mode), curves, slots, ROWS, mode)
    assert set(done.stopped).isdisjoint(done.unknown)
    assert done.epochs == sum(done.stopped.get(curve.number, len(curve.values)) for curve in curves)
    assert done.epochs <= sum(len(curve.values) for curve in curves)
    for curve in curves:
        assert curve.number not in done.stopped or 1 <= done.stopped[curve.number] <= len(curve.values)
        assert (curve.number in done.unknown) == (not curve.finished and curve.number not in done.stopped)


@given(CURVES, SLOTS)
def test_without_a_schedule_nothing_is_stopped(curves, slots) -> None:
    assert simulate(FIFOScheduler(), curves, slots, ROWS, "max").stopped == {}


@given(CURVES, st.floats(-99, 99))
def test_until_its_next_rung_an_unknown_trial_goes_on_whatever_comes(curves, value) -> None:
    done = simulate(asha(max_t=16), curves, len(curves) or 1, ROWS, "max")
    for number in done.unknown:
        known = len(curves[number].values)
        rung = min(rung for rung in done.rungs if rung > known)
        longer = [*curves]
        longer[number] = Curve(number, (*curves[number].values, *[value] * (rung - 1 - known)), finished=False)
        again = simulate(asha(max_t=16), longer, len(curves), ROWS, "max")
        assert (again.stopped, again.unknown) == (done.stopped, done.unknown)
        assert again.epochs == done.epochs + rung - 1 - known


@given(CURVES, SLOTS, MODE, st.integers(2, 5000), st.sampled_from([asha, median]))
def test_samples_and_epochs_give_the_same_decisions(curves, slots, mode, rows, make) -> None:
    in_samples = {"unit": rows} if make is asha else {"time_attr": SAMPLES, "grace_period": rows}
    by_epochs = simulate(make(mode), curves, slots, rows, mode)
    assert simulate(make(mode, **in_samples), curves, slots, rows, mode) == by_epochs


@pytest.mark.parametrize(
    "scheduler,rungs",
    [
        (asha(grace=2, factor=3, max_t=20), (2, 6, 18, 20)),
        (asha(grace=1, factor=3, max_t=9, stop_last_trials=False), (1, 3, 9)),
        (asha(grace=2, factor=3, max_t=20, stop_last_trials=False), (2, 6, 18)),
        (asha(grace=2, factor=3, max_t=20, brackets=2), (2, 6, 18, 20)),
        (asha(grace=5, factor=3, max_t=5), (5,)),
        (asha(grace=2, factor=1.5, max_t=8), (2, 3, 5, 7, 8)),  # 2, 3, 4.5 and 6.75
        (median(), ()),
        (FIFOScheduler(), ()),
    ],
)
def test_rungs_are_in_epochs(scheduler, rungs) -> None:
    assert rungs_of(scheduler, ROWS) == rungs


@given(st.data(), st.integers(1, 12), st.integers(0, 40), st.floats(1.2, 6), st.sampled_from([1, 7]), st.booleans())
def test_a_trial_is_stopped_at_the_rungs_and_nowhere_else(data, grace, more, factor, unit, ends_all) -> None:
    named = {"metric": OBJECTIVE, "mode": "max", "time_attr": EPOCH if unit == 1 else SAMPLES}
    named |= {"max_t": (grace + more) * unit, "grace_period": grace, "reduction_factor": factor}  # many in one epoch
    scheduler = ASHAScheduler(**named, stop_last_trials=ends_all)
    rungs = rungs_of(scheduler, unit)
    falls = data.draw(st.integers(1, rungs[-1]))
    curves = [Curve(0, (9.0,) * 60, True), Curve(1, (9.0,) * (falls - 1) + (0.0,) * (60 - falls), True)]
    assert simulate(scheduler, curves, 1, unit, "max").stopped[1] == min(rung for rung in rungs if rung >= falls)


def test_a_trial_that_finishes_is_not_judged_but_counts() -> None:
    curves = [Curve(0, (5.0, 5.0), True), Curve(1, (9.0, 1.0), True), Curve(2, (9.0, 3.0, 3.0), True)]
    done = simulate(asha(), curves, 1, ROWS, "max")
    assert done.stopped == {}  # trial 1 ends below the cutoff; with its 1 the half lies at 3, where trial 2 is


def test_max_t_stops_all_unless_told_otherwise() -> None:
    rising = flat(1, 2, 3, epochs=6)
    assert simulate(asha(), rising, 1, ROWS, "max").stopped == {0: 4, 1: 4, 2: 4}
    assert simulate(asha(stop_last_trials=False), rising, 1, ROWS, "max").stopped == {}


def test_the_median_rule_by_hand() -> None:
    done = simulate(median(), flat(3, 2, 1, 0, 2.5), 1, ROWS, "max")
    assert (done.stopped, done.epochs) == ({3: 1}, 17)  # of the three before, the median is 2; then 1.5 and 2
    assert simulate(median("min"), flat(-3, -2, -1, 0, -2.5), 1, ROWS, "min") == done
    assert simulate(median(min_samples_required=9), flat(3, 2, 1, 0, 2.5), 2, ROWS, "max").stopped == {}


def test_neither_nan_nor_infinity_stops_the_others() -> None:
    nan, worst = math.nan, -math.inf
    assert simulate(asha(), flat(3, nan, 1), 1, ROWS, "max").stopped == {2: 1}
    assert simulate(asha(), flat(nan, nan, 1), 1, ROWS, "max").stopped == {}
    assert simulate(asha(), flat(3, worst, 2, 1), 1, ROWS, "max").stopped == {1: 1, 2: 2, 3: 1}
    assert simulate(asha(), flat(worst, worst, worst, 2, 1), 1, ROWS, "max").stopped == {}  # 2 and 1 are the best two
    assert simulate(asha(), flat(2, worst, worst, 1), 1, ROWS, "max").stopped == {1: 1, 2: 2}  # no cutoff near infinity
    assert simulate(asha("min"), flat(-2, math.inf, math.inf, -1), 1, ROWS, "min").stopped == {1: 1, 2: 2}
    assert simulate(median(), flat(3, 2, 1, worst), 1, ROWS, "max").stopped == {3: 1}


Own = type("Own", (FIFOScheduler,), {})
Odd = type("Odd", (ASHAScheduler,), {"on_trial_result": lambda *_: TrialScheduler.PAUSE})
PBT = Population(time_attr=EPOCH, hyperparam_mutations={"lr": [1, 2]})


@pytest.mark.parametrize(
    "scheduler,does",
    [
        (HyperBandScheduler(time_attr=EPOCH), "'HyperBandScheduler' pauses trials until the others of their bracket"),
        (PBT, "'PopulationBasedTraining' goes on from other trials' weights with perturbed settings"),
        (median(hard_stop=False), "'MedianStoppingRule' pauses trials"),
        (Odd(metric=OBJECTIVE, mode="max", time_attr=EPOCH), "'Odd' pauses trials"),
        (Own(), "'Own' pauses trials, or may do more than stop them"),
    ],
)
def test_what_does_more_than_stop_is_refused(scheduler, does) -> None:
    with pytest.raises(BadInput, match=rf"^scheduler: {does}.*; replay asha, median or none\.$"):
        simulate(scheduler, flat(3, 2, 1, 0), 1, ROWS, "max")


@pytest.mark.parametrize("attr", ["epochs", "time_total_s", "training_iteration"])
def test_a_time_that_curves_do_not_have_is_refused(attr) -> None:
    for scheduler in (median(time_attr=attr), ASHAScheduler(metric=OBJECTIVE, mode="max", time_attr=attr)):
        with pytest.raises(BadInput, match=f"scheduler.time_attr: '{attr}' is not known .*; say epoch or samples"):
            simulate(scheduler, flat(1), 1, ROWS, "max")


def test_brackets_are_drawn_alike_each_time_and_the_processs_stream_is_left_alone() -> None:
    curves = flat(*range(40, 0, -1), epochs=16)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    done = simulate(asha(max_t=16, brackets=3), curves, 2, ROWS, "max")
    assert np.random.random() == expected
    assert simulate(asha(max_t=16, brackets=3), curves, 2, ROWS, "max") == done
    assert set(done.stopped.values()) == {1, 2, 4}  # the first rung of each bracket


def test_a_thousand_trials_take_seconds() -> None:
    rng = np.random.default_rng(0)
    curves = [Curve(number, tuple(rng.normal(size=50).cumsum()), True) for number in range(1000)]
    begun = time.perf_counter()
    simulate(asha(factor=3, max_t=50), curves, 8, ROWS, "max")
    simulate(FIFOScheduler(), curves, 8, ROWS, "max")
    expected_epochs(median, 1000, 30, 8, ROWS, "max")
    assert time.perf_counter() - begun < 15


def test_a_kept_winner_and_what_it_costs() -> None:
    curves = [*flat(4, 2), Curve(2, (3.0,), finished=False)]
    assert replayed(curves, simulate(asha(), curves, 1, ROWS, "max"), 0, "max") == [
        "keeps the winner, trial 0 with 4",
        "at least 6 epochs against 9 recorded (67%)",
        "1 of 3 curves end before this schedule decides: their rest is not known",
    ]


@pytest.mark.parametrize("mode,sign", [("max", 1), ("min", -1)])
def test_a_stopped_winner_and_who_wins_instead(mode, sign) -> None:
    values = (4, 4, 4, 4), (1, 8, 8, 8.5), (5, 5, 5, 5)
    curves = [Curve(number, tuple(sign * value for value in own), True) for number, own in enumerate(values)]
    assert replayed(curves, simulate(asha(mode), curves, 1, ROWS, mode), 1, mode) == [
        f"stops the winner, trial 1 with {sign * 8.5}, after epoch 1",
        f"trial 2 would have won with {sign * 5}, 3.5 worse",
        "9 epochs against 12 recorded (75%)",
    ]


def test_where_nobody_is_left_nothing_is_claimed() -> None:
    curves = [Curve(0, (9.0,), finished=False), *flat(1, 8)[1:]]
    lines = replayed(curves, simulate(asha(), curves, 1, ROWS, "max"), 1, "max")
    assert lines[1] == "no other trial is known to its end: what would have won is not known"


def test_the_expected_cost_of_a_plan() -> None:
    plan = {"trials": 40, "epochs": 20, "slots": 4, "rows": ROWS, "mode": "max"}
    assert expected_epochs(FIFOScheduler, **plan) == 800
    assert expected_epochs(lambda: HyperBandScheduler(time_attr=EPOCH), **plan) == 800
    lenient = expected_epochs(lambda: asha("max", 2, 2, 20), **plan)
    strict = expected_epochs(lambda: asha("max", 2, 4, 20), **plan)
    assert 80 <= strict < lenient < 800
    assert strict == expected_epochs(lambda: asha("max", 2, 4, 20), **plan)
    assert strict == expected_epochs(lambda: asha("min", 2, 4, 20), **{**plan, "mode": "min"})
    assert strict != expected_epochs(lambda: asha("max", 2, 4, 20), **plan, seed=1)
    assert 300 < expected_epochs(median, **{**plan, "trials": 300}) < 6000


def test_a_scheduler_that_cannot_be_made_is_not_taken_for_one_without_a_plan() -> None:
    with pytest.raises(AssertionError, match="grace_period"):
        expected_epochs(lambda: asha(grace=9, max_t=4), 4, 5, 2, ROWS, "max")


def test_the_curves_of_a_study() -> None:
    study = optuna.create_study(direction="minimize", study_name="seen")
    steps = {2: 0.5, 1: math.inf, 3: 0.25}
    for state, own, attributes in (
        (TrialState.COMPLETE, steps, {}),
        (TrialState.PRUNED, {1: 3.0}, {}),
        (TrialState.FAIL, {1: 4.0}, {}),
        (TrialState.RUNNING, {1: 5.0}, {}),
        (TrialState.COMPLETE, {1: 6.0}, {WARM: "earlier"}),
        (TrialState.PRUNED, {}, {}),
    ):
        value = 0.25 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, intermediate_values=own, user_attrs=attributes))
    assert curves_of(study) == [Curve(0, (math.inf, 0.5, 0.25), True), Curve(1, (3.0,), False)]
    with pytest.raises(BadInput, match="replay: 'none' has no learning curves; name a search for one objective"):
        curves_of(optuna.create_study(study_name="none"))

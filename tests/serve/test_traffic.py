"""Which variant answers: sticky, in proportion, moved no more than the weights were, and ramped by the clock alone."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from cluster.policy import check_traffic
from conf.compose import compose
from conf.schema import DeployConfig
from conf.service import Ramp, Traffic
from serve.traffic import assign, weights_at

NAMES = ("champion", "challenger", "shadow", "staging")
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.just(0.0) | st.floats(1e-6, 1.0), min_size=1).filter(
    lambda weights: any(weights.values())
)
UNITS = range(20_000)
SALTS = tuple(f"test {i}" for i in range(10))  # several: one salt in a thousand fails at p = 0.001, and rightly


def dealt(ab_test: str, weights: dict[str, float]) -> list[str]:
    return [assign(ab_test, str(unit), weights) for unit in UNITS]


@given(st.text(), st.text(), WEIGHTS)
def test_the_same_answer_whatever_the_order_and_scale(ab_test, unit, weights) -> None:
    chosen = assign(ab_test, unit, weights)
    assert assign(ab_test, unit, weights) == chosen
    assert assign(ab_test, unit, dict(reversed(weights.items()))) == chosen
    assert assign(ab_test, unit, {name: weight / 4 for name, weight in weights.items()}) == chosen
    assert weights[chosen] > 0


@given(st.text(), st.text(), WEIGHTS, WEIGHTS)
def test_a_unit_moves_only_to_who_gained_or_from_who_lost(ab_test, unit, before, after) -> None:
    was, now = assign(ab_test, unit, before), assign(ab_test, unit, after)
    assume(was != now)
    assert after.get(now, 0) > before.get(now, 0) or after.get(was, 0) < before.get(was, 0)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (0.99, 0.01), (0.4, 0.3, 0.2, 0.1)])
def test_weights_are_respected(weights) -> None:
    shares = dict(zip(NAMES, weights, strict=False))
    expected = [len(UNITS) * weight for weight in weights]
    total = 0.0
    for ab_test in SALTS:
        counts = Counter(dealt(ab_test, shares))
        total += chisquare([counts[name] for name in shares], expected).statistic
    # independent salts: their statistics add up to one of as many times the degrees of freedom
    assert chi2.sf(total, len(SALTS) * (len(weights) - 1)) > 1e-3


def test_no_more_units_move_than_the_weights_did() -> None:
    before = dealt("default", {"champion": 0.9, "challenger": 0.1})
    after = dealt("default", {"champion": 0.6, "challenger": 0.4})
    moved = Counter((was, now) for was, now in zip(before, after, strict=True) if was != now)
    assert set(moved) == {("champion", "challenger")}
    assert moved["champion", "challenger"] / len(UNITS) == pytest.approx(0.3, abs=0.015)


def test_a_new_test_deals_the_units_anew() -> None:
    half = {"champion": 0.5, "challenger": 0.5}
    pairs = Counter(zip(dealt("a", half), dealt("b", half), strict=True))
    assert len(pairs) == 4
    assert chisquare(list(pairs.values())).pvalue > 1e-3


def test_weight_zero_never_answers() -> None:
    assert set(dealt("default", {"champion": 1e-9, "challenger": 0.0})) == {"champion"}
    for nobody in ({}, {"champion": 0.0}):
        with pytest.raises(ValueError, match="no variant has a weight above 0"):
            assign("default", "u", nobody)


@st.composite
def ramped(draw: st.DrawFn) -> Traffic:
    """A checked policy with a ramp that started at 1,000 s."""
    drawn = draw(st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 1.0), min_size=1))
    alias = draw(st.sampled_from(NAMES[1:]))
    assume(set(drawn) != {alias})
    weights = {name: weight / sum(drawn.values()) for name, weight in drawn.items()}
    lowest = weights.get(alias, 1e-4)
    steps = sorted(draw(st.lists(st.floats(lowest, 1.0), min_size=1, max_size=4, unique=True)))
    traffic = Traffic(draw(st.text()), weights, [], Ramp(alias, steps, draw(st.floats(0.1, 1e4)), 1000.0))
    check_traffic(traffic)
    return traffic


@given(ramped(), st.floats(0, 1e6))
def test_a_ramp_has_weights_of_every_moment_that_sum_to_1(traffic, now) -> None:
    weights = weights_at(traffic, now)
    ramp = traffic.ramp
    assert sum(weights.values()) == pytest.approx(1)
    assert set(weights) <= {*traffic.weights, ramp.alias}
    if now < 1000:
        assert weights == traffic.weights
        return
    passed = int((now - 1000) // ramp.dwell_s)
    assert weights[ramp.alias] == ramp.steps[min(passed, len(ramp.steps) - 1)]
    others = [name for name in traffic.weights if name != ramp.alias]
    for one in others:
        for other in others:
            assert weights[one] * traffic.weights[other] == pytest.approx(weights[other] * traffic.weights[one])


@given(ramped(), st.lists(st.text(), max_size=20), st.lists(st.floats(900, 1e5), min_size=2, max_size=6).map(sorted))
def test_under_a_ramp_a_unit_only_moves_to_the_ramped_variant_and_stays(traffic, units, moments) -> None:
    for unit in units:
        was = assign(traffic.ab_test, unit, weights_at(traffic, moments[0]))
        for now in moments[1:]:
            chosen = assign(traffic.ab_test, unit, weights_at(traffic, now))
            assert chosen in (was, traffic.ramp.alias)
            was = chosen


def test_a_ramp_gives_its_shares_step_by_step() -> None:
    traffic = Traffic("ab", {"champion": 1.0}, [], Ramp("challenger", [0.01, 0.1, 1.0], 600.0, 1000.0))
    for now, share in ((999, 0.0), (1000, 0.01), (1599, 0.01), (1600, 0.1), (2200, 1.0), (1e12, 1.0)):
        counts = Counter(dealt("ab", weights_at(traffic, now)))
        assert counts["challenger"] / len(UNITS) == pytest.approx(share, abs=0.01)
        assert (counts["challenger"] == 0) == (share == 0)
        assert (counts["champion"] == 0) == (share == 1)
    assert weights_at(replace(traffic, ramp=Ramp()), 1600) == {"champion": 1.0}


def test_a_policy_is_said_on_the_command_line() -> None:
    said = ["traffic=ab", "traffic.weights={champion:0.9,challenger:0.1}", "traffic.shadow=[shadow]"]
    cfg = compose("deploy", ["name=flights", *said], DeployConfig)
    assert cfg.traffic == Traffic("ab", {"champion": 0.9, "challenger": 0.1}, ["shadow"], Ramp())
    ramp = "traffic.ramp={alias: challenger, steps: [0.01, 0.1, 0.5], dwell_s: 60}"
    cfg = compose("deploy", ["name=flights", ramp], DeployConfig)
    assert cfg.traffic == Traffic("default", {"champion": 1.0}, [], Ramp("challenger", [0.01, 0.1, 0.5], 60.0))

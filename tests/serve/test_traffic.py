"""Which variant answers: sticky, in proportion, and moved no more than the weights were."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from serve.traffic import assign

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

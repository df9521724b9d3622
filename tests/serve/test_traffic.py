"""Sticky assignment: the same everywhere, in proportion, and units move only if they must."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from serve.traffic import assign

VARIANTS = ("champion", "challenger", "staging")
WEIGHTS = st.fixed_dictionaries({name: st.integers(0, 10).map(float) for name in VARIANTS}).filter(
    lambda weights: sum(weights.values()) > 0
)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)])
def test_shares_are_the_weights(weights) -> None:
    given_weights = dict(zip(VARIANTS, weights, strict=False))
    counts = Counter(assign("test", f"unit-{i}", given_weights) for i in range(20_000))
    expected = [weight * 20_000 for weight in weights]
    assert chisquare([counts[name] for name in given_weights], expected).pvalue > 1e-3


@given(st.text(), WEIGHTS, WEIGHTS)
def test_a_unit_moves_only_towards_what_gained_or_away_from_what_lost(unit, before, after) -> None:
    first, second = assign("t", unit, before), assign("t", unit, after)
    assert first == assign("t", unit, dict(reversed(before.items())))
    if first != second:
        gained = after[second] / sum(after.values()) > before[second] / sum(before.values())
        lost = after[first] / sum(after.values()) < before[first] / sum(before.values())
        assert gained or lost


def test_weight_nought_never_answers_and_a_new_test_deals_anew() -> None:
    assert {assign("t", str(i), {"a": 1.0, "b": 0.0}) for i in range(1000)} == {"a"}
    both = {"a": 0.5, "b": 0.5}
    moved = sum(assign("one", str(i), both) != assign("two", str(i), both) for i in range(2000))
    assert 900 < moved < 1100
    with pytest.raises(ValueError, match="no variant"):
        assign("t", "u", {"a": 0.0})

"""The traffic policy: what holds together and what does not, and that it is read as it was written."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.policy import aliases_of, check_traffic, describe, from_json, started, to_json
from conf.errors import BadInput
from conf.service import Ramp, Traffic

STEPS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5, unique=True).map(sorted)
RAMPS = st.just(Ramp()) | st.builds(
    Ramp, st.just("challenger"), STEPS, st.floats(0.1, 1e6), st.none() | st.floats(0, 4e9)
)
POLICIES = st.builds(
    Traffic,
    st.text(),
    st.sampled_from([{"champion": 1.0}, {"champion": 0.7, "staging": 0.3}]),
    st.sampled_from([[], ["shadow"]]),
    RAMPS,
)


def ramp(*steps: float, alias: str = "challenger", **said: float) -> Ramp:
    return Ramp(alias, list(steps), **said)


@given(POLICIES)
def test_it_is_read_as_it_was_written(traffic) -> None:
    assert from_json(to_json(traffic)) == traffic
    assert "\n" not in describe(replace(traffic, ab_test="ab"))
    wanted = {*traffic.weights, *traffic.shadow, *([traffic.ramp.alias] if traffic.ramp.steps else [])}
    assert set(aliases_of(traffic)) == wanted


def test_what_was_stored_before_there_were_shadows_and_ramps_still_reads() -> None:
    old = json.dumps({"ab_test": "ab", "weights": {"champion": 0.5, "challenger": 0.5}})
    assert from_json(old) == Traffic("ab", {"champion": 0.5, "challenger": 0.5}, [], Ramp())


@pytest.mark.parametrize(
    "spoilt",
    [
        "not JSON",
        "[1]",
        "7",
        '{"weights": {"champion": "1"}}',
        '{"weights": {"champion": 1.0}, "shadow": "shadow"}',
        '{"weights": {"champion": 1.0}, "ramp": null}',
        '{"weights": {"champion": 1.0}, "ramp": {"alias": "challenger", "steps": "0.5"}}',
        '{"weights": {"champion": 1.0}, "ramp": {"alias": ["challenger"], "steps": [0.5]}}',
        '{"weights": {"champion": 1.0}, "ramp": {"alias": "challenger", "steps": [0.5], "started": "now"}}',
    ],
)
def test_anything_else_that_is_stored_is_refused_in_one_sentence(spoilt) -> None:
    with pytest.raises(BadInput) as raised:
        from_json(spoilt)
    assert "\n" not in str(raised.value)


WHOLE = {"champion": 1.0}
HALF = {"champion": 0.5, "challenger": 0.5}


@pytest.mark.parametrize(
    "traffic,sentence",
    [
        (Traffic(weights={"champion": float("nan")}), "champion: nan is out of range"),
        (Traffic(weights=WHOLE, shadow=["shade"]), "traffic.shadow: 'shade' is not an alias; did you mean 'shadow'"),
        (Traffic(weights=WHOLE, shadow=["shadow", "shadow"]), "'shadow' is there twice; name it once"),
        (Traffic(weights=HALF, shadow=["challenger"]), "'challenger' answers already, with a weight of 0.5; give"),
        (Traffic(weights=WHOLE, ramp=ramp(0.5, alias="champion")), "ramp.alias: 'champion' cannot be ramped; allowed"),
        (Traffic(weights=WHOLE, ramp=ramp(0.5, alias="")), "ramp.alias: '' cannot be ramped; allowed: challenger"),
        (Traffic(weights=WHOLE, ramp=ramp()), "ramp.steps: has no steps; give ascending weights"),
        (Traffic(weights=WHOLE, ramp=ramp(0.0, 0.5)), "ramp.steps: 0.0 is out of range"),
        (Traffic(weights=WHOLE, ramp=ramp(0.5, 1.5)), "ramp.steps: 1.5 is out of range"),
        (Traffic(weights=WHOLE, ramp=ramp(0.5, 0.5)), r"ramp.steps: '\[0.5, 0.5\]' do not ascend"),
        (Traffic(weights=HALF, ramp=ramp(0.1, 0.6)), "0.1 is below the weight that challenger has, 0.5; start there"),
        (Traffic(weights={"challenger": 1.0}, ramp=ramp(1.0)), "'challenger' has all the weight already"),
        (Traffic(weights=WHOLE, ramp=ramp(0.1, dwell_s=0.0)), "dwell_s: 0.0 is out of range; give seconds"),
        (Traffic(weights=WHOLE, ramp=ramp(0.1, started=float("inf"))), "started: inf is no moment"),
        (Traffic(weights=WHOLE, shadow=["challenger"], ramp=ramp(0.1)), "'challenger' is a shadow; leave it out"),
    ],
)
def test_what_does_not_hold_together_is_refused(traffic, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_traffic(traffic)


def test_a_ramp_starts_when_it_is_stored_unless_it_is_under_way() -> None:
    said = Traffic(weights=WHOLE, ramp=ramp(0.1, 0.5))
    first = started(said, None, 100.0)
    assert first.ramp == replace(said.ramp, started=100.0)
    assert started(said, first, 200.0) == first
    assert started(said, Traffic(weights=WHOLE), 200.0).ramp.started == 200.0
    assert started(Traffic(weights=WHOLE, ramp=ramp(0.2, 0.5)), first, 200.0).ramp.started == 200.0
    later = Traffic(weights=WHOLE, ramp=ramp(0.1, 0.5, started=300.0))
    assert started(later, first, 200.0) == later
    assert started(Traffic(weights=WHOLE), first, 200.0).ramp == Ramp()

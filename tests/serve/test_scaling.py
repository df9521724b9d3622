"""How many replicas: enough for the requests in hand and for the latency, by what the replicas count."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conf.errors import BadInput
from conf.service import Scaling, Serving
from serve.counts import Counts
from serve.scaling import LATENCY, Latency, check_scaling, replicas_wanted

REPLICAS, ONGOING, MS = st.integers(1, 100), st.floats(0, 1e4), st.floats(0, 1e4)
SCALING = st.builds(
    Scaling,
    target_ongoing=st.floats(0.5, 100),
    target_latency_ms=st.none() | st.floats(1, 1000),
    max_replicas=st.just(9),
)


@given(REPLICAS, ONGOING, MS, SCALING)
def test_no_fewer_than_either_target_needs_and_no_more(replicas, ongoing, latency_ms, scaling) -> None:
    wanted = replicas_wanted(replicas, ongoing, latency_ms, scaling)
    late = 0.0 if scaling.target_latency_ms is None else latency_ms * replicas / scaling.target_latency_ms
    assert wanted >= 1
    assert ongoing / wanted <= scaling.target_ongoing * (1 + 1e-9)
    assert late <= wanted * (1 + 1e-9)
    assume(wanted > 1)
    assert ongoing > (wanted - 1) * scaling.target_ongoing or late > wanted - 1


@given(REPLICAS, ONGOING, ONGOING, MS, MS, SCALING)
def test_more_load_never_wants_fewer(replicas, ongoing, more, latency_ms, longer, scaling) -> None:
    less = replicas_wanted(replicas, ongoing, latency_ms, scaling)
    assert replicas_wanted(replicas, ongoing + more, latency_ms + longer, scaling) >= less


def test_a_replica_reports_the_latency_since_it_was_asked_last() -> None:
    counts = Counts()
    latency, answered = Latency(counts), {"x-variant": "champion", "x-version": "1"}
    assert latency() == {LATENCY: 0.0}
    for _ in range(100):
        counts.add("/predict", 200, answered, 0.15)
    assert 100 < latency()[LATENCY] <= 200
    for _ in range(10):
        counts.add("/predict", 200, answered, 0.004)
    assert 3 < latency()[LATENCY] <= 5
    assert latency() == {LATENCY: 0.0}


def test_fewer_at_most_than_at_least_is_refused() -> None:
    with pytest.raises(BadInput, match=r"max_replicas: 1 is below serving\.num_replicas=2"):
        check_scaling(Serving(num_replicas=2, scaling=Scaling(max_replicas=1)))

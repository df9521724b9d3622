"""What is counted: every request once, under who answered or refused it, and /metrics as Prometheus reads it."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from conf.schema import StatusConfig
from serve.counts import BOUNDS, Counts, quantile
from serve.status import status
from tests.serve.conftest import ask, figures, total, until

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["", "champion", "challenger"]),
        st.sampled_from(["/predict", "other"]),
        st.sampled_from([200, 422, 500]),
        st.floats(0, 20) | st.sampled_from(BOUNDS),
    )
)


@given(EVENTS)
def test_every_request_is_counted_once(events) -> None:
    counts = Counts()
    for variant, route, code, seconds in events:
        counts.add(route, code, {"x-variant": variant, "x-version": "3"} if variant else {}, seconds)
    found = {(item.variant, item.route, item.status): item.count for item in counts.answered()}
    assert found == Counter((variant, route, code) for variant, route, code, _ in events)
    for tally in counts.tallies():
        taken = [seconds for variant, _, code, seconds in events if variant == tally.variant and code == 200]
        assert tally.buckets == [
            sum(low < seconds <= high for seconds in taken)
            for low, high in zip((-1.0, *BOUNDS), (*BOUNDS, np.inf), strict=True)
        ]
        assert tally.seconds == pytest.approx(sum(taken))


@given(st.lists(st.floats(0, 20), min_size=1), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(taken, q) -> None:
    buckets = [0] * (len(BOUNDS) + 1)
    for seconds in taken:
        buckets[np.searchsorted(BOUNDS, seconds)] += 1
    true = sorted(taken)[int(np.ceil(q * len(taken))) - 1]
    at = int(np.searchsorted(BOUNDS, true))
    low, high = ((0.0, *BOUNDS)[at], BOUNDS[min(at, len(BOUNDS) - 1)])
    assert low - 1e-12 <= quantile(buckets, q) <= high + 1e-12


def test_a_quantile_divides_its_bucket_evenly() -> None:
    assert quantile([0] * (len(BOUNDS) + 1), 0.5) is None
    buckets = [10, 0, 0, 10, *[0] * (len(BOUNDS) - 3)]
    assert quantile(buckets, 0.25) == pytest.approx(0.0001)
    assert quantile(buckets, 0.75) == pytest.approx(0.0015)
    assert quantile([0] * len(BOUNDS) + [1], 0.5) == BOUNDS[-1]


def test_either_replica_answers_for_both(served, second) -> None:
    for i in range(20):
        for replica in (served, second):
            body = {"rows": served.rows[: 1 + i % 2], "unit": f"u{i}"}
            assert replica.ask("POST", "/predict", json=body).status_code == 200
    predicted = {"model": "houses", "route": "/predict", "code": "200"}
    for replica in (served, second):
        until(lambda of=replica: total(figures(of.ask("GET", "/metrics")), "rungway_requests_total", **predicted) == 40)
        found = figures(replica.ask("GET", "/metrics"))
        assert total(found, "rungway_replicas") == 2
        assert total(found, "rungway_rows_total", model="houses") == 60
        for variant, number in (("champion", "1"), ("challenger", "2")):
            of = {"variant": variant, "version": number}
            count = total(found, "rungway_requests_total", **of)
            assert 0 < count < 40
            assert count == total(found, "rungway_request_seconds_count", **of)
            assert count == total(found, "rungway_request_seconds_bucket", le="+Inf", **of)
            assert total(found, "rungway_request_seconds_sum", **of) > 0
            assert total(found, "rungway_variant_info", **of) == 2
            assert total(found, "rungway_weight", variant=variant) == 2 * 0.5
    assert len({dict(labels)["replica"] for of, *labels in found if of == "rungway_swap_refused"}) == 2


def test_no_total_falls_from_one_replica_to_the_next(served, second) -> None:
    before = 0.0
    for i in range(40):
        (served, second)[i % 2].ask("POST", "/predict", json={"rows": served.rows[:1]})
        now = total(figures((second, served)[i // 2 % 2].ask("GET", "/metrics")), "rungway_rows_total")
        assert now >= before
        before = now


def test_a_request_is_counted_by_route_and_status_and_by_who_refused_it(served) -> None:
    model, row = "/v2/models/houses", served.rows[0]
    asked = [
        ("GET", "/nothing/1", {}, "other", 404, False),
        ("GET", "/nothing/2", {}, "other", 404, False),
        ("GET", "/predict", {}, "/predict", 405, False),
        ("POST", "/predict", {"json": {}}, "/predict", 422, False),
        ("POST", "/predict", {"json": {"rows": [{**row, "size": "big"}]}}, "/predict", 422, True),
        ("POST", "/predict", {"json": {"rows": [row] * 6}}, "/predict", 413, True),
        ("POST", "/invocations", {"json": {"instances": [row]}}, "/invocations", 200, True),
        ("GET", "/docs/swagger-ui.css", {}, "/docs", 200, False),
        ("GET", f"{model}/versions/1", {}, f"{model}/versions/{{version}}", 200, False),
        ("POST", f"{model}/versions/7/infer", {"json": {}}, f"{model}/versions/{{version}}/infer", 404, False),
    ]
    for method, path, said, _, code, of_variant in asked:
        answer = served.ask(method, path, **said)
        assert answer.status_code == code, answer.text
        assert ("x-variant" in answer.headers) == ("x-version" in answer.headers) == of_variant
    found = figures(served.ask("GET", "/metrics"))
    wanted = Counter((route, str(code), of_variant) for *_, route, code, of_variant in asked)
    counted = Counter()
    for (of, *labels), value in found.items():
        if of == "rungway_requests_total":
            said = dict(labels)
            assert bool(said["variant"]) == bool(said["version"])
            counted[said["route"], said["code"], bool(said["variant"])] += int(value)
    assert counted == wanted
    assert total(found, "rungway_request_seconds_count") == 1, "of answered predictions alone"


def test_a_variant_that_fails_is_counted_and_named(served, caplog) -> None:
    body = {"rows": served.rows[:1], "unit": "u", "request_id": "r"}
    alias = served.ask("POST", "/predict", json=body).json()["variant"]
    broken = served.application._variants.live.variants[alias].bundle
    broken._network = None  # a session that is no more
    with caplog.at_level(logging.ERROR, "ray.serve"):
        answer = served.ask("POST", "/predict", json=body)
    assert answer.status_code == 500
    assert "failed in version" in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"] == "r"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    found = figures(served.ask("GET", "/metrics"))
    assert total(found, "rungway_requests_total", variant=alias, code="500") == 1
    row = next(
        row for row in status(StatusConfig(cluster=served.cfg.cluster))["houses"].versions if row.variant == alias
    )
    assert (row.requests, row.errors_5xx, row.errors_4xx, row.rows) == (2, 1, 0, 1)


def test_what_was_not_trained_on_is_counted_to_the_last_cell(served) -> None:
    strange = [{**row, "size": 1e9, "rooms": -5, "kind": f"castle {i}"} for i, row in enumerate(served.rows[:5])]
    answer = served.ask("POST", "/predict", json={"rows": strange}).json()
    assert len(answer["warnings"]) == 10
    found = figures(served.ask("GET", "/metrics"))
    of = {"variant": answer["variant"], "version": str(answer["version"])}
    assert total(found, "rungway_warnings_total", kind="out_of_range", **of) == 10
    assert total(found, "rungway_warnings_total", kind="unseen_category", **of) == 5


def test_open_metrics_is_written_to_who_asks_for_it(served) -> None:
    served.ask("POST", "/predict", json={"rows": served.rows[:1]})
    asked = {"accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    answer = served.ask("GET", "/metrics", headers=asked)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in open_metrics(answer.text)}
    assert {"rungway_requests", "rungway_request_seconds", "rungway_rows", "rungway_replicas"} <= names


def test_the_description_has_the_route(served) -> None:
    described = served.ask("GET", "/openapi.json").json()
    assert "text/plain" in described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert ask(served.application, "POST", "/houses/metrics").status_code == 405


def test_who_does_not_wait_and_what_breaks_are_counted_too(served) -> None:
    async def leave() -> None:
        never = asyncio.Event()
        scope = {"type": "http", "method": "POST", "path": "/houses/predict", "headers": []}
        waiting = asyncio.ensure_future(served.application(scope, never.wait, never.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        broken = {"type": "http", "path": "/houses/predict"}  # a scope that no server sends

        async def keep(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await served.application(broken, never.wait, keep)

    sent = list[MutableMapping[str, Any]]()
    asyncio.run(leave())
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["key"] == "request"
    found = figures(served.ask("GET", "/metrics"))
    assert {code: total(found, "rungway_requests_total", code=code) for code in ("499", "500")} == {"499": 1, "500": 1}

"""Batches: grown where that pays, nobody's answer changed, nobody made to wait for a clock."""

import asyncio
import threading
import time
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.bundle import Bundle
from conf.schema import Cluster, DeployConfig
from jobs.train import train
from serve.app import Application
from serve.batching import Batches, BatchSize


def settled(size: BatchSize, fixed: float, each: float) -> int:
    """Run full batches of a model that takes so long for a run and for a row; return what was settled on."""
    for _ in range(1, 40):
        for rows in {1, size.rows}:
            size.ran(rows, fixed + each * rows)
    return size.rows


@given(st.floats(1e-6, 1e-2))
def test_a_batch_grows_where_the_run_costs_more_than_its_rows(fixed) -> None:
    assert settled(BatchSize(1024), fixed, fixed / 1e4) == 1024


@given(st.floats(1e-6, 1e-2), st.floats(0, 0.1))
def test_a_batch_does_not_grow_where_rows_cost_as_much_together(each, share) -> None:
    assert settled(BatchSize(1024), each * share, each) <= 2


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2))
def test_it_follows_a_machine_that_changes(one, other) -> None:
    size = BatchSize(256)
    settled(size, one, one / 1e4)
    for _ in range(20):
        settled(size, other / 100, other)
    assert size.rows <= 4
    for _ in range(40):
        settled(size, one, one / 1e4)
    assert size.rows == 256


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(1e-6, 1.0)), max_size=50), st.integers(1, 64))
def test_it_stays_within_its_bounds(runs, most) -> None:
    size = BatchSize(most)
    for rows, seconds in runs:
        size.ran(rows, seconds)
        assert 1 <= size.rows <= most
        assert size.seconds(rows) > 0


class Doubler:
    """A model that doubles, and knows what it was run with."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.runs: list[list[int]] = []
        self.threads: set[str] = set()
        self.seconds = seconds

    def run(self, _model: object, items: list[int]) -> list[int | Exception]:
        self.runs.append(items)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if 13 in items and len(items) > 1:
            raise RuntimeError("not in company")
        return [ValueError("unlucky") if item == 13 else 2 * item for item in items]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=8), min_size=1, max_size=8))
def test_everybody_gets_the_own_answer(moments) -> None:
    model = Doubler()
    batches = Batches[Doubler, int, int](model.run, 64)

    async def ask() -> list[Any]:
        asked = []
        for items in moments:
            asked += [batches.ask(model, item, 1) for item in items]
            await asyncio.sleep(0)
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())
    for item, answer in zip([item for items in moments for item in items], answers, strict=True):
        assert isinstance(answer, ValueError) if item == 13 else answer == 2 * item
    assert batches.ongoing == 0
    batches.close()


def test_what_comes_at_once_is_one_run_and_what_is_given_up_none() -> None:
    model = Doubler(seconds=0.0005)
    batches = Batches[Doubler, int, int](model.run, 64)

    async def ask() -> None:
        for _ in range(10):  # the first runs find the size
            await asyncio.gather(*(batches.ask(model, i, 1) for i in range(12)))
        model.runs.clear()
        asked = [batches.ask(model, i, 1) for i in range(4)]
        asked[1].cancel()
        await asyncio.wait(asked)

    asyncio.run(ask())
    assert [item for run in model.runs for item in run] == [0, 2, 3]
    assert len(model.runs) < 3
    batches.close()


def test_long_runs_leave_the_event_loop_free() -> None:
    model = Doubler(seconds=0.05)
    batches = Batches[Doubler, int, int](model.run, 4)

    async def ask() -> int:
        await batches.ask(model, 1, 1)  # is how it becomes known
        turns, answer = 0, batches.ask(model, 2, 1)
        while not answer.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    assert asyncio.run(ask()) > 5
    assert len(model.threads) == 2
    batches.close()


def together(served: Any, requests: list[tuple[str, dict[str, Any]]], **headers: str) -> list[httpx.Response]:
    """Send requests at the same time."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(served.application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = f"/{served.cfg.name}"
            return await asyncio.gather(
                *(client.post(path + where, json=body, headers=headers) for where, body in requests)
            )

    return asyncio.run(ask())


def test_requests_of_all_kinds_are_answered_together_as_alone(served) -> None:
    requests = []
    for i in range(12):
        row, unit = served.rows[i % len(served.rows)], f"u{i}"
        requests += [
            ("/predict", {"rows": [row] * (1 + i % 3), "unit": unit}),
            ("/predict", {"columns": {name: [value] for name, value in row.items()}, "unit": unit}),
            ("/predict", {"rows": [{**row, "area": "large"}], "unit": unit}),
            ("/invocations", {"dataframe_records": [row]}),
        ]
    answers = together(served, requests, **{"x-unit-id": "one"})
    alone = [served.ask("POST", f"{path}", json=body, headers={"x-unit-id": "one"}) for path, body in requests]
    for answer, other in zip(answers, alone, strict=True):
        assert answer.status_code == other.status_code
        assert _plain(answer) == pytest.approx(_plain(other), abs=1e-6)


def _plain(answer: httpx.Response) -> dict[str, object]:
    """Return an answer's numbers, or its mistake."""
    said = answer.json()
    if "error" in said:
        return {"error": said["error"]["message"]}
    rows = [row.get("probabilities", row) for row in said["predictions"]]
    return {f"{i}.{name}": value for i, row in enumerate(rows) for name, value in row.items()}


def test_a_full_queue_refuses_at_once_with_a_word_when_to_come_again(served) -> None:
    served.cfg.serving.max_ongoing = 2
    answers = together(served, [("/predict", {"rows": served.rows, "unit": "u"})] * 20)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert sum(answer.status_code == 200 for answer in answers) == 20 - len(refused) >= 2
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error"]["key"] == "requests"


def test_an_answer_that_is_late_is_none(houses, tmp_path) -> None:
    cfg = houses("name=houses", "model.width=512", "model.layers=3")
    cfg.cluster = Cluster(storage=str(tmp_path))
    rows = Bundle.load(train(cfg).version.folder).example()
    application = Application(DeployConfig(cluster=cfg.cluster, name="houses"))
    asked = {"json": {"rows": (rows * 1000)[:1000]}}

    async def first_without_then_with_then_without_a_deadline() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                await client.post("/houses/predict", **asked, headers=headers)
                for headers in ({}, {"x-request-timeout-ms": "1"}, {})
            ]

    before, answer, after = asyncio.run(first_without_then_with_then_without_a_deadline())
    assert before.status_code == after.status_code == 200
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["key"] == "x-request-timeout-ms"
    application.close()


@pytest.mark.parametrize("said", ["0", "-1", "1.5", "soon", "9" * 5000])
def test_a_deadline_that_is_none_is_refused(served, said) -> None:
    answer = served.ask("POST", "/predict", json={"rows": served.rows}, headers={"x-request-timeout-ms": said})
    assert answer.status_code == 400
    assert answer.json()["error"]["key"] == "x-request-timeout-ms"

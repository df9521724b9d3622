"""Adaptive micro-batching: what is asked of a variant at the same time is one run of its model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

PAYS = 0.9  # a doubled batch is worth its wait where a row takes at most this share of its time before
FORGETS, LATELY = 256, 1.02  # runs after which a size that did not pay is tried again; what a run's least time grows by
LONG_S = 0.002  # a run that takes longer leaves the event loop to others

Item = TypeVar("Item")
Model = TypeVar("Model")
Result = TypeVar("Result")


class BatchSize:
    """How many rows are run at once: doubled as long as that makes each cheaper.

    Sizes are told apart by powers of two. The time of a row is the least seen lately, which a busy machine disturbs
    least. most: rows, 1 or more.
    """

    def __init__(self, most: int) -> None:
        self._most, self._runs = most, 0
        self._row_s: dict[int, float] = {}
        self.rows = min(2, most)

    def seconds(self, rows: int) -> float:
        """Return what a run of so many rows took lately, or one of the nearest smaller size; 0 where none is known."""
        size = _size(rows)
        known = [each for each in self._row_s if each <= size]
        return self._row_s[max(known)] * rows if known else 0.0

    def ran(self, rows: int, seconds: float) -> None:
        """Take in that a run of so many rows took so long."""
        size, row_s = _size(rows), seconds / rows
        self._row_s[size] = min(row_s, self._row_s.get(size, row_s) * LATELY)
        self._runs += 1
        best = 0
        while best in self._row_s and self._row_s.get(best + 1, 0.0) < PAYS * self._row_s[best]:
            best += 1
        if self._runs % FORGETS == 0:
            self._row_s.pop(best + 1, None)
        self.rows = min(2**best, self._most)


def _size(rows: int) -> int:
    """Return the exponent of the power of two that rows come up to."""
    return (rows - 1).bit_length()


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    rows: int
    future: asyncio.Future[Result]


@dataclass
class _Lane(Generic[Item, Result]):
    """What waits for one model."""

    size: BatchSize
    waiting: deque[_Waiting[Item, Result]] = field(default_factory=deque)
    busy: bool = False  # a run is due or going on

    def take(self) -> list[_Waiting[Item, Result]]:
        """Return what comes first, as much as is run at once; what nobody waits for any more is left out."""
        batch, rows = list[_Waiting[Item, Result]](), 0
        while self.waiting and (not batch or rows + self.waiting[0].rows <= self.size.rows):
            first = self.waiting.popleft()
            if not first.future.done():
                batch.append(first)
                rows += first.rows
        return batch


class Batches(Generic[Model, Item, Result]):
    """Runs items in batches, one at a time for each model.

    A run begins in the same turn of the event loop in which its first item came, after the other items of that turn:
    nothing waits for a clock, and an item alone runs alone. Items that come during a run are the next batch.
    run: makes a result, or the error that its item has caused, of each item; called in another thread where it takes
    as long as long_s. most_rows: of a batch; an item of more rows runs by itself. threads: runs at once of different
    models.
    """

    def __init__(
        self,
        run: Callable[[Model, list[Item]], list[Result | Exception]],
        most_rows: int,
        *,
        long_s: float = LONG_S,
        threads: int = 1,
    ) -> None:
        self._run, self._most_rows, self._long_s = run, most_rows, long_s
        self._lanes: WeakKeyDictionary[Model, _Lane[Item, Result]] = WeakKeyDictionary()
        self._thread = ThreadPoolExecutor(threads, "batch")
        self.ongoing = 0  # items without a result, of all models

    def close(self) -> None:
        """End the thread of long runs."""
        self._thread.shutdown()

    def ask(self, model: Model, item: Item, rows: int) -> asyncio.Future[Result]:
        """Return the future of an item's result."""
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = _Lane(BatchSize(self._most_rows))
        future: asyncio.Future[Result] = loop.create_future()
        future.add_done_callback(self._ended)
        self.ongoing += 1
        lane.waiting.append(_Waiting(item, rows, future))
        if not lane.busy:
            lane.busy = True
            loop.call_soon(self._next, model, lane)
        return future

    def _ended(self, _future: asyncio.Future[Result]) -> None:
        self.ongoing -= 1

    def _next(self, model: Model, lane: _Lane[Item, Result]) -> None:
        batch = lane.take()
        if not batch:
            lane.busy = False
            return
        if lane.size.seconds(sum(each.rows for each in batch)) < self._long_s:
            self._deliver(batch, self._timed(model, lane, batch))
            self._go_on(model, lane)
            return
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._timed, model, lane, batch)

        def ended(run: asyncio.Future[list[Result | Exception]]) -> None:
            self._deliver(batch, run.result())
            self._go_on(model, lane)

        running.add_done_callback(ended)

    def _go_on(self, model: Model, lane: _Lane[Item, Result]) -> None:
        if lane.waiting:
            asyncio.get_running_loop().call_soon(self._next, model, lane)
        else:
            lane.busy = False

    def _timed(
        self, model: Model, lane: _Lane[Item, Result], batch: list[_Waiting[Item, Result]]
    ) -> list[Result | Exception]:
        started = time.perf_counter()
        items = [each.item for each in batch]
        try:
            results = self._run(model, items)
            lane.size.ran(sum(each.rows for each in batch), time.perf_counter() - started)
        except Exception as error:  # an item must not fail because of another
            return [self._alone(model, item) for item in items] if len(items) > 1 else [error]
        return results

    def _alone(self, model: Model, item: Item) -> Result | Exception:
        try:
            return self._run(model, [item])[0]
        except Exception as error:  # is whoever asked for it told
            return error

    @staticmethod
    def _deliver(batch: list[_Waiting[Item, Result]], results: list[Result | Exception]) -> None:
        for each, result in zip(batch, results, strict=True):
            if each.future.done():
                continue
            if isinstance(result, Exception):
                each.future.set_exception(result)
            else:
                each.future.set_result(result)

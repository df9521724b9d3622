"""What a replica counts of its requests, in plain Python on their path: two dictionary look-ups and a few additions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `serve.status` reads counts without what predicts
    from serve.prediction import Predicted

# Upper bounds of the latency buckets in seconds, included in them; one more bucket holds what took longer.
BOUNDS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
FAILED, GONE = 500, 499  # statuses where no answer was made; 499 (nginx's): the client did not wait for it


@dataclass(frozen=True)
class Answered:
    """How many requests were answered alike; variant and version are "" where none is behind the answer."""

    variant: str
    version: str
    route: str
    status: int
    count: int


@dataclass(slots=True)
class Tally:
    """What one version did under one alias: rows predicted, odd cells among them, seconds of the requests answered."""

    variant: str
    version: str
    rows: int = 0
    out_of_range: int = 0
    unseen: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


_EMPTY = [0] * (len(BOUNDS) + 1)


class Counts:
    """The counts of one replica since it started; added to on its event loop alone, read from any thread."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str, str, int], int] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    def add(self, route: str, status: int, headers: dict[str, str], seconds: float) -> None:
        """Count a request by its answer; its seconds only where a variant answered, errors being quick or stuck."""
        variant, version = headers.get("x-variant", ""), headers.get("x-version", "")
        key = (variant, version, route, status)
        self._answered[key] = self._answered.get(key, 0) + 1
        if variant and status < 400:
            tally = self._tally(variant, version)
            tally.buckets[bisect_left(BOUNDS, seconds)] += 1
            tally.seconds += seconds

    def predicted(self, predicted: Predicted) -> None:
        """Count the rows of a prediction, and the cells in them that the train part had nothing like."""
        tally = self._tally(predicted.variant.alias, str(predicted.variant.version.number))
        tally.rows += len(predicted.outputs)
        tally.out_of_range += predicted.warnings.out_of_range
        tally.unseen += predicted.warnings.unseen

    def _tally(self, variant: str, version: str) -> Tally:
        key = (variant, version)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(variant, version)
        return tally

    def buckets(self) -> list[int]:
        """Return the latency buckets so far, of all versions together."""
        return [sum(counts) for counts in zip(_EMPTY, *(tally.buckets for tally in self.tallies()), strict=True)]

    def answered(self) -> list[Answered]:
        """Return the requests so far."""
        return [Answered(*key, count) for key, count in list(self._answered.items())]  # list: whole, while one is added

    def tallies(self) -> list[Tally]:
        """Return a copy of each tally so far."""
        return [replace(tally, buckets=list(tally.buckets)) for tally in list(self._tallies.values())]


def quantile(buckets: Sequence[int], q: float) -> float | None:
    """Estimate a quantile in seconds from the counts of the buckets; None where they are empty.

    With n requests and rank r = q n, in the first bucket (a, b] whose cumulative count c + k is at least r, c before
    it: a + (b - a) (r - c) / k, as if its k requests lay evenly in it. In the last, which has no upper bound: its
    lower one. Source: Prometheus's histogram_quantile.
    """
    total = sum(buckets)
    if not total:
        return None
    rank, cumulated = q * total, list(accumulate(buckets))
    at = next(i for i, count in enumerate(cumulated) if count and count >= rank)
    if at == len(BOUNDS):
        return BOUNDS[-1]
    low = BOUNDS[at - 1] if at else 0.0
    return low + (BOUNDS[at] - low) * (rank - (cumulated[at] - buckets[at])) / buckets[at]

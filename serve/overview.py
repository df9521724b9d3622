"""What one model's replicas say, in sum: a row for each version that answered, and one for each replica."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve.counts import BOUNDS, quantile
from serve.snapshots import Snapshot


@dataclass(frozen=True)
class VersionRow:
    """One version under one alias, over all replicas since they started; variant and version "": none is behind it.

    weight: its share of the units, None where it is not live; p50_ms, p99_ms: of answered predictions, estimated from
    buckets (`serve.counts.quantile`), None without any.
    """

    variant: str
    version: str
    weight: float | None
    requests: int
    rows: int
    errors_4xx: int
    errors_5xx: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class ReplicaRow:
    """One replica. said_s: seconds since its last word; gone: it no longer gives any, and did not say farewell."""

    replica: str
    host: str
    pid: int
    versions: dict[str, int]
    said_s: float
    gone: bool
    refused: str


@dataclass(frozen=True)
class Overview:
    """One served model."""

    ab_test: str
    versions: list[VersionRow]
    replicas: list[ReplicaRow]

    def lines(self, model: str) -> list[str]:
        """Return tables to read on a terminal."""
        live = sum(not replica.gone for replica in self.replicas)
        said = [f"{model}: {live} replica{'s' * (live != 1)}, ab_test {self.ab_test}"]
        said += _table([_VERSION, *map(_version_cells, self.versions)], numbers=range(1, len(_VERSION)))
        said += ["", *_table([_REPLICA, *map(_replica_cells, self.replicas)])]
        return said + [f"  {one.replica} refuses: {one.refused}" for one in self.replicas if one.refused]


_VERSION = ["variant", "version", "weight", "requests", "rows", "4xx", "5xx", "p50 ms", "p99 ms"]
_REPLICA = ["replica", "host", "pid", "versions", "last word"]


def overview(snapshots: list[Snapshot], now: float) -> Overview | None:
    """Sum what replicas said up to `now`, seconds since 1970; None where none lives and none is missed."""
    here = [one for one in snapshots if not one.ended]
    if not here:
        return None
    latest = max(here, key=lambda one: (one.lives(now), one.written))
    live = [(alias, str(number)) for alias, number in latest.versions.items()]
    counted = {(item.variant, item.version) for one in snapshots for item in one.answered}
    counted |= {(tally.variant, tally.version) for one in snapshots for tally in one.tallies}
    keys = [*live, *sorted(counted - set(live), key=lambda key: (not key[0], key))]  # last, what is no variant's
    rows = [_row(key, snapshots, latest.weights.get(key[0], 0.0) if key in live else None) for key in keys]
    return Overview(latest.ab_test, rows, [_replica(one, now) for one in here])


def _row(key: tuple[str, str], snapshots: list[Snapshot], weight: float | None) -> VersionRow:
    answered = [item for one in snapshots for item in one.answered if (item.variant, item.version) == key]
    tallies = [item for one in snapshots for item in one.tallies if (item.variant, item.version) == key]
    buckets = [sum(tally.buckets[i] for tally in tallies) for i in range(len(BOUNDS) + 1)]
    p50, p99 = (seconds and 1000 * seconds for seconds in (quantile(buckets, 0.5), quantile(buckets, 0.99)))
    return VersionRow(
        variant=key[0],
        version=key[1],
        weight=weight,
        requests=sum(item.count for item in answered),
        rows=sum(tally.rows for tally in tallies),
        errors_4xx=sum(item.count for item in answered if 400 <= item.status < 500),
        errors_5xx=sum(item.count for item in answered if item.status >= 500),
        p50_ms=p50,
        p99_ms=p99,
    )


def _replica(one: Snapshot, now: float) -> ReplicaRow:
    said_s = max(0.0, now - one.written)  # clocks of hosts differ a little
    return ReplicaRow(one.replica, one.host, one.pid, one.versions, said_s, not one.lives(now), one.refused)


def _version_cells(row: VersionRow) -> list[str]:
    counts = (row.requests, row.rows, row.errors_4xx, row.errors_5xx)
    weight = "" if row.weight is None else f"{row.weight:g}"
    times = ["" if ms is None else f"{ms:.2f}" for ms in (row.p50_ms, row.p99_ms)]
    return [row.variant or "(none)", row.version, weight, *(f"{count:,}" for count in counts), *times]


def _replica_cells(row: ReplicaRow) -> list[str]:
    versions = " ".join(f"{alias}={number}" for alias, number in row.versions.items())
    said = f"gone for {row.said_s:.0f} s" if row.gone else f"{row.said_s:.1f} s ago"
    return [row.replica, row.host, str(row.pid), versions, said]


def _table(rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()) -> list[str]:
    """Return aligned lines; the columns with these indices stand to the right."""
    right, widths = set(numbers), [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  " + "  ".join(row).rstrip() for row in cells]

"""Which row belongs to which part: stated once in `split`, used everywhere."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import BadInput, nearest
from conf.schema import Split
from jobs.data.content import Hashes, mixed

OPEN = ("train", "validation")
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Assignment:
    """parts: names in order; of_row: [N] index into parts, -1 for a row in none of them."""

    parts: tuple[str, ...]
    of_row: Index

    def rows(self, part: str) -> Index:
        """Return the row numbers of one part, in order."""
        return np.flatnonzero(self.of_row == self.parts.index(part))

    @property
    def sealed(self) -> tuple[str, ...]:
        """Return the parts that only a final evaluation opens."""
        return tuple(part for part in self.parts if part not in OPEN)


def assign(split: Split, table: pa.Table, classes: Index | None) -> Assignment:
    """Assign every row; classes [N] are the class indices to keep shares of (None: regression).

    Raises BadInput for parts that overlap, are missing, or a column that is no time.
    """
    parts = parts_of(split)
    if split.method == "time":
        return Assignment(parts, _by_time(split, table))
    return Assignment(parts, _at_random(split, table.num_rows, classes))


def assign_alone(split: Split, table: pa.Table, hashes: Hashes) -> Index:
    """Assign each row by what itself says, so that no other row needs to be known; [N] index into `parts_of`, or -1.

    At random, equal rows are in one part, the parts' shares are met on average, and no class's are kept exactly.
    """
    if split.method == "time":
        return _by_time(split, table)
    ends = np.cumsum(_shares(split)) + 1e-9
    part = np.searchsorted(ends, mixed(hashes, split.seed) / 2.0**64, side="right")
    return np.where(part < len(ends), part, -1)


def parts_of(split: Split) -> tuple[str, ...]:
    """Return the names of the parts in order; raises BadInput where train or validation is not among them."""
    parts = tuple(split.periods if split.method == "time" else split.fractions)
    for part in OPEN:
        if part not in parts:
            where = "split.periods" if split.method == "time" else "split.fractions"
            raise BadInput(where, str(list(parts)), f"lacks {part}", "state train and validation")
    return parts


def _shares(split: Split) -> npt.NDArray[np.float64]:
    shares = np.array(list(split.fractions.values()))
    if (shares <= 0).any() or shares.sum() > 1 + 1e-9:
        said = {part: float(share) for part, share in split.fractions.items()}
        raise BadInput(
            "split.fractions", str(said), "are not shares of the rows", "give values above 0, at most 1 in all"
        )
    return shares


def _at_random(split: Split, rows: int, classes: Index | None) -> Index:
    """Within each class, the rows in random order get the parts in turn of their shares."""
    shares = _shares(split)
    of_class = classes if classes is not None and split.stratify else np.zeros(rows, dtype=np.int64)
    order = np.lexsort((np.random.default_rng(split.seed).random(rows), of_class))
    counts = np.bincount(of_class) if rows else np.zeros(0, dtype=np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    within = (np.arange(rows) - starts + 0.5) / np.repeat(counts, counts)
    part = np.searchsorted(np.cumsum(shares) + 1e-9, within)
    of_row = np.empty(rows, dtype=np.int64)
    of_row[order] = np.where(part < len(shares), part, -1)
    return of_row


def _by_time(split: Split, table: pa.Table) -> Index:
    if split.column not in table.column_names:
        remedy = nearest(str(split.column), table.column_names)
        raise BadInput("split.column", split.column, "is not a column", remedy)
    values = table[split.column]
    if not (pa.types.is_temporal(values.type) and not pa.types.is_time(values.type)):
        raise BadInput("split.column", split.column, f"is {values.type}, not a time", "name a date or timestamp column")
    seconds = pc.cast(pc.cast(values, pa.timestamp("s"), safe=False), pa.int64())
    seconds = pc.fill_null(seconds, -(2**62)).to_numpy()
    of_row = np.full(table.num_rows, -1, dtype=np.int64)
    for i, (part, period) in enumerate(split.periods.items()):
        start, end = _period(part, period)
        inside = (seconds >= start) & (seconds < end)
        if (of_row[inside] >= 0).any():
            raise BadInput(f"split.periods.{part}", str(period), "overlaps another part", "give [from, to) apart")
        of_row[inside] = i
    return of_row


def _period(part: str, period: list[str]) -> tuple[float, float]:
    try:
        start, end = (dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp() for text in period)
    except ValueError as error:
        raise BadInput(f"split.periods.{part}", str(period), "is no period", "give [from, to) as ISO dates") from error
    if start >= end:
        raise BadInput(f"split.periods.{part}", str(period), "ends before it starts", "give [from, to)")
    return start, end

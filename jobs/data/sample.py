"""A table that is not read whole: looked at once, row by row, for its sizes, its hashes and a sample of each part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import BadInput
from conf.schema import Dataset, Split
from jobs.data.checks import check_target
from jobs.data.content import Hashes, mixed, row_hashes
from jobs.data.source import files
from jobs.data.split import Assignment, Index, assign_alone, parts_of
from jobs.data.target import MOST_CLASSES

_SALT = 1  # of the sample's order; the split's is its seed


@dataclass(frozen=True)
class Looked:
    """What one look leaves.

    table: a uniform sample of the rows of each part, and of those without a target; part [N]: index into `parts`, -1
    without a target; sizes: the rows that each part really has; dropped: rows without a target; values: the first
    distinct values of the target.
    """

    table: pa.Table
    part: Index
    parts: tuple[str, ...]
    sizes: dict[str, int]
    dropped: int
    data_hash: str
    values: frozenset[object]

    def assignment(self) -> Assignment:
        """Return the parts of the sampled rows that have a target."""
        return Assignment(self.parts, self.part[self.part >= 0])


class _Sample:
    """The rows with the smallest keys of all that were offered, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self.offered = 0
        self._most, self._bound = most, np.uint64(2**64 - 1)
        self._tables: list[pa.Table] = []
        self._keys: list[Hashes] = []

    def offer(self, table: pa.Table, keys: Hashes) -> None:
        """Keep what has a small enough key."""
        self.offered += len(keys)
        kept = np.flatnonzero(keys <= self._bound)
        self._tables.append(table.take(kept))
        self._keys.append(keys[kept])
        if sum(map(len, self._keys)) > 2 * self._most:
            self._cut()

    def table(self) -> pa.Table:
        """Return the sample."""
        self._cut()
        return self._tables[0]

    def _cut(self) -> None:
        table, keys = pa.concat_tables(self._tables), np.concatenate(self._keys)
        if len(keys) > self._most:
            self._bound = np.partition(keys, self._most - 1)[self._most - 1]
            table, keys = table.filter(keys <= self._bound), keys[keys <= self._bound]
        self._tables, self._keys = [table.combine_chunks()], [keys]


def look(dataset: Dataset, split: Split) -> Looked:
    """Read all rows once, keeping at most dataset.sample_rows of each part.

    A part with fewer rows is in the sample whole. Raises BadInput for files that cannot be read or have no target.
    """
    source, parts = files(dataset), parts_of(split)
    check_target(dataset, source.schema.names)
    samples = [_Sample(dataset.sample_rows) for _ in (*parts, "without a target")]
    digest, values, row = hashlib.sha256(",".join(sorted(source.schema.names)).encode()), set[object](), 0
    for table in source.scan():
        hashes = row_hashes(table)
        digest.update(hashes.tobytes())
        keys = mixed(hashes + np.arange(row, row + len(hashes)).astype(np.uint64), _SALT)
        of_row = np.where(table[dataset.target].is_valid().to_numpy(), assign_alone(split, table, hashes), len(parts))
        for number, sample in enumerate(samples):
            own = np.flatnonzero(of_row == number)
            sample.offer(table.take(own), keys[own])
        if len(values) <= MOST_CLASSES:
            values.update(pc.unique(table[dataset.target].drop_null()).to_pylist())
        row += len(hashes)
    if row == 0:
        raise BadInput("dataset", dataset.name, "has no rows", "give a table with rows")
    tables = [sample.table() for sample in samples]
    return Looked(
        pa.concat_tables(tables).combine_chunks(),
        np.repeat(np.array([*range(len(parts)), -1]), [part.num_rows for part in tables]),
        parts,
        {part: sample.offered for part, sample in zip(parts, samples, strict=False)},
        samples[-1].offered,
        digest.hexdigest(),
        frozenset(values),
    )

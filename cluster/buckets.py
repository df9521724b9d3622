"""Rows dealt into buckets by their request id, so that what belongs together meets in a bounded part of memory.

With one bucket all stays in memory; with more each is a file in a temporary folder (the partitioning of a Grace hash
join: Kitsuregawa, Tanaka and Moto-oka 1983).
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

BUCKET_BYTES = 16_000_000  # of segments, as they are on disk
MOST = 128  # of files that are open at once
_LZ4 = ipc.IpcWriteOptions(compression="lz4")


def buckets_for(size: int) -> int:
    """Return how many buckets segments of so many bytes take: each about BUCKET_BYTES, up to MOST of them."""
    return min(MOST, max(1, -(-size // BUCKET_BYTES)))


class Buckets:
    """Tables with a column request_id, dealt into `count` buckets: a request is in one of them with all of its rows.

    A context; the temporary folder goes with it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: dict[pa.Schema, list[pa.Table]] = {}  # one bucket
        self._paths: dict[tuple[int, pa.Schema], Path] = {}  # several
        self._writers: dict[tuple[int, pa.Schema], ipc.RecordBatchStreamWriter] = {}
        self._folder, self._files = ExitStack(), ExitStack()

    def __enter__(self) -> Buckets:
        if self.count > 1:
            self._top = Path(self._folder.enter_context(tempfile.TemporaryDirectory(prefix="records-")))
        return self

    def __exit__(self, *_error: object) -> None:
        self._files.close()
        self._folder.close()

    def add(self, table: pa.Table) -> None:
        """Deal a table's rows."""
        if self.count == 1:
            self._held.setdefault(table.schema, []).append(table)
            return
        from pandas.util import hash_array

        ids = table["request_id"].to_numpy()
        number = hash_array(ids, categorize=False) % np.uint64(self.count)
        order = np.argsort(number, kind="stable")
        dealt, ends = table.take(pa.array(order)), np.searchsorted(number[order], np.arange(self.count + 1))
        for bucket in np.flatnonzero(np.diff(ends)).tolist():
            start, end = int(ends[bucket]), int(ends[bucket + 1])
            self._writer(bucket, table.schema).write_table(dealt.slice(start, end - start))

    def close(self) -> None:
        """Add no more; the buckets can be read."""
        self._files.close()

    def bucket(self, number: int) -> list[pa.Table]:
        """Return a bucket's rows in the order in which they were added, one table for each Arrow schema."""
        if self.count == 1:
            return [pa.concat_tables(tables) for tables in self._held.values()]
        return [_read(path) for (bucket, _), path in self._paths.items() if bucket == number]

    def _writer(self, bucket: int, schema: pa.Schema) -> ipc.RecordBatchStreamWriter:
        key = bucket, schema
        if key not in self._writers:
            self._paths[key] = self._top / f"{len(self._paths)}.arrows"
            file = self._files.enter_context(pa.OSFile(str(self._paths[key]), "wb"))
            self._writers[key] = self._files.enter_context(ipc.new_stream(file, schema, options=_LZ4))
        return self._writers[key]


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file, ipc.open_stream(file) as stream:
        return stream.read_all()

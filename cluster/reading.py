"""Records as jobs read them: each once, in constant memory, while more are written, merged and expired.

What is sent twice (a request tried again after a replica's death, a feedback that two replicas took) is recorded twice
and read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from cluster.buckets import Buckets, buckets_for
from cluster.compaction import replaced
from cluster.records import FEEDBACK, FEEDBACK_SCHEMA, PREDICTIONS, folder
from cluster.segments import Segment, days, segments

_KEYS = {PREDICTIONS: ["request_id", "row", "variant"], FEEDBACK: ["request_id", "row"]}
_ROWS = 65_536  # of a table that is yielded


def read(storage: Path, kind: str, name: str) -> Iterator[pa.Table]:
    """Yield all records of a kind, each once, some at a time, in no order of time.

    A record is a row of a request, for predictions by one variant; of two of the same the earlier counts, the first
    label told. Tables differ in `inputs` where models or settings did. Holds in memory what 16 MB of segments come to
    (BUCKET_BYTES; a 128th of them where they are more than 2 GB), the rest in a temporary folder ($TMPDIR).
    """
    top = folder(storage, kind, name)
    with Buckets(buckets_for(_size(top))) as buckets:
        _deal(top, buckets)
        for number in range(buckets.count):
            for table in _once(buckets.bucket(number), _KEYS[kind]):
                yield from _some(table)


def read_joined(storage: Path, name: str) -> Iterator[pa.Table]:
    """Yield what `read` does of predictions, with label and value of the first feedback to each row, null without."""
    tops = [folder(storage, kind, name) for kind in (PREDICTIONS, FEEDBACK)]
    count = buckets_for(sum(map(_size, tops)))
    with Buckets(count) as predictions, Buckets(count) as feedback:
        _deal(tops[0], predictions)
        _deal(tops[1], feedback)  # second: all that was told until now about what was read
        for number in range(count):
            told = _once([*feedback.bucket(number), FEEDBACK_SCHEMA.empty_table()], _KEYS[FEEDBACK])
            first = pa.concat_tables(told).select(["request_id", "row", "label", "value"])
            for table in _once(predictions.bucket(number), _KEYS[PREDICTIONS]):
                yield from _some(_joined(table, first))


def _size(top: Path) -> int:
    sizes = []
    for day in days(top):
        for path in segments(day):
            with suppress(FileNotFoundError):  # merged a moment ago
                sizes.append(path.stat().st_size)
    return sum(sizes)


def _deal(top: Path, buckets: Buckets) -> None:
    """Deal all rows under a folder, each at least once, whatever is merged and expired meanwhile.

    A segment that is gone when it is opened has been merged into one that another look finds.
    """
    seen: set[Path] = set()
    gone: set[Path] = set()  # merged into one that is read
    lost = True
    while lost:
        lost = False
        found = [path for day in days(top) for path in segments(day)]
        for path in sorted(set(found) - seen, key=lambda one: (-Segment.of(one).level, one)):  # merged ones first
            try:
                gone |= {path.with_name(name) for name in replaced(path)}
                if path not in gone:
                    _deal_segment(path, buckets)
            except FileNotFoundError:
                lost = True
            seen.add(path)
    buckets.close()


def _deal_segment(path: Path, buckets: Buckets) -> None:
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            buckets.add(pa.Table.from_batches([batch]).replace_schema_metadata())


def _once(tables: list[pa.Table], keys: list[str]) -> list[pa.Table]:
    """Return tables (of different schemas) in the order of time with the earliest row of each key."""
    if not tables:
        return []
    starts = np.cumsum([0, *(len(table) for table in tables)])
    rows = pa.concat_tables([table.select([*keys, "time"]) for table in tables])
    rows = rows.append_column("at", pa.array(np.arange(len(rows))))
    first = rows.sort_by([("time", "ascending"), ("at", "ascending")]).group_by(keys, use_threads=False)
    kept = first.aggregate([("at", "first")])["at_first"].to_numpy()
    return [
        table.take(pa.array(kept[(kept >= start) & (kept < end)] - start))
        for table, start, end in zip(tables, starts[:-1], starts[1:], strict=True)
    ]


def _joined(table: pa.Table, first: pa.Table) -> pa.Table:
    keys = table.select(["request_id", "row"]).append_column("at", pa.array(np.arange(len(table))))
    found = keys.join(first, ["request_id", "row"]).sort_by("at")
    return table.append_column("label", found["label"]).append_column("value", found["value"])


def _some(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), _ROWS):
        yield table.slice(start, _ROWS)

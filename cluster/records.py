"""Prediction and feedback records: their Arrow schemas, how serving appends them, how jobs read them.

Segments are Parquet files under <storage>/records/<kind>/model=<name>/day=<YYYY-MM-DD>/, each written whole and
then renamed, so that they can be read while more are being written.
"""

from __future__ import annotations

import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import parquet

from cluster.columns import MISSING_TIME, Array, ModelSchema, Raw

PREDICTIONS, FEEDBACK = "predictions", "feedback"
_ARROW = {
    "number": pa.float32(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "time": pa.timestamp("ms"),
    "text": pa.string(),
}
T = TypeVar("T")
_TIME = pa.timestamp("us", "UTC")

FEEDBACK_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("row", pa.int32()),  # of the request's rows, from 0
        ("time", _TIME),
        ("label", pa.string()),  # class, or
        ("value", pa.float64()),  # number: regression's truth or a reward
    ]
)


def prediction_schema(schema: ModelSchema) -> pa.Schema:
    """Return the schema of one predicted row; inputs is a struct of the model's columns."""
    inputs = pa.struct([(column.name, _ARROW[column.type]) for column in schema.columns])
    return pa.schema(
        [
            ("request_id", pa.string()),
            ("row", pa.int32()),
            ("time", _TIME),
            ("version", pa.int32()),
            ("variant", pa.string()),
            ("unit", pa.string()),
            ("inputs", inputs),
            ("outputs", pa.list_(pa.float32())),
            ("latency_ms", pa.float32()),
        ]
    )


@dataclass(frozen=True)
class Predictions:
    """Requests that one version answered as one batch.

    request_ids, units, counts (rows), latencies_ms: one per request, in the order of the rows. time: since 1970, in s.
    raw: columns [sum(counts), 1] of `schema`; outputs: [sum(counts), K].
    """

    request_ids: list[str]
    units: list[str]
    counts: list[int]
    time: float
    version: int
    variant: str
    raw: Raw
    outputs: Array
    latencies_ms: list[float]
    schema: ModelSchema

    @property
    def rows(self) -> int:
        """Return how many rows were predicted."""
        return len(self.outputs)


def prediction_table(batches: list[Predictions], schema: ModelSchema) -> pa.Table:
    """Return the records of batches with the columns of one schema, one row for each row predicted."""
    columns = [_arrow([b.raw[column.name] for b in batches], column.type) for column in schema.columns]
    made = prediction_schema(schema)
    counts = np.array([count for b in batches for count in b.counts], np.int64)
    rows = int(counts.sum())
    of_request = pa.array(np.repeat(np.arange(len(counts)), counts))
    of_batch = pa.array(np.repeat(np.arange(len(batches)), [b.rows for b in batches]))
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    moments = np.array([b.time * 1e6 for b in batches]).astype("datetime64[us]")
    fields = [made.field("inputs").type.field(i) for i in range(len(columns))]
    return pa.table(
        [
            pa.array([name for b in batches for name in b.request_ids], pa.string()).take(of_request),
            pa.array((np.arange(rows) - starts).astype(np.int32)),
            pa.array(moments, _TIME).take(of_batch),
            pa.array([b.version for b in batches], pa.int32()).take(of_batch),
            pa.array([b.variant for b in batches], pa.string()).take(of_batch),
            pa.array([unit for b in batches for unit in b.units], pa.string()).take(of_request),
            pa.StructArray.from_arrays(columns, fields=fields),
            _lists(np.concatenate([b.outputs for b in batches])),
            pa.array([ms for b in batches for ms in b.latencies_ms], pa.float32()).take(of_request),
        ],
        schema=made,
    )


def _lists(outputs: Array) -> pa.Array:
    """Return [N, K] as N lists of K numbers."""
    rows, width = outputs.shape
    values = pa.array(outputs.astype(np.float32, copy=False).ravel(), pa.float32())
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), values)


def _arrow(parts: list[Array], kind: str) -> pa.Array:
    if kind == "text":  # of different widths
        return pa.chunked_array([_texts(values) for values in parts], pa.string()).combine_chunks()
    flat = np.concatenate(parts)[:, 0]
    if kind == "category":
        texts = pa.array(flat, pa.string())
        return pc.if_else(pc.equal(texts, ""), None, texts)
    if kind == "time":
        known = np.where(flat == MISSING_TIME, 0, flat).astype("datetime64[s]").astype("datetime64[ms]")
        return pa.array(known, pa.timestamp("ms"), mask=flat == MISSING_TIME)
    numbers = pa.array(flat, pa.float32(), from_pandas=True)
    return pc.equal(numbers, 1.0) if kind == "boolean" else numbers


def _texts(padded: Array) -> pa.Array:
    """Return the texts of UTF-8 padded with zeros, [N, L]; null where there is none."""
    cut = np.ascontiguousarray(padded).view(f"S{padded.shape[1]}")[:, 0]  # NumPy drops the zeros at the end
    texts = pa.array(cut, pa.binary()).cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def folder(storage: Path, kind: str, name: str) -> Path:
    """Return where a registered model's records of a kind lie."""
    return storage / "records" / kind / f"model={name}"


class SegmentWriter(Generic[T]):
    """Appends records from any thread; a thread of its own writes them as segments, many at once.

    `append` never waits: where the queue is full the record is dropped and counted.
    `append_durably` gives a future that is done when the record is on disk (group commit with fsync).
    """

    def __init__(self, into: Path, make_table: Callable[[list[T]], pa.Table], every_s: float, limit: int) -> None:
        self._into, self._make_table, self._every_s = into, make_table, every_s
        self._queue: queue.Queue[tuple[T, Future[None] | None]] = queue.Queue(limit)
        self.dropped = 0
        self.failure = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"records-{into.name}", daemon=True)
        self._thread.start()

    def append(self, record: T) -> None:
        """Add a record without waiting for it."""
        try:
            self._queue.put_nowait((record, None))
        except queue.Full:
            self.dropped += 1

    def append_durably(self, record: T) -> Future[None]:
        """Add a record; the future is done when it is on disk, or has the error that kept it from there."""
        future: Future[None] = Future()
        try:
            self._queue.put_nowait((record, future))
        except queue.Full:
            future.set_exception(OSError("too many records wait to be written"))
        return future

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            self._closing.wait(self._every_s)
            batch = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            if batch:
                self._write(batch)

    def _write(self, batch: list[tuple[T, Future[None] | None]]) -> None:
        waiting = [future for _, future in batch if future is not None]
        try:
            _write_segment(self._into, self._make_table([record for record, _ in batch]), durable=bool(waiting))
        except Exception as error:  # whatever it is, the thread goes on, counts it and tells who waits
            self.failure = str(error)
            self.dropped += len(batch)
            for future in waiting:
                future.set_exception(error)
            return
        for future in waiting:
            future.set_result(None)


def _write_segment(into: Path, table: pa.Table, durable: bool) -> None:
    day = into / f"day={datetime.now(UTC):%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True)
    path = day / f"{uuid.uuid4().hex}.parquet"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as output:
        parquet.write_table(table, output)
        if durable:
            output.flush()
            os.fsync(output.fileno())
    unfinished.rename(path)
    if durable:
        directory = os.open(day, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def read(storage: Path, kind: str, name: str) -> ds.Dataset | None:
    """Return all records of a kind as one dataset (with the column `day`), or None where there are none."""
    top = folder(storage, kind, name)
    if not any(top.rglob("*.parquet")):
        return None
    files = [str(path) for path in sorted(top.rglob("*.parquet"))]
    partitioning = ds.partitioning(pa.schema([("day", pa.string())]), flavor="hive")
    return ds.dataset(files, format="parquet", partitioning=partitioning, partition_base_dir=str(top))


def read_joined(storage: Path, name: str) -> Iterator[pa.Table]:
    """Yield the predictions with label and value of the first feedback to each, a bounded number at a time."""
    predictions, feedback = read(storage, PREDICTIONS, name), read(storage, FEEDBACK, name)
    if predictions is None:
        return
    for batch in predictions.to_batches():
        if not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch])
        if feedback is None:
            yield table.append_column("label", pa.nulls(len(table), pa.string())).append_column(
                "value", pa.nulls(len(table), pa.float64())
            )
            continue
        wanted = ds.field("request_id").isin(pc.unique(table["request_id"]))
        told = feedback.to_table(columns=["request_id", "row", "time", "label", "value"], filter=wanted)
        first = told.sort_by("time").group_by(["request_id", "row"], use_threads=False)
        first = first.aggregate([("label", "first"), ("value", "first")])
        first = first.rename_columns(["request_id", "row", "label", "value"])
        plain = table.append_column("at", pa.array(range(len(table))))
        keys = plain.select(["request_id", "row", "at"]).join(first, ["request_id", "row"]).sort_by("at")
        yield table.append_column("label", keys["label"]).append_column("value", keys["value"])

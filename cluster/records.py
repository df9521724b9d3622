"""Prediction and feedback records: their Arrow schemas, how they are made of what was asked and told, where they lie.

Segments are Parquet files under <storage>/records/<kind>/model=<name>/day=<YYYY-MM-DD>/: cluster/segments.py writes
them, cluster/compaction.py merges and expires them, cluster/reading.py reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import MISSING_TIME, Array, ModelSchema, Raw
from cluster.privacy import UNIT, Privacy

PREDICTIONS, FEEDBACK = "predictions", "feedback"
_ARROW = {
    "number": pa.float32(),
    "boolean": pa.bool_(),
    "category": pa.string(),
    "time": pa.timestamp("ms"),
    "text": pa.string(),
}
_ALL = Privacy()
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


def prediction_schema(schema: ModelSchema, privacy: Privacy = _ALL) -> pa.Schema:
    """Return the schema of one predicted row; inputs is a struct of the model's columns."""
    inputs = pa.struct([(column.name, privacy.kind(column.name, _ARROW[column.type])) for column in schema.columns])
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


@dataclass(frozen=True)
class Feedback:
    """What became of some rows, told at once. places: the rows of their requests, from 0; time: since 1970, in s.

    labels: classes, or None with the number in values.
    """

    request_ids: list[str]
    places: list[int]
    time: float
    labels: list[str | None]
    values: list[float | None]

    @property
    def rows(self) -> int:
        """Return how many rows it is about."""
        return len(self.request_ids)


def feedback_tables(told: list[Feedback]) -> list[pa.Table]:
    """Return the records of feedback, as one table."""
    moments = np.repeat([of.time * 1e6 for of in told], [of.rows for of in told]).astype("datetime64[us]")
    columns = [
        pa.array([request_id for of in told for request_id in of.request_ids], pa.string()),
        pa.array([place for of in told for place in of.places], pa.int32()),
        pa.array(moments, _TIME),
        pa.array([label for of in told for label in of.labels], pa.string()),
        pa.array([value for of in told for value in of.values], pa.float64()),
    ]
    return [pa.table(columns, schema=FEEDBACK_SCHEMA)]


def prediction_tables(batches: list[Predictions], privacy: Privacy = _ALL) -> list[pa.Table]:
    """Return the records of batches, a table for each set of columns that their models have."""
    alike: dict[tuple[tuple[str, str], ...], list[Predictions]] = {}
    groups: dict[int, list[Predictions]] = {}  # by the schema object: most batches share one
    for batch in batches:
        if privacy.sample < 1 and not any(map(privacy.sampled, batch.request_ids)):
            continue
        if id(batch.schema) not in groups:
            columns = tuple((column.name, column.type) for column in batch.schema.columns)
            groups[id(batch.schema)] = alike.setdefault(columns, [])
        groups[id(batch.schema)].append(batch)
    tables = [prediction_table(group, group[0].schema, privacy) for group in alike.values()]
    return [table for table in tables if table.num_rows]


def prediction_table(batches: list[Predictions], schema: ModelSchema, privacy: Privacy = _ALL) -> pa.Table:
    """Return the records of batches with the columns of one schema, one row for each row predicted and sampled."""
    made = prediction_schema(schema, privacy)
    counts = np.array([count for b in batches for count in b.counts], np.int64)
    of_request = pa.array(np.repeat(np.arange(len(counts)), counts))
    of_batch = pa.array(np.repeat(np.arange(len(batches)), [b.rows for b in batches]))
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    moments = np.array([b.time * 1e6 for b in batches]).astype("datetime64[us]")
    request_ids = [request_id for b in batches for request_id in b.request_ids]
    units = pa.array([unit for b in batches for unit in b.units], pa.string())
    table = pa.table(
        [
            pa.array(request_ids, pa.string()).take(of_request),
            pa.array((np.arange(len(starts)) - starts).astype(np.int32)),
            pa.array(moments, _TIME).take(of_batch),
            pa.array([b.version for b in batches], pa.int32()).take(of_batch),
            pa.array([b.variant for b in batches], pa.string()).take(of_batch),
            privacy.apply(UNIT, units).take(of_request),
            _inputs(batches, schema, privacy, made.field("inputs").type),
            _lists(np.concatenate([b.outputs for b in batches])),
            pa.array([ms for b in batches for ms in b.latencies_ms], pa.float32()).take(of_request),
        ],
        schema=made,
    )
    if privacy.sample >= 1:
        return table
    return table.filter(pa.array([privacy.sampled(request_id) for request_id in request_ids]).take(of_request))


def _inputs(batches: list[Predictions], schema: ModelSchema, privacy: Privacy, kind: pa.StructType) -> pa.Array:
    columns = [
        privacy.apply(column.name, _arrow([b.raw[column.name] for b in batches], column.type))
        for column in schema.columns
    ]
    return pa.StructArray.from_arrays(columns, fields=[kind.field(i) for i in range(len(columns))])


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

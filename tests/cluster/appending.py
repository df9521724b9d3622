"""Records to append, as serving makes them."""

import time

import numpy as np

from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from cluster.records import Feedback, Predictions, feedback_tables, prediction_tables
from cluster.segments import SegmentWriter, append_segment

SCHEMA = ModelSchema(
    "y",
    "binary",
    ("no", "yes"),
    (
        ColumnSchema("n", "number"),
        ColumnSchema("b", "boolean"),
        ColumnSchema("c", "category"),
        ColumnSchema("t", "time"),
    ),
)


def prediction(request_id: str, rows: int = 1, variant: str = "champion", moment: float | None = None) -> Predictions:
    given = [{"n": 1.5, "b": True, "c": "x", "t": 60}, {"n": None, "b": None, "c": None, "t": None}][:rows]
    outputs = np.full((rows, 2), 0.5, np.float32)
    raw, now = raw_from_rows(given, SCHEMA), time.time() if moment is None else moment
    return Predictions([request_id], ["u"], [rows], now, 3, variant, raw, outputs, [1.25], SCHEMA)


def feedback(request_id: str, label: str = "yes", moment: float | None = None, row: int = 0) -> Feedback:
    return Feedback([request_id], [row], time.time() if moment is None else moment, [label], [None])


def predict(into, *asked: Predictions) -> None:
    """Append a segment."""
    (table,) = prediction_tables(list(asked))
    append_segment(into, table)


def tell(into, *told: Feedback) -> None:
    """Append a segment."""
    (table,) = feedback_tables(list(told))
    append_segment(into, table)


def feedback_writer(into, flush_s: float = 60.0, limit: int = 1000) -> SegmentWriter[Feedback]:
    return SegmentWriter(into, feedback_tables, flush_s, limit)

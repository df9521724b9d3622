"""Records: typed, durable where promised, joined with the first feedback, readable while being written."""

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import records
from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from cluster.records import FEEDBACK_SCHEMA, Predictions, SegmentWriter

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
NOW = datetime.now(UTC)


def prediction(request_id: str, rows: int = 1) -> Predictions:
    given = [{"n": 1.5, "b": True, "c": "x", "t": 60}, {"n": None, "b": None, "c": None, "t": None}][:rows]
    outputs = np.full((rows, 2), 0.5, np.float32)
    raw, now = raw_from_rows(given, SCHEMA), time.time()
    return Predictions([request_id], ["u"], [rows], now, 3, "champion", raw, outputs, [1.25], SCHEMA)


def feedback(request_id: str, label: str, minutes: int, row: int = 0) -> dict[str, object]:
    moment = NOW + timedelta(minutes=minutes)
    return {"request_id": request_id, "row": row, "time": moment, "label": label, "value": None}


def write(into, make_table, items) -> None:
    writer = SegmentWriter(into, make_table, 0.01, 1000)
    for item in items:
        writer.append(item)
    writer.close()


@pytest.fixture
def name(tmp_path):
    def table(batch):
        return records.prediction_table(batch, SCHEMA)

    write(records.folder(tmp_path, "predictions", "m"), table, [prediction("a", 2), prediction("b"), prediction("c")])
    return "m"


def test_inputs_come_back_typed(tmp_path, name) -> None:
    (table,) = records.read_joined(tmp_path, name)
    assert table.schema.field("inputs").type.field("t").type == pa.timestamp("ms")
    first, second = table.to_pylist()[:2]
    assert first["inputs"] == {"n": 1.5, "b": True, "c": "x", "t": datetime(1970, 1, 1, 0, 1)}
    assert second["inputs"] == {"n": None, "b": None, "c": None, "t": None}
    assert (first["row"], second["row"], first["version"], first["outputs"]) == (0, 1, 3, [0.5, 0.5])
    assert table["label"].null_count == 4


def test_the_first_feedback_counts_however_late_and_out_of_order(tmp_path, name) -> None:
    told = [feedback("b", "no", 9), feedback("b", "yes", 1), feedback("a", "no", 2, row=1), feedback("zzz", "no", 0)]
    for item in told:
        write(records.folder(tmp_path, "feedback", name), lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA), [item])
    labels = {}
    for table in records.read_joined(tmp_path, name):
        labels |= {(row["request_id"], row["row"]): row["label"] for row in table.to_pylist()}
    assert labels == {("a", 0): None, ("a", 1): "no", ("b", 0): "yes", ("c", 0): None}


def test_acknowledged_means_on_disk(tmp_path) -> None:
    into = records.folder(tmp_path, "feedback", "m")
    writer = SegmentWriter(into, lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA), 0.01, 1000)
    writer.append_durably(feedback("a", "yes", 0)).result(timeout=10)
    dataset = records.read(tmp_path, "feedback", "m")
    assert dataset is not None
    assert dataset.to_table()["request_id"].to_pylist() == ["a"]
    writer.close()


def test_what_is_written_can_be_read_all_the_while(tmp_path) -> None:
    big = pa.table({"noise": np.random.default_rng(0).random(300_000)})  # takes a while to write
    into = records.folder(tmp_path, "feedback", "m")
    writer = SegmentWriter(into, lambda batch: pa.concat_tables([big] * len(batch)), 0.001, 1000)
    seen = [0]
    for _ in range(12):
        future = writer.append_durably(None)
        while not future.done():
            dataset = records.read(tmp_path, "feedback", "m")
            seen.append(dataset.count_rows() if dataset else 0)
    writer.close()
    assert seen == sorted(seen)  # nothing half written, nothing lost
    assert set(seen) <= {len(big) * count for count in range(13)}
    assert records.read(tmp_path, "feedback", "m").count_rows() == 12 * len(big)
    assert not list(into.rglob("*.unfinished"))


def test_many_acknowledgements_share_a_segment(tmp_path) -> None:
    into = records.folder(tmp_path, "feedback", "m")
    writer = SegmentWriter(into, lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA), 0.05, 1000)
    futures = [writer.append_durably(feedback(str(i), "yes", 0)) for i in range(100)]
    for i, future in enumerate(futures):
        future.result(timeout=10)
        assert str(i) in records.read(tmp_path, "feedback", "m").to_table()["request_id"].to_pylist()
    assert len(list(into.rglob("*.parquet"))) < 10
    writer.close()


def test_without_predictions_there_is_nothing_to_join(tmp_path) -> None:
    write(
        records.folder(tmp_path, "feedback", "m"),
        lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA),
        [feedback("a", "no", 0)],
    )
    assert records.read(tmp_path, "predictions", "m") is None
    assert list(records.read_joined(tmp_path, "m")) == []


def test_what_cannot_be_kept_is_not_acknowledged_and_what_does_not_fit_is_counted(tmp_path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    writer = SegmentWriter(tmp_path / "taken", lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA), 0.01, 1000)
    with pytest.raises(OSError, match="taken"):
        writer.append_durably(feedback("a", "yes", 0)).result(timeout=10)
    writer.close()
    full = SegmentWriter(tmp_path / "x", lambda b: pa.Table.from_pylist(b, FEEDBACK_SCHEMA), 60, 2)
    for _ in range(5):
        full.append(feedback("a", "yes", 0))
    assert full.dropped == 3
    with pytest.raises(OSError, match="too many records wait"):
        full.append_durably(feedback("a", "yes", 0)).result(timeout=10)
    full.close()
    assert len(list((tmp_path / "x").rglob("*.parquet"))) == 1


MIXED = ModelSchema("y", "binary", ("no", "yes"), (ColumnSchema("n", "number"), ColumnSchema("w", "text", length=99)))


@given(
    st.lists(
        st.lists(st.lists(st.tuples(st.floats(width=32, allow_infinity=False) | st.none(), st.text()), min_size=1))
    ),
)
def test_requests_of_one_batch_are_recorded_each_with_its_own_rows(batches) -> None:
    """`batches`: batches of requests of rows."""
    batches = [batch for batch in batches if batch]
    wanted, made = [], []
    for b, batch in enumerate(batches):
        rows = [{"n": n, "w": w.replace("\0", "")} for request in batch for n, w in request]
        ids, counts = [f"{b}/{i}" for i in range(len(batch))], [len(request) for request in batch]
        outputs = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
        raw, took = raw_from_rows(rows, MIXED), [float(i) for i in range(len(batch))]
        made.append(
            Predictions(ids, [f"u{i}" for i in ids], counts, b + 0.25, b, "champion", raw, outputs, took, MIXED)
        )
        places = [(request, row) for request, count in enumerate(counts) for row in range(count)]
        for at, (request, row) in enumerate(places):
            text = rows[at]["w"].encode()[:99].decode(errors="ignore") or None
            own = (ids[request], row, f"u{ids[request]}", float(request), b, datetime.fromtimestamp(b + 0.25, UTC))
            wanted.append((*own, text, outputs[at].tolist()))
    if not made:
        return
    table = records.prediction_table(made, MIXED)
    keys = ("request_id", "row", "unit", "latency_ms", "version", "time")
    found = [(*(row[key] for key in keys), row["inputs"]["w"], row["outputs"]) for row in table.to_pylist()]
    assert found == wanted

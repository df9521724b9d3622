"""Records as they are made: typed, each request with its own rows, without what is to be left out or hashed."""

import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import records
from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from cluster.privacy import Privacy, check_columns, record_key
from cluster.records import Predictions
from conf.errors import BadInput
from conf.service import Records
from tests.cluster.appending import SCHEMA, prediction


def test_inputs_are_typed() -> None:
    (table,) = records.prediction_tables([prediction("a", 2), prediction("b")])
    assert table.schema == records.prediction_schema(SCHEMA)
    assert table.schema.field("inputs").type.field("t").type == pa.timestamp("ms")
    first, second, third = table.to_pylist()
    assert first["inputs"] == {"n": 1.5, "b": True, "c": "x", "t": datetime(1970, 1, 1, 0, 1)}
    assert second["inputs"] == {"n": None, "b": None, "c": None, "t": None}
    assert (first["row"], second["row"], first["version"], first["outputs"]) == (0, 1, 3, [0.5, 0.5])
    assert (third["request_id"], third["row"]) == ("b", 0)


def test_models_with_other_columns_are_recorded_beside_each_other() -> None:
    other = ModelSchema("y", "binary", ("no", "yes"), SCHEMA.columns[:1])
    of_other = replace(prediction("o"), schema=other, raw={"n": np.ones((1, 1), np.float32)})
    first, second = records.prediction_tables([prediction("a"), of_other, prediction("b")])
    assert [table["request_id"].to_pylist() for table in (first, second)] == [["a", "b"], ["o"]]
    assert second["inputs"].to_pylist() == [{"n": 1.0}]


MIXED = ModelSchema("y", "binary", ("no", "yes"), (ColumnSchema("n", "number"), ColumnSchema("w", "text", length=99)))


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.sets(st.text(max_size=12), min_size=40), st.floats(0, 1))
def test_a_sample_is_the_same_everywhere_and_grows_with_its_share(ids, share) -> None:
    def kept(of: float) -> set[str]:
        tables = records.prediction_tables([prediction(one, 2) for one in sorted(ids)], Privacy(sample=of))
        found = [row["request_id"] for table in tables for row in table.to_pylist()]
        assert sorted(found) == sorted(2 * list(set(found)))  # a request whole or not at all
        return set(found)

    assert kept(share) == kept(share) == {one for one in ids if Privacy(sample=share).sampled(one)}
    assert kept(0.0) == set() <= kept(share / 2) <= kept(share) <= kept(1.0) == ids


def test_a_sample_has_the_share_that_was_asked_for() -> None:
    sampled = sum(Privacy(sample=0.1).sampled(f"request-{i}") for i in range(20_000))
    assert abs(sampled - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_what_is_left_out_or_hashed_is_not_in_the_records(tmp_path) -> None:
    said = Records(omit=["n", "t"], hash=["c", "b", "unit"])
    (table,) = records.prediction_tables([prediction("a", 2), prediction("b")], Privacy.of(said, tmp_path))
    assert table.schema == records.prediction_schema(SCHEMA, Privacy.of(said, tmp_path))
    kinds = table.schema.field("inputs").type
    assert [kinds.field(name).type for name in "nbct"] == [pa.float32(), pa.string(), pa.string(), pa.timestamp("ms")]
    first, second, third = table.to_pylist()
    assert first["inputs"] == third["inputs"]
    assert {name: first["inputs"][name] for name in "nt"} == {"n": None, "t": None}
    assert second["inputs"] == dict.fromkeys("nbct")
    for hashed in (first["inputs"]["c"], first["inputs"]["b"], first["unit"]):
        assert len(bytes.fromhex(hashed)) == 8
    (elsewhere,) = records.prediction_tables([prediction("a")], Privacy.of(said, tmp_path / "elsewhere"))
    assert elsewhere["inputs"][0]["c"].as_py() != first["inputs"]["c"]  # not to be guessed without the key


def test_the_key_is_made_once_and_for_this_user_alone(tmp_path) -> None:
    keys, barrier = [], threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        keys.append(record_key(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert set(keys) == {record_key(tmp_path)}
    assert len(keys[0]) == 32
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["key"]
    assert stat.S_IMODE((tmp_path / "records" / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "said, sentence",
    [
        (
            Records(omit=["m"]),
            "serving.records.omit: 'm' is no column of the model; allowed: b, c, n, t, unit",
        ),
        (Records(hash=["N"]), "serving.records.hash: 'N' is no column of the model"),
        (Records(omit=["n"], hash=["n"]), "is left out by serving.records.omit too"),
    ],
)
def test_a_column_that_is_not_there_is_refused(said, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_columns(said, SCHEMA)
    check_columns(Records(omit=["n"], hash=["unit"]), SCHEMA)

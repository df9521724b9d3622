"""The codec: rows, columns and tables give the same raw columns; whatever is wrong is named."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.columns import (
    MISSING_TIME,
    ColumnSchema,
    ModelSchema,
    category_text,
    joined,
    raw_from_columns,
    raw_from_rows,
    raw_from_table,
    text_bytes,
)
from conf.errors import BadInput
from jobs.data.encode import encode

SCHEMA = ModelSchema(
    "y",
    "binary",
    ("no", "yes"),
    (
        ColumnSchema("n", "number"),
        ColumnSchema("b", "boolean"),
        ColumnSchema("c", "category", categories=("x", "y", "")),
        ColumnSchema("t", "time", parts=("hour",)),
    ),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.floats(-(2.0**100), 2.0**100, width=32),
            "b": st.none() | st.booleans(),
            "c": st.none() | st.text(max_size=3),
            "t": st.none() | st.integers(-(10**9), 4 * 10**9),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_rows_columns_and_tables_agree(rows) -> None:
    columns = {name: [row[name] for row in rows] for name in "nbct"}
    table = pa.table(
        {
            "n": pa.array(columns["n"], pa.float64()),
            "b": pa.array(columns["b"], pa.bool_()),
            "c": pa.array(columns["c"], pa.string()),
            "t": pa.array(columns["t"], pa.timestamp("s")),
        }
    )
    made = raw_from_rows(rows, SCHEMA)
    for other in (raw_from_columns(columns, SCHEMA), raw_from_table(table, SCHEMA)):
        for name in "nbct":
            assert other[name].shape == (len(rows), 1)
            assert other[name].dtype == made[name].dtype
            np.testing.assert_array_equal(made[name], other[name])


def test_missing_values_and_unseen_categories_have_their_codes() -> None:
    raw = raw_from_rows(
        [{"n": None, "b": None, "c": "never seen", "t": None}, {"n": 1, "b": True, "c": "y", "t": 0}], SCHEMA
    )
    encoded = encode(raw, SCHEMA)
    assert np.isnan(encoded.numbers[0]).all()
    assert encoded.codes.tolist() == [[0], [2]]
    assert encoded.times.tolist() == [[MISSING_TIME], [0]]


@pytest.mark.parametrize(
    "value,text",
    [(7, "7"), (7.0, "7"), (7.5, "7.5"), (True, "true"), (None, ""), (math.nan, ""), ("a", "a"), (np.int64(3), "3")],
)
def test_a_category_has_one_text(value, text) -> None:
    assert category_text(value) == text


@pytest.mark.parametrize(
    "change,said",
    [
        ({"n": "five"}, "rows[0].n: \"'five'\" is no finite number"),
        ({"n": math.inf}, "rows[0].n"),
        ({"n": 1e300}, "rows[0].n"),
        ({"n": True}, "rows[0].n"),
        ({"n": [1]}, "rows[0].n"),
        ({"b": 2}, "rows[0].b"),
        ({"c": {}}, "rows[0].c"),
        ({"t": "yesterday"}, "rows[0].t"),
        ({"t": 1e300}, "rows[0].t"),
        ({"extra": 1}, "has unknown columns extra"),
    ],
)
def test_a_wrong_value_is_named(change, said) -> None:
    good = {"n": 1.0, "b": True, "c": "x", "t": "2024-01-01T10:00:00"}
    with pytest.raises(BadInput) as raised:
        raw_from_rows([{**good, **change}], SCHEMA)
    assert said in str(raised.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadInput, match=r"rows\[0\]: lacks b, c, t; give every column, null where unknown\."):
        raw_from_rows([{"n": 1.0}], SCHEMA)
    with pytest.raises(BadInput, match=r"columns.b: has 2 values, the first column 1"):
        raw_from_columns({"n": [1], "b": [True, False], "c": ["x"], "t": [0]}, SCHEMA)


def test_schema_reads_back() -> None:
    assert ModelSchema.from_dict(SCHEMA.to_dict()) == SCHEMA


TEXT = ModelSchema("y", "binary", ("no", "yes"), (ColumnSchema("s", "text", length=8),))


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_texts_are_utf8_cut_between_characters_whatever_they_come_in(texts) -> None:
    by_row = raw_from_rows([{"s": text} for text in texts], TEXT)["s"]
    by_column = raw_from_columns({"s": texts}, TEXT)["s"]
    by_table = raw_from_table(pa.table({"s": pa.array(texts, pa.string())}), TEXT)["s"]
    assert by_row.dtype == np.uint8
    assert by_row.tolist() == by_column.tolist() == by_table.tolist()
    for text, row in zip(texts, by_row, strict=True):
        kept = bytes(row).rstrip(b"\0").decode()
        assert (text or "").startswith(kept)
        assert len(kept.encode()) <= 8
        cut = (text or "")[len(kept) :]
        assert not cut or len((kept + cut[0]).encode()) > 8


@pytest.mark.parametrize("wrong", [7, True, ["a"], {"a": 1}, "\ud800"])
def test_what_is_no_text_is_said(wrong) -> None:
    with pytest.raises(BadInput, match=r"^rows\[1\]\.s: .* is no text or null; correct it\."):
        raw_from_rows([{"s": "good"}, {"s": wrong}], TEXT)


def test_a_schema_written_before_there_were_texts_is_read() -> None:
    said = SCHEMA.to_dict()
    for column in said["columns"]:
        del column["length"]
    assert ModelSchema.from_dict(said) == SCHEMA


TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_texts_of_different_widths_join_as_if_sent_together(requests) -> None:
    columns = (ColumnSchema("text", "text", length=64), ColumnSchema("n", "number"))
    schema = ModelSchema("y", "regression", (), columns)
    together = joined([{"text": text_bytes(texts, 64), "n": np.zeros((len(texts), 1))} for texts in requests], schema)
    np.testing.assert_array_equal(together["text"], text_bytes([t for texts in requests for t in texts], 64))
    assert len(together["n"]) == len(together["text"])

"""What a table becomes: types, task, parts, hashes; the sealed parts influence nothing."""

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from conf.errors import BadInput
from conf.schema import Column, Dataset, Split
from jobs.data.content import content_hash
from jobs.data.load import default_name, load, open_sealed, real_rows
from jobs.data.split import assign

RANDOM = Split(fractions={"train": 0.6, "validation": 0.2, "test": 0.2})


@pytest.mark.parametrize(
    "target,task,classes",
    [("dear", "binary", ("no", "yes")), ("band", "multiclass", ("0", "1", "2")), ("price", "regression", ())],
)
def test_types_and_task_are_inferred_and_said(houses, target, task, classes) -> None:
    cfg = houses(target=target)
    data = load(cfg.dataset, cfg.split)
    assert (data.schema.task, data.schema.classes) == (task, classes)
    kinds = {column.name: column.type for column in data.schema.columns}
    assert kinds == {"size": "number", "rooms": "number", "kind": "category", "garden": "boolean", "sold": "time"}
    assert any(line.startswith(f"{target}: {task}") for line in data.said)
    assert sum(data.sizes.values()) == 400
    assert abs(data.sizes["train"] - 280) <= 2
    assert data.schema.columns[2].categories.count("") == 1  # missing is a category where train has it


def test_parquet_and_csv_read_the_same(houses, small_csv, tmp_path) -> None:
    cfg = houses()
    path = tmp_path / "houses.parquet"
    parquet.write_table(csv.read_csv(small_csv, convert_options=csv.ConvertOptions(strings_can_be_null=True)), path)
    other = Dataset(**{**vars(cfg.dataset), "path": str(path)})
    first, second = load(cfg.dataset, cfg.split), load(other, cfg.split)
    assert first.schema == second.schema
    assert (first.data_hash, first.split_hash) == (second.data_hash, second.split_hash)


def test_sealed_rows_influence_neither_vocabulary_nor_range(tmp_path) -> None:
    days = np.datetime64("2024-01-01") + np.arange(300)
    kinds = np.where(np.arange(300) < 200, np.where(np.arange(300) % 2, "a", "b"), "late")
    table = pa.table({"day": days, "c": kinds, "x": np.arange(300.0), "y": np.arange(300) % 3 // 2})
    parquet.write_table(table, tmp_path / "t.parquet")
    periods = {"train": ["2024-01-01", "2024-05-01"], "validation": ["2024-05-01", "2024-06-01"]}
    periods["test"] = ["2024-06-01", "2025-01-01"]
    dataset = Dataset(name="table", path=str(tmp_path / "t.parquet"), target="y")
    data = load(dataset, Split(method="time", column="day", periods=periods))
    columns = {column.name: column for column in data.schema.columns}
    assert columns["c"].categories == ("a", "b") or columns["c"].categories == ("b", "a")
    assert columns["x"].maximum == 120.0
    assert "late" in open_sealed(dataset, Split(method="time", column="day", periods=periods))["test"].raw["c"]


def test_a_changed_file_is_read_again(tmp_path) -> None:
    dataset = Dataset(name="table", path=str(tmp_path / "t.parquet"), target="y")
    for rows in (200, 300):
        parquet.write_table(pa.table({"x": np.arange(float(rows)) % 7, "y": np.arange(rows) % 2}), dataset.path)
        assert sum(load(dataset, RANDOM).sizes.values()) == rows
        time.sleep(0.01)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 3))
def test_a_split_is_a_partition_and_always_the_same(classes, seed) -> None:
    table = pa.table({"y": classes})
    split = Split(fractions=RANDOM.fractions, seed=seed)
    first, second = (assign(split, table, np.array(classes)) for _ in range(2))
    assert (first.of_row == second.of_row).all()
    assert sorted(np.concatenate([first.rows(part) for part in first.parts])) == list(range(len(classes)))
    for value in set(classes):
        own = first.of_row[np.array(classes) == value]
        assert abs((own == 0).sum() - 0.6 * len(own)) <= 1


@pytest.mark.parametrize(
    "split,said",
    [
        (Split(fractions={"train": 0.9, "validation": 0.2}), "at most 1 in all"),
        (Split(fractions={"train": 0.9}), "lacks validation"),
        (
            Split(method="time", column="z", periods={"train": [], "validation": []}),
            "split.column: 'z' is not a column",
        ),
        (Split(method="time", column="x", periods={"train": [], "validation": []}), "not a time"),
        (Split(method="time", column="d", periods={"train": ["a", "b"], "validation": []}), "is no period"),
        (
            Split(
                method="time",
                column="d",
                periods={"train": ["2024-01-01", "2024-02-01"], "validation": ["2024-01-15", "2024-03-01"]},
            ),
            "overlaps another part",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(split, said) -> None:
    days = np.datetime64("2024-01-01") + np.arange(60)
    table = pa.table({"x": np.arange(60), "d": days.astype("datetime64[s]"), "y": np.arange(60) % 2})
    with pytest.raises(BadInput, match=said):
        assign(split, table, None)


def test_content_hash_knows_values_not_chunks() -> None:
    table = pa.table({"a": [1, None, 3, 4], "b": ["x", "y", None, "x"], "c": [True, None, False, True]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert content_hash(chunked) == content_hash(table)
    assert content_hash(table.slice(0, 3)) != content_hash(table)
    assert content_hash(table.set_column(0, "a", pa.array([1, 0, 3, 4]))) != content_hash(table)


def test_real_rows_are_sealed_ones_with_their_truth(houses) -> None:
    cfg = houses()
    drawn = real_rows(cfg.dataset, cfg.split, 10, seed=1)
    assert (drawn.part, len(drawn.rows), len(set(drawn.units))) == ("test", 10, 10)
    assert set(drawn.labels) <= {"no", "yes"}
    assert drawn == real_rows(cfg.dataset, cfg.split, 10, seed=1)


def test_names_fit_a_url() -> None:
    assert default_name(Dataset(name="table", path="/a/My houses (2).csv", target="y")) == "My-houses-2"
    assert default_name(Dataset(name="flights", target="late")) == "flights"


def test_ids_are_left_out_unless_declared(tmp_path) -> None:
    table = pa.table({"id": [f"id-{i}" for i in range(200)], "x": np.arange(200.0) % 7, "y": np.arange(200) % 2})
    parquet.write_table(table, tmp_path / "t.parquet")
    dataset = Dataset(name="table", path=str(tmp_path / "t.parquet"), target="y")
    data = load(dataset, RANDOM)
    assert [column.name for column in data.schema.columns] == ["x"]
    assert any(line.startswith("id: left out") for line in data.said)
    dataset.columns = {"id": Column(type="category")}
    assert [column.name for column in load(dataset, RANDOM).schema.columns] == ["id", "x"]

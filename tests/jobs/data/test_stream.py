"""A table that is never read whole: the same columns, types, parts and arrays as one that is, in bounded memory."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from conf.errors import BadInput
from conf.schema import Cluster, Column, Dataset, Split
from jobs.data.content import row_hashes
from jobs.data.encode import encode
from jobs.data.load import load, open_sealed, real_rows
from jobs.data.split import assign_alone
from jobs.data.stream import store

ROOT = Path(__file__).parents[3]
ROWS = 4000
MONTHS = {"train": ["2024-01-01", "2024-07-01"], "validation": ["2024-07-01", "2024-10-01"]}
BY_TIME = Split(method="time", column="day", periods={**MONTHS, "test": ["2024-10-01", "2025-01-01"]})
AT_RANDOM = Split(fractions={"train": 0.6, "validation": 0.2, "test": 0.2}, seed=4)


def everything(rows: int = ROWS) -> pa.Table:
    """Return columns of every kind, with gaps, in the target too; n is missing in the first 1,500 rows."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=rows)
    return pa.table(
        {
            "x": pa.array(signal, mask=rng.random(rows) < 0.1),
            "n": pa.array(rng.integers(0, 50, rows), mask=(np.arange(rows) < 1500) | (rng.random(rows) < 0.1)),
            "kind": pa.array(rng.choice(["a", "b", "c", "rare"], rows, p=[0.5, 0.3, 0.19, 0.01])),
            "ok": pa.array(rng.random(rows) < 0.5),
            "day": pa.array(np.datetime64("2024-01-01") + rng.integers(0, 366, rows)),
            "note": pa.array([f"söme text {i}" * (i % 4) for i in range(rows)]),
            "y": pa.array(np.where(signal + rng.normal(size=rows) > 0, "yes", "no"), mask=rng.random(rows) < 0.05),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write the table as files of uneven length, of which the first lacks n."""
    made, table = tmp_path_factory.mktemp("many files"), everything()
    for i, (first, rows) in enumerate(((0, 1500), (1500, 37), (1537, ROWS))):
        own = table.slice(first, rows)
        parquet.write_table(own if i else own.drop_columns("n"), made / f"{i}.parquet", row_group_size=400)
    return made


def dataset(path: Path, loading: str, **said: object) -> Dataset:
    columns = {"note": Column(type="text", length=40)}
    return Dataset(name="table", path=str(path), target="y", loading=loading, columns=columns, **said)


def test_a_streamed_table_is_stored_as_a_whole_one_would_be_encoded(ray_session, folder, tmp_path) -> None:
    whole, streamed = (load(dataset(folder, loading), BY_TIME) for loading in ("memory", "stream"))
    assert streamed.schema == whole.schema
    assert streamed.sizes == whole.sizes
    assert streamed.said[-1] == whole.said[-1]
    stored = store(dataset(folder, "stream"), BY_TIME, streamed, Cluster(storage=str(tmp_path)))
    for part in ("train", "validation"):
        own = getattr(whole, part)
        encoded = encode(own.raw, whole.schema)
        for name, array in zip(stored[part].shapes, (*encoded.blocks, own.target), strict=True):
            np.testing.assert_array_equal(stored[part].array(name), array, err_msg=name)
    again = store(dataset(folder, "stream"), BY_TIME, streamed, Cluster(storage=str(tmp_path)))
    assert again == stored
    assert len(list((tmp_path / "streams").iterdir())) == 1


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_csv_is_streamed_like_parquet(ray_session, folder, tmp_path, suffix) -> None:
    with pa.output_stream(tmp_path / f"table.{suffix}") as file:
        csv.write_csv(everything(), file)
    found = [load(dataset(path, "stream"), AT_RANDOM) for path in (tmp_path / f"table.{suffix}", folder)]
    assert set(found[0].schema.columns) == set(found[1].schema.columns)
    assert (found[0].sizes, found[0].data_hash) == (found[1].sizes, found[1].data_hash)
    stored = [
        store(dataset(path, "stream"), AT_RANDOM, data, Cluster(storage=str(tmp_path / "storage")))
        for path, data in zip((tmp_path / f"table.{suffix}", folder), found, strict=True)
    ]
    for name in ("codes", "times", "text0", "target"):
        np.testing.assert_array_equal(*(parts["train"].array(name) for parts in stored))


@given(cut=st.lists(st.integers(0, 300), max_size=4), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_row_belongs_to_a_part_by_what_it_says_alone(cut, seed) -> None:
    table = everything(300)
    split = Split(fractions=AT_RANDOM.fractions, seed=seed)
    whole = assign_alone(split, table, row_hashes(table))
    order = np.random.default_rng(seed).permutation(300)
    moved = table.take(order)
    edges = [0, *sorted(cut), 300]
    pieces = [moved.slice(first, end - first) for first, end in pairwise(edges)]
    apart = np.concatenate([assign_alone(split, piece, row_hashes(piece)) for piece in pieces])
    np.testing.assert_array_equal(apart, whole[order])


def test_parts_have_their_shares_whatever_the_seed() -> None:
    table = everything(20_000)
    hashes = row_hashes(table)
    parts = [assign_alone(Split(fractions=AT_RANDOM.fractions, seed=seed), table, hashes) for seed in (1, 2)]
    for part in parts:
        np.testing.assert_allclose(np.bincount(part) / 20_000, [0.6, 0.2, 0.2], atol=0.015)
    np.testing.assert_allclose((parts[0] == parts[1]).mean(), 0.6**2 + 0.2**2 + 0.2**2, atol=0.02)


def test_a_sample_is_bounded_uniform_and_says_the_true_sizes(tmp_path) -> None:
    rng = np.random.default_rng(1)
    rows = 60_000
    table = pa.table({"place": np.arange(rows), "noise": rng.normal(size=rows), "y": rng.integers(0, 2, rows)})
    parquet.write_table(table, tmp_path / "t.parquet")
    said = Dataset(name="table", path=str(tmp_path / "t.parquet"), target="y", loading="stream", sample_rows=2000)
    data = load(said, AT_RANDOM)
    assert len(data.train.target) == len(data.validation.target) == 2000
    assert sum(data.sizes.values()) == rows
    places = data.train.raw["place"][:, 0]
    assert (np.diff(places) > 0).all()
    assert abs(places.mean() - rows / 2) < 5 * rows / np.sqrt(12 * 2000)
    assert len(open_sealed(said, AT_RANDOM)["test"].target) == 2000
    assert len(real_rows(said, AT_RANDOM, 50, 0).rows) == 50


def refused(table: pa.Table, folder: Path, said: str, **more: object) -> None:
    parquet.write_table(table, folder / "t.parquet")
    told = Dataset(name="table", path=str(folder / "t.parquet"), target="y", loading="stream", sample_rows=1000, **more)
    with pytest.raises(BadInput, match=said):
        store(told, AT_RANDOM, load(told, AT_RANDOM), Cluster(storage=str(folder / "storage")))
    assert not list((folder / "storage" / "streams").glob("*"))


def test_a_class_that_the_sample_has_no_row_of_is_refused(tmp_path) -> None:
    classes = np.array(["a", "b"] * 10_000 + ["rare"])
    table = pa.table({"x": np.random.default_rng(0).normal(size=len(classes)), "y": classes})
    refused(table, tmp_path, r"class 'rare', of which a sample of 1,000 rows has none; raise dataset\.sample_rows")


def test_an_infinite_value_outside_the_sample_is_refused_and_nothing_is_left(ray_session, tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50_000)
    x[49_997] = np.inf
    table = pa.table({"x": x, "y": rng.integers(0, 2, len(x))})
    refused(table, tmp_path, "column x: has infinite values in 1 rows")


def test_what_cannot_be_streamed_is_said(tmp_path, folder) -> None:
    made = Dataset(name="d", source={"_target_": "jobs.data.digits.digits"}, target="digit", loading="stream")
    with pytest.raises(BadInput, match=r"dataset\.loading: 'stream' reads files, and dataset\.source makes a table"):
        load(made, AT_RANDOM)
    csv.write_csv(everything(50), tmp_path / "a.csv")
    parquet.write_table(everything(50), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match="has CSV and Parquet files; give one format"):
        load(dataset(tmp_path, "stream"), AT_RANDOM)
    with pytest.raises(BadInput, match=r"dataset\.target: 'z' is not a column"):
        load(Dataset(name="table", path=str(folder), target="z", loading="stream"), AT_RANDOM)
    with pytest.raises(BadInput, match=r"dataset\.path: .* does not exist"):
        load(dataset(tmp_path / "nowhere", "stream"), AT_RANDOM)


CAPPED = """
import resource, sys
from pathlib import Path
from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.load import load
from jobs.training.context import LocalContext
from jobs.training.examples import prepare
from jobs.training.loop import fit

def trained(*said):
    fixed = ["dataset=table", "dataset.target=y", "model=linear", "training.epochs=1"]
    cfg = compose("train", [*fixed, *said], TrainConfig)
    return fit(cfg, prepare(cfg, load(cfg.dataset, cfg.split)), LocalContext())

small, *large = sys.argv[2:]
trained(small)  # what any training takes
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
cap = int(status["VmData"].split()[0]) * 1024 + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
print(trained(*large).history)
"""


def test_training_on_a_stream_needs_less_memory_than_the_table(ray_session, train_config, tmp_path) -> None:
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=2_000_000) for i in range(16)}
    table = pa.table({**columns, "y": (columns["x0"] + rng.normal(size=2_000_000) > 0).astype(int)})
    large, small = tmp_path / "large.parquet", tmp_path / "small.parquet"
    parquet.write_table(table, large, row_group_size=2**16)
    parquet.write_table(table.slice(0, 2000), small)
    said = [f"dataset.path='{large}'", "dataset.sample_rows=20000", f"cluster.storage='{tmp_path}'"]
    cfg = train_config("dataset=table", "dataset.target=y", "dataset.loading=stream", *said)
    store(cfg.dataset, cfg.split, load(cfg.dataset, cfg.split), cfg.cluster)
    ended = {}
    for loading in ("memory", "stream"):
        given = [f"dataset.path='{small}'", f"dataset.loading={loading}", *said]
        command = [sys.executable, "-c", CAPPED, str(table.nbytes // 2), *given]
        ended[loading] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended["memory"].returncode != 0, "the cap keeps nothing from being read whole"
    assert ended["stream"].returncode == 0, ended["stream"].stderr[-3000:]

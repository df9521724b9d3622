"""The data of a run: read, checked, split, typed. The sealed parts are counted, not opened."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import Array, ModelSchema, Raw, category_texts, raw_from_table
from conf.compose import from_yaml, to_yaml
from conf.errors import BadInput
from conf.schema import Dataset, Split, TrainConfig
from jobs.data.checks import (
    check_classes,
    check_finite,
    check_known,
    check_leakage,
    check_parts,
    check_table,
    check_target,
)
from jobs.data.content import content_hash
from jobs.data.infer import input_columns
from jobs.data.sample import look
from jobs.data.source import read
from jobs.data.split import Assignment, assign
from jobs.data.target import Target, make_target


@dataclass(frozen=True)
class Part:
    """Rows of one part: raw columns and target [N] (int64 class index, or float32)."""

    raw: Raw
    target: Array


@dataclass(frozen=True)
class Data:
    """What a run may see. sizes: rows of every part; said: what was inferred, dropped or is worth a word."""

    name: str
    schema: ModelSchema
    train: Part
    validation: Part
    sizes: dict[str, int]
    data_hash: str
    split_hash: str
    example: tuple[dict[str, object], ...]  # a few validation rows as a client would send them
    said: tuple[str, ...]


@dataclass(frozen=True)
class _Frame:
    """The whole table with a target in every row, and who may see which row."""

    table: pa.Table
    target: Target
    split: Assignment
    data: Data

    def part(self, name: str) -> Part:
        rows = self.split.rows(name)
        return Part(raw_from_table(self.table.take(rows), self.data.schema), self.target.values[rows])


def load(dataset: Dataset, split: Split) -> Data:
    """Read, check, split and type a dataset; raises BadInput for whatever is wrong with it.

    The schema (types, vocabularies, ranges) comes from the train part alone. Equal arguments give the same object.
    """
    return _frame(dataset, split).data


def open_sealed(dataset: Dataset, split: Split) -> dict[str, Part]:
    """Return the sealed parts by name. Only a final evaluation may call this; it records that it did."""
    frame = _frame(dataset, split)
    if not frame.split.sealed:
        raise BadInput("split", split.method, "has no sealed part", "state a test part")
    return {part: frame.part(part) for part in frame.split.sealed}


@dataclass(frozen=True)
class Requests:
    """Real rows of a sealed part as a client would send them; labels are class names or numbers."""

    part: str
    rows: tuple[dict[str, object], ...]
    labels: tuple[str | float, ...]
    units: tuple[str, ...]


def real_rows(dataset: Dataset, split: Split, count: int, seed: int) -> Requests:
    """Draw rows of the last sealed part (a later month, where the split is by time), without replacement."""
    frame = _frame(dataset, split)
    part = frame.split.parts[-1]
    rows = frame.split.rows(part)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    values = frame.target.values[drawn]
    classes = frame.target.classes
    return Requests(
        part,
        _json_rows(frame.table.take(drawn), frame.data.schema),
        tuple(classes[int(v)] if classes else float(v) for v in values),
        tuple(f"row-{row}" for row in drawn),
    )


def default_name(dataset: Dataset) -> str:
    """Return the registered model's name: the dataset's, for `table` the file's stem, fit for a URL."""
    stem = Path(dataset.path).name.split(".")[0] if dataset.name == "table" and dataset.path else dataset.name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "table"


def _frame(dataset: Dataset, split: Split) -> _Frame:
    written = to_yaml(TrainConfig(dataset=dataset, split=split))
    files = [Path(dataset.path)] if dataset.path and Path(dataset.path).is_file() else []
    return _make_frame(written, tuple((str(f), f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=2)
def _make_frame(written: str, _stamps: tuple[tuple[str, int], ...]) -> _Frame:
    """Make the frame of a config as text, anew when the file has changed."""
    cfg = from_yaml(written, TrainConfig)
    dataset, checks = cfg.dataset, cfg.dataset.checks
    seen = _sampled(cfg) if dataset.loading == "stream" else _read_whole(cfg)
    table, target, assignment = seen.table, seen.target, seen.assignment
    check_parts(checks, target, assignment)
    train_rows = assignment.rows("train")
    train = table.take(train_rows)
    columns, said = input_columns(dataset, train)
    check_known(dataset, columns, seen.whole)
    check_finite(columns, table)
    schema = ModelSchema(dataset.target, target.task, target.classes, columns)
    raw = raw_from_table(train, schema)
    close = check_leakage(checks, columns, raw, replace(target, values=target.values[train_rows]))
    words = [f"{sum(seen.sizes.values()):,} rows: " + ", ".join(f"{part} {n:,}" for part, n in seen.sizes.items())]
    words += [f"streamed: types and statistics come from {len(train_rows):,} rows of train"] if seen.streamed else []
    words += [f"{seen.dropped:,} rows without {dataset.target} dropped"] if seen.dropped else []
    data = Data(
        name=dataset.name,
        schema=schema,
        train=Part(raw, target.values[train_rows]),
        validation=Part({}, target.values[:0]),
        sizes=seen.sizes,
        data_hash=seen.data_hash,
        split_hash=seen.split_hash,
        example=_json_rows(table.take(assignment.rows("validation")[:5]), schema),
        said=(*words, target.said, *said, *close),
    )
    frame = _Frame(table, target, assignment, data)
    return replace(frame, data=replace(data, validation=frame.part("validation")))


@dataclass(frozen=True)
class _Seen:
    """The rows at hand, all or a sample of each part, and what is known of all.

    whole: those without a target too; table, target, assignment: those with one; dropped: how many have none.
    """

    whole: pa.Table
    table: pa.Table
    target: Target
    assignment: Assignment
    sizes: dict[str, int]
    dropped: int
    data_hash: str
    split_hash: str
    streamed: bool


def _read_whole(cfg: TrainConfig) -> _Seen:
    whole = read(cfg.dataset)
    check_table(cfg.dataset, whole)
    check_target(cfg.dataset, whole.column_names)
    table, target = _with_target(cfg.dataset, whole)
    assignment = assign(cfg.split, table, target.values if target.classes else None)
    sizes = {part: len(assignment.rows(part)) for part in assignment.parts}
    dropped = whole.num_rows - table.num_rows
    hashes = content_hash(whole), _split_hash(assignment)
    return _Seen(whole, table, target, assignment, sizes, dropped, *hashes, streamed=False)


def _sampled(cfg: TrainConfig) -> _Seen:
    looked = look(cfg.dataset, cfg.split)
    table, target = _with_target(cfg.dataset, looked.table)
    check_classes(cfg.dataset, target, looked.values)
    said = to_yaml(TrainConfig(split=cfg.split))  # with the rows themselves it says where each belongs
    hashes = looked.data_hash, hashlib.sha256(said.encode()).hexdigest()
    sizes, dropped = looked.sizes, looked.dropped
    return _Seen(looked.table, table, target, looked.assignment(), sizes, dropped, *hashes, streamed=True)


def _with_target(dataset: Dataset, whole: pa.Table) -> tuple[pa.Table, Target]:
    """Return the rows that have a target, and it."""
    table = whole.filter(pc.is_valid(whole[dataset.target])).combine_chunks()
    if table.num_rows == 0:
        raise BadInput("dataset.target", dataset.target, "has no value at all", "name a column with values")
    return table, make_target(dataset, table)


def _split_hash(assignment: Assignment) -> str:
    digest = hashlib.sha256(",".join(assignment.parts).encode())
    digest.update(assignment.of_row.tobytes())
    return digest.hexdigest()


def _json_rows(table: pa.Table, schema: ModelSchema) -> tuple[dict[str, object], ...]:
    """Return the rows' inputs as a client would send them."""
    columns = {c.name: _json(table[c.name], c.type) for c in schema.columns}
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _json(values: pa.ChunkedArray, kind: str) -> list[object]:
    """Return values as JSON would carry them."""
    if kind == "time":
        return [None if v is None else v.isoformat() for v in values.to_pylist()]
    if kind in ("category", "text"):
        return [text or None for text in category_texts(values).to_pylist()]
    return list(values.to_pylist())

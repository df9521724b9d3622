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
from conf.errors import BadInput, nearest
from conf.schema import Dataset, Split, TrainConfig
from jobs.data.checks import check_finite, check_known, check_leakage, check_parts, check_table
from jobs.data.infer import input_columns
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
    whole = read(dataset)
    check_table(dataset, whole)
    if dataset.target not in whole.column_names:
        raise BadInput("dataset.target", dataset.target, "is not a column", nearest(dataset.target, whole.column_names))
    table = whole.filter(pc.is_valid(whole[dataset.target])).combine_chunks()
    dropped = whole.num_rows - table.num_rows
    if table.num_rows == 0:
        raise BadInput("dataset.target", dataset.target, "has no value at all", "name a column with values")
    target = make_target(dataset, table)
    assignment = assign(cfg.split, table, target.values if target.classes else None)
    check_parts(checks, target, assignment)
    train_rows = assignment.rows("train")
    train = table.take(train_rows)
    columns, said = input_columns(dataset, train)
    check_known(dataset, columns, whole)
    check_finite(columns, table)
    schema = ModelSchema(dataset.target, target.task, target.classes, columns)
    raw = raw_from_table(train, schema)
    close = check_leakage(checks, columns, raw, replace(target, values=target.values[train_rows]))
    sizes = {part: len(assignment.rows(part)) for part in assignment.parts}
    words = [f"{table.num_rows:,} rows: " + ", ".join(f"{part} {rows:,}" for part, rows in sizes.items())]
    words += [f"{dropped:,} rows without {dataset.target} dropped"] if dropped else []
    data = Data(
        name=dataset.name,
        schema=schema,
        train=Part(raw, target.values[train_rows]),
        validation=Part({}, target.values[:0]),
        sizes=sizes,
        data_hash=content_hash(whole),
        split_hash=_split_hash(assignment),
        example=_json_rows(table.take(assignment.rows("validation")[:5]), schema),
        said=(*words, target.said, *said, *close),
    )
    frame = _Frame(table, target, assignment, data)
    return replace(frame, data=replace(data, validation=frame.part("validation")))


def content_hash(table: pa.Table) -> str:
    """Return the sha256 of names, types and values in order, whatever the chunks or the file they came from."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{column.type};".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(pc.fill_null(column, 0).to_numpy().tobytes())
        else:
            encoded = category_texts(column).combine_chunks().dictionary_encode()
            encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
            digest.update("\x00".join(encoded.dictionary.to_pylist()).encode())
            digest.update(encoded.indices.to_numpy().tobytes())
    return digest.hexdigest()


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

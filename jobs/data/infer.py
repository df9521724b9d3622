"""Which columns are inputs and of what kind: declared, else inferred from the train part alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import ColumnSchema, category_texts
from conf.errors import BadInput, nearest
from conf.schema import Column, Dataset

UNIQUE_SHARE = 0.5  # texts of which more than this share are distinct are taken for names or ids


def input_columns(dataset: Dataset, train: pa.Table) -> tuple[tuple[ColumnSchema, ...], list[str]]:
    """Return the inputs' schema and what there is to say; raises BadInput for a column that cannot be used."""
    _check_named(dataset, train.column_names)
    columns, said = [], []
    for name in train.column_names:
        declared = dataset.columns.get(name)
        if name == dataset.target or name in dataset.exclude:
            continue
        if declared is None and dataset.only_declared:
            continue
        if declared is not None and declared.known_at == "after":
            said.append(f"{name}: known only afterwards, no input")
            continue
        column, why_not = _column(name, train[name], declared or Column(), declared is not None, dataset)
        if column is None:
            said.append(f"{name}: left out ({why_not})")
        else:
            columns.append(column)
    if not columns:
        raise BadInput("dataset", dataset.name, "has no input column left", "declare or add at least one column")
    kinds = [column.type for column in columns]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return tuple(columns), [f"{len(columns)} inputs: {counted}", *said]


def _check_named(dataset: Dataset, names: list[str]) -> None:
    """Refuse a declared, excluded or target column that the table does not have."""
    if dataset.target not in names:
        raise BadInput("dataset.target", dataset.target, "is not a column", nearest(dataset.target, names))
    for name in dataset.exclude:
        if name not in names:
            raise BadInput("dataset.exclude", name, "is not a column", nearest(name, names))
    for name in dataset.columns:
        if name not in names:
            raise BadInput(f"dataset.columns.{name}", None, "is not a column", nearest(name, names))


def _column(
    name: str, values: pa.ChunkedArray, said: Column, declared: bool, dataset: Dataset
) -> tuple[ColumnSchema | None, str]:
    """Return the column's schema, or None and why it is left out."""
    if values.null_count == len(values):
        raise BadInput(f"column {name}", None, "has no value in the train part", f"add dataset.exclude=[{name}]")
    kind = said.type if said.type != "auto" else _kind(values.type)
    if kind is None:
        return None, f"{values.type} is no type of input"
    if kind in ("number", "boolean"):
        return _number(name, values, kind)
    if kind == "time":
        return _time(name, values, tuple(said.parts))
    if kind == "text":
        return ColumnSchema(name, "text", length=said.length), ""
    return _category(name, values, declared and said.type == "category", dataset.checks.max_categories)


def _kind(arrow: pa.DataType) -> str | None:
    if pa.types.is_dictionary(arrow):
        return _kind(arrow.value_type)
    if pa.types.is_boolean(arrow):
        return "boolean"
    if pa.types.is_integer(arrow) or pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return "number"
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "category"
    return "time" if pa.types.is_timestamp(arrow) or pa.types.is_date(arrow) else None


def _number(name: str, values: pa.ChunkedArray, kind: str) -> tuple[ColumnSchema | None, str]:
    try:
        numbers = pc.cast(values.drop_null(), pa.float64()).to_numpy()
    except pa.ArrowException as error:
        remedy = f"say dataset.columns.{name}.type=category"
        raise BadInput(f"column {name}", None, f"is {values.type}, not a {kind}", remedy) from error
    if np.isinf(numbers).any() or (np.abs(numbers) > np.finfo(np.float32).max).any():
        raise BadInput(f"column {name}", None, "has infinite values", "make them missing, or exclude the column")
    numbers = numbers[~np.isnan(numbers)]
    if kind == "boolean" and not np.isin(numbers, (0, 1)).all():
        raise BadInput(f"column {name}", None, "is not only true and false", f"say dataset.columns.{name}.type=number")
    if len(numbers) == 0:
        raise BadInput(f"column {name}", None, "has no value in the train part", f"add dataset.exclude=[{name}]")
    low, high = float(numbers.min()), float(numbers.max())
    if low == high and len(numbers) == len(values):
        return None, f"constant, {low:g}"
    return ColumnSchema(name, kind, minimum=low, maximum=high), ""


def _time(name: str, values: pa.ChunkedArray, parts: tuple[str, ...]) -> tuple[ColumnSchema | None, str]:
    try:
        stamps = pc.cast(values, pa.timestamp("s"), safe=False)
    except pa.ArrowException as error:
        remedy = "write ISO 8601 dates, or declare another type"
        raise BadInput(f"column {name}", None, f"is {values.type}, not a time", remedy) from error
    seconds = pc.cast(stamps, pa.int64())
    low, high = pc.min(seconds).as_py(), pc.max(seconds).as_py()
    if low == high and values.null_count == 0:
        return None, "constant"
    return ColumnSchema(name, "time", minimum=low, maximum=high, parts=parts), ""


def _category(name: str, values: pa.ChunkedArray, declared: bool, most: int) -> tuple[ColumnSchema | None, str]:
    texts = category_texts(values)
    counted = pc.value_counts(texts)
    pairs = zip(counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True)
    ordered = [text for _, text in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))]
    if len(ordered) == 1:
        return None, f"constant, {ordered[0]!r}"
    too_many = len(ordered) > most or (len(values) >= 100 and len(ordered) > UNIQUE_SHARE * len(values))
    if too_many and not declared:
        return (
            None,
            f"{len(ordered):,} distinct texts; declare its type text, or category for the {most:,} most frequent",
        )
    return ColumnSchema(name, "category", categories=tuple(ordered[:most])), ""

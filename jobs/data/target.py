"""The target column: which task it makes, its classes, and the numbers to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import Array, category_texts
from conf.errors import BadInput, nearest
from conf.schema import Dataset

MOST_CLASSES = 1000
FEW = 20  # whole numbers with at most so many distinct values are taken for classes


@dataclass(frozen=True)
class Target:
    """task: binary, multiclass or regression; values [N]: int64 class index, or float32; said: how it was inferred."""

    task: str
    classes: tuple[str, ...]
    values: Array
    said: str


def make_target(dataset: Dataset, table: pa.Table) -> Target:
    """Make the target of rows that all have one; raises BadInput where it is constant or fits no task."""
    values = table[dataset.target]
    distinct = len(pc.unique(values))
    if distinct < 2:
        raise BadInput("dataset.target", dataset.target, "is constant", "name a column with at least two values")
    task = dataset.task if dataset.task != "auto" else _infer(values, distinct)
    said = f"{dataset.target}: {task} ({values.type}, {distinct:,} distinct values)"
    if dataset.task == "auto":
        said += "; say dataset.task=... to change"
    classes = _classes(dataset, task, values) if task != "regression" else ()
    said += f": {', '.join(classes[:6])}" if classes else ""
    return Target(task, classes, target_values(dataset.target, classes, values), said)


def target_values(name: str, classes: tuple[str, ...], values: pa.ChunkedArray) -> Array:
    """Return the index of each value's class, int64, or where there are no classes the values, float32."""
    if not classes:
        return _numbers(name, values)
    index = pc.index_in(category_texts(values), pa.array(classes, pa.string()))
    if index.null_count:
        raise BadInput("dataset.target", name, "has a value that is none of its classes", "restore the data")
    return np.asarray(index.to_numpy().astype(np.int64))


def _infer(values: pa.ChunkedArray, distinct: int) -> str:
    if distinct == 2:
        return "binary"
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return "regression"
    if pa.types.is_integer(values.type):
        return "multiclass" if distinct <= FEW else "regression"
    return "multiclass"


def _classes(dataset: Dataset, task: str, values: pa.ChunkedArray) -> tuple[str, ...]:
    whole = pa.types.is_integer(values.type)
    ordered = sorted(pc.unique(values).to_pylist()) if whole else sorted(pc.unique(category_texts(values)).to_pylist())
    classes = tuple(str(value) for value in ordered)
    if len(classes) > MOST_CLASSES:
        bound = f"has {len(classes):,} distinct values, at most {MOST_CLASSES:,} classes are possible"
        raise BadInput("dataset.target", dataset.target, bound, "name another column or say dataset.task=regression")
    if task == "binary" and len(classes) != 2:
        raise BadInput("dataset.task", task, f"does not fit {len(classes)} classes", "say dataset.task=multiclass")
    if task == "binary" and dataset.positive is not None:
        if dataset.positive not in classes:
            raise BadInput("dataset.positive", dataset.positive, "is not a class", nearest(dataset.positive, classes))
        return tuple(sorted(classes, key=lambda name: name == dataset.positive))
    return classes


def _numbers(name: str, values: pa.ChunkedArray) -> Array:
    try:
        numbers = np.asarray(pc.cast(values, pa.float64()).to_numpy())
    except pa.ArrowException as error:
        remedy = "say dataset.task=multiclass or name a number"
        raise BadInput("dataset.target", name, f"is {values.type}, no number for regression", remedy) from error
    if not np.isfinite(numbers).all():
        raise BadInput("dataset.target", name, "has infinite or NaN values", "remove those rows")
    return numbers.astype(np.float32)

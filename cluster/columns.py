"""Raw columns: what a model's inputs look like, and the one codec that makes them, for training and serving alike."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import BadInput

MISSING_TIME = -(2**63)
Array = npt.NDArray[Any]
Raw = dict[str, Array]
"""Per column [N, 1]: number and boolean float32 (NaN: missing), category str objects ("": missing),
time int64 epoch seconds (MISSING_TIME: missing); text uint8 [N, L], UTF-8 padded with zeros (all zeros: missing)."""


@dataclass(frozen=True)
class ColumnSchema:
    """One input column as the train part showed it.

    categories: the vocabulary, most frequent first; code = position + 1, 0 is "unknown".
    minimum, maximum: the trained range of a number, or of a time in epoch seconds.
    parts: which features a time column gives. length: bytes kept of a text.
    """

    name: str
    type: str  # number, category, boolean, time, text
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    parts: tuple[str, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class ModelSchema:
    """What goes in and what comes out. classes: labels in the order of the outputs, (negative, positive) if binary."""

    target: str
    task: str  # binary, multiclass, regression
    classes: tuple[str, ...]
    columns: tuple[ColumnSchema, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and mappings, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> ModelSchema:
        """Read what `to_dict` gave."""
        columns = tuple(
            ColumnSchema(**{**column, "categories": tuple(column["categories"]), "parts": tuple(column["parts"])})
            for column in said["columns"]
        )
        return cls(said["target"], said["task"], tuple(said["classes"]), columns)


def category_text(value: object) -> str:
    """Return the one text of a category value: 7 and 7.0 are "7", True is "true", None and NaN are ""."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else str(int(value)) if value == int(value) else repr(float(value))
    return str(value)


def raw_from_table(table: pa.Table, schema: ModelSchema) -> Raw:
    """Return the raw columns of an Arrow table that has (at least) the schema's columns."""
    return {column.name: _from_arrow(column, table[column.name]) for column in schema.columns}


def _from_arrow(column: ColumnSchema, values: pa.ChunkedArray) -> Array:
    if column.type == "text":
        return text_bytes(category_texts(values).to_pylist(), column.length)
    return _FROM_ARROW[column.type](values)[:, None]


def text_bytes(texts: Sequence[str], length: int) -> Array:
    """Return texts as UTF-8, [N, L] uint8 padded with zeros; L: the longest, at least 1 and at most `length`.

    What is longer is cut between two characters. Raises UnicodeEncodeError for half a surrogate pair.
    """
    written = [text.encode()[:length].decode(errors="ignore").encode() for text in texts]
    padded = np.zeros((len(texts), max(map(len, written), default=0) or 1), np.uint8)
    for row, own in zip(padded, written, strict=True):
        row[: len(own)] = np.frombuffer(own, np.uint8)
    return padded


def _numbers(values: pa.ChunkedArray) -> Array:
    array = pc.cast(pc.fill_null(pc.cast(values, pa.float64()), math.nan), pa.float32(), safe=False)
    return np.asarray(array.to_numpy())


def _texts(values: pa.ChunkedArray) -> Array:
    return np.array(category_texts(values).to_pylist(), dtype=object)


def _times(values: pa.ChunkedArray) -> Array:
    seconds = pc.cast(pc.cast(values, pa.timestamp("s"), safe=False), pa.int64())
    return np.asarray(pc.fill_null(seconds, MISSING_TIME).to_numpy())


def category_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `category_text` of every value, as strings without nulls."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return category_texts(pc.cast(values, kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.fill_null(pc.cast(values, pa.string()), "")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.fill_null(pc.cast(values, pa.string()), "")
    return pa.chunked_array([pa.array([category_text(v) for v in values.to_pylist()], pa.string())])


_FROM_ARROW: dict[str, Callable[[pa.ChunkedArray], Array]] = {
    "number": _numbers,
    "boolean": _numbers,
    "category": _texts,
    "time": _times,
}


def raw_from_rows(rows: Sequence[Mapping[str, object]], schema: ModelSchema) -> Raw:
    """Return the raw columns of JSON rows; raises BadInput naming the row and column at fault.

    Every column of the schema must be there (null where unknown) and no other.
    """
    names = [column.name for column in schema.columns]
    expected = len(names)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise BadInput(f"rows[{i}]", repr(row)[:40], "is not an object", 'give {"column": value, ...}')
        if len(row) != expected or any(name not in row for name in names):
            _refuse_keys(f"rows[{i}]", row, names)
    numbers = _numbers_of_rows(rows, schema)
    return {
        column.name: numbers[column.name]
        if column.name in numbers
        else _column(column, [row[column.name] for row in rows], "rows[{i}].{name}")
        for column in schema.columns
    }


def joined(parts: Sequence[Raw], schema: ModelSchema) -> Raw:
    """Return raw columns one below the other; texts become as wide as the widest."""
    if len(parts) == 1:
        return parts[0]
    made = {}
    for column in schema.columns:
        values = [part[column.name] for part in parts]
        if column.type == "text":
            width = max(each.shape[1] for each in values)
            values = [np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in values]
        made[column.name] = np.concatenate(values)
    return made


def _numbers_of_rows(rows: Sequence[Mapping[str, object]], schema: ModelSchema) -> Raw:
    """Return all columns of numbers, read as one block (several times faster), or none where a value is none.

    What is left out is read again by itself, which names the value at fault.
    """
    names = [column.name for column in schema.columns if column.type == "number"]
    values = [row[name] for name in names for row in rows]
    if not names or not set(map(type, values)) <= _NUMBERS:
        return {}
    try:
        block = np.array(values, dtype=np.float64)  # None becomes NaN
    except OverflowError:
        return {}
    if (np.abs(block) > LARGEST).any():
        return {}
    return dict(zip(names, block.astype(np.float32).reshape(len(names), len(rows), 1), strict=True))


_NUMBERS = {int, float, type(None)}
LARGEST = float(np.finfo(np.float32).max)


def raw_from_columns(columns: Mapping[str, object], schema: ModelSchema) -> Raw:
    """Return the raw columns of column-wise JSON, {"column": [value, ...], ...}; raises BadInput likewise."""
    names = [column.name for column in schema.columns]
    _refuse_keys("columns", columns, names)
    raw, rows = {}, None
    for column in schema.columns:
        values = columns[column.name]
        if not isinstance(values, list):
            raise BadInput(f"columns.{column.name}", repr(values)[:40], "is not a list", "give one value per row")
        rows = len(values) if rows is None else rows
        if len(values) != rows:
            bound = f"has {len(values)} values, the first column {rows}"
            raise BadInput(f"columns.{column.name}", None, bound, "give one value per row")
        raw[column.name] = _column(column, values, "columns.{name}[{i}]")
    return raw


def _refuse_keys(where: str, given: Mapping[str, object], names: list[str]) -> None:
    missing = [name for name in names if name not in given]
    extra = [str(key)[:60] for key in given if key not in names]
    if missing:
        raise BadInput(where, None, f"lacks {', '.join(missing)}", "give every column, null where unknown")
    if extra:
        raise BadInput(where, None, f"has unknown columns {', '.join(extra)}", f"give only {', '.join(names)}")


def _column(column: ColumnSchema, values: list[Any], where: str) -> Array:
    """Return [N, 1] of JSON values; `where` formats the place of value {i} of column {name}."""
    read = partial(_read_text, length=column.length) if column.type == "text" else _FROM_JSON[column.type]
    try:
        array = read(values)
    except (TypeError, ValueError, OverflowError):
        for i, value in enumerate(values):  # find the one at fault
            try:
                read([value])
            except (TypeError, ValueError, OverflowError):
                place = where.format(i=i, name=column.name)
                raise BadInput(place, repr(value)[:60], f"is no {_WANTED[column.type]}", "correct it") from None
        raise
    return array if column.type == "text" else array[:, None]


_WANTED = {
    "number": "finite number (or null)",
    "boolean": "true, false or null",
    "category": "text, number, boolean or null",
    "time": "ISO 8601 time, epoch seconds or null",
    "text": "text or null",
}


def _read_numbers(values: list[Any]) -> Array:
    if any(isinstance(v, bool | str) for v in values):
        raise TypeError
    array = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    if array.ndim != 1 or np.isinf(array).any() or (np.abs(array) > np.finfo(np.float32).max).any():
        raise ValueError
    return array.astype(np.float32)


def _read_booleans(values: list[Any]) -> Array:
    if any(v is not None and v not in (0, 1) for v in values):
        raise TypeError
    return np.array([math.nan if v is None else v for v in values], dtype=np.float32)


def _read_texts(values: list[Any]) -> Array:
    if any(isinstance(v, list | dict) for v in values):
        raise TypeError
    array = np.empty(len(values), dtype=object)
    array[:] = [v if type(v) is str else category_text(v) for v in values]
    return array


def _read_text(values: list[Any], length: int) -> Array:
    if any(not isinstance(v, str | None) for v in values):
        raise TypeError
    return text_bytes([v or "" for v in values], length)


def _read_times(values: list[Any]) -> Array:
    return np.array([_epoch(v) for v in values], dtype=np.int64)


def _epoch(value: object) -> int:
    if value is None:
        return MISSING_TIME
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, dt.datetime):
        return int(value.replace(tzinfo=value.tzinfo or dt.UTC).timestamp())
    moment = dt.datetime.fromisoformat(value)  # type: ignore[arg-type]  # a TypeError is the answer wanted
    return int(moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp())


_FROM_JSON: dict[str, Callable[[list[Any]], Array]] = {
    "number": _read_numbers,
    "boolean": _read_booleans,
    "category": _read_texts,
    "time": _read_times,
}

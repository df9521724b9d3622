"""/predict: rows as objects or columns in JSON, or many at once as an Arrow stream."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from cluster.columns import Array, ModelSchema, Raw, raw_from_columns, raw_from_table
from conf.errors import BadInput
from serve.answers import Answer, Refused
from serve.prediction import Asked, Predicted

ARROW = "application/vnd.apache.arrow.stream"


def read(body: dict[str, Any]) -> Asked:
    """Read {"rows": [...]} or {"columns": {...}}, with "unit" and "request_id"; raises BadInput."""
    unknown = set(body) - {"rows", "columns", "unit", "request_id"}
    if unknown:
        raise BadInput(sorted(unknown)[0], None, "is not a field of a request", "give rows or columns, unit")
    if ("rows" in body) == ("columns" in body):
        raise BadInput("body", None, "has not exactly one of rows and columns", 'send {"rows": [{...}]}')
    rows, columns = body.get("rows"), body.get("columns")
    if not (rows and isinstance(rows, list)) and not (isinstance(columns, dict) and any(columns.values())):
        key, kind = ("rows", "a list of objects") if "rows" in body else ("columns", "an object of lists")
        raise BadInput(key, None, "is empty or of the wrong type", f"give {kind}")

    raw = rows if isinstance(rows, list) else partial(raw_from_columns, columns or {})
    return Asked(raw, _text(body, "unit"), _text(body, "request_id"))


def write(predicted: Predicted, model: str) -> Answer:
    """Write predictions and what made them as JSON."""
    said: dict[str, object] = {
        "predictions": _predictions(predicted.outputs, predicted.schema),
        "model": model,
        "version": predicted.variant.version.number,
        "variant": predicted.variant.alias,
        "request_id": predicted.request_id,
    }
    if predicted.warnings.said:
        said["warnings"] = predicted.warnings.said
    return Answer(said, headers=predicted.headers)


def read_arrow(body: bytes, most_rows: int) -> Asked:
    """Read an Arrow IPC stream with a column for each input; raises BadInput where it is none, or does not fit.

    Rows are counted before they are converted: a column of nulls takes no bytes for them.
    """
    batches, rows = list[pa.RecordBatch](), 0
    try:
        with ipc.open_stream(body) as stream:
            for batch in stream:
                batches.append(batch)
                rows += batch.num_rows
                if rows > most_rows:
                    bound = f"are more than serving.max_rows={most_rows}"
                    raise Refused(413, BadInput("rows", rows, bound, "send fewer at once"))
            table = pa.Table.from_batches(batches, stream.schema)
        table.validate(full=True)  # offsets beyond a buffer would end the process when they are read
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        why = BadInput("body", None, f"is no Arrow stream ({str(error).splitlines()[0]})", "send an IPC stream")
        raise Refused(400, why) from error
    return Asked(lambda schema: _raw_from_arrow(table, schema))


def write_arrow(predicted: Predicted, model: str) -> Answer:
    """Write a column `label` and one of probabilities for each class, or a column `value`, as an Arrow stream."""
    schema, outputs = predicted.schema, predicted.outputs
    if schema.classes:
        labels = np.array(schema.classes, dtype=object)[outputs.argmax(axis=1)]
        probabilities = {f"probability:{name}": outputs[:, i] for i, name in enumerate(schema.classes)}
        table = pa.table({"label": pa.array(labels, pa.string()), **probabilities})
    else:
        table = pa.table({"value": outputs[:, 0]})
    said = {"model": model, "version": str(predicted.variant.version.number), "variant": predicted.variant.alias}
    table = table.replace_schema_metadata({**said, "request_id": predicted.request_id})
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return Answer(sink.getvalue().to_pybytes(), headers={**predicted.headers, "content-type": ARROW})


def _raw_from_arrow(table: pa.Table, schema: ModelSchema) -> Raw:
    names = [column.name for column in schema.columns]
    if sorted(table.column_names) != sorted(names):
        missing = [name for name in names if name not in table.column_names]
        said = f"lacks {', '.join(missing)}" if missing else "has more columns than the model, or one twice"
        raise BadInput("columns", None, said, f"give just {', '.join(names)}")
    if not table.num_rows:
        raise BadInput("columns", None, "have no rows", "give at least one")
    try:
        raw = raw_from_table(table, schema)
    except (pa.ArrowException, ValueError) as error:
        said = str(error).splitlines()[0]
        raise BadInput("columns", None, f"have a value of the wrong type ({said})", "give the trained types") from error
    for column in schema.columns:
        if column.type in ("number", "boolean"):
            _check_number(column.name, raw[column.name], boolean=column.type == "boolean")
    return raw


def _check_number(name: str, values: Array, *, boolean: bool) -> None:
    if np.isinf(values).any():
        raise BadInput(f"columns.{name}", None, "has infinite values", "give finite ones, null where unknown")
    if boolean and not np.isin(values[~np.isnan(values)], (0, 1)).all():
        raise BadInput(f"columns.{name}", None, "is not only true and false", "give booleans")


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key, "")
    if not isinstance(value, str):
        raise BadInput(key, repr(value)[:40], "is not a text", "give a string")
    return value


def _predictions(outputs: Array, schema: ModelSchema) -> list[dict[str, object]]:
    if not schema.classes:
        return [{"value": value} for value in outputs[:, 0].tolist()]
    chosen = outputs.argmax(axis=1).tolist()
    return [
        {"label": schema.classes[best], "probabilities": dict(zip(schema.classes, row, strict=True))}
        for best, row in zip(chosen, outputs.tolist(), strict=True)
    ]

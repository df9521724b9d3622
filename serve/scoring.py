"""MLflow's scoring protocol: what `mlflow models serve` answers for the same model, answered here.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally: /invocations takes one of dataframe_split,
dataframe_records, instances and inputs as JSON, or CSV; its answer is {"predictions": [...]}.
"""

from __future__ import annotations

import io
import json
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import csv

from cluster.columns import raw_from_columns
from conf.errors import BadInput
from serve.answers import Answer, Refused, read_json
from serve.prediction import Asked, Predicted, Rows

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def read(body: dict[str, Any]) -> Asked:
    """Read one of MLflow's payloads; raises BadInput naming what is wrong with it."""
    given = [form for form in FORMS if form in body]
    unknown = sorted(set(body) - {*FORMS, "params"})
    if len(given) != 1 or unknown:
        said = f"has the unknown field {unknown[0]}" if unknown else f"has {len(given)} of {', '.join(FORMS)}"
        raise BadInput("body", None, said, "give exactly one of them")
    (form,) = given
    said = body[form]
    if form == "dataframe_split":
        return Asked(_of_split(said))
    if isinstance(said, dict):
        columns = {name: values if isinstance(values, list) else [values] for name, values in said.items()}
        return Asked(lambda schema: raw_from_columns(columns, schema))
    if not isinstance(said, list) or not said or not all(isinstance(row, dict) for row in said):
        raise BadInput(form, None, "is not a list of objects", 'give [{"column": value, ...}]')
    return Asked(said)


def parse(body: bytes) -> dict[str, Any]:
    """Return a body's JSON object, in which MLflow's client writes a missing value as NaN."""
    try:
        return read_json(body)
    except Refused:
        if b"NaN" not in body:
            raise
    try:
        said = json.loads(body, parse_constant=_missing)
        orjson.dumps(said)  # as strict as elsewhere: halves of surrogate pairs are no text
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(400, BadInput("body", None, f"is not JSON ({error})", "send a JSON object")) from error
    if not isinstance(said, dict):
        raise Refused(400, BadInput("body", None, "is not a JSON object", f"give one of {', '.join(FORMS)}"))
    return said


def _missing(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"{word} is no value")


def read_csv(body: bytes) -> Asked:
    """Read CSV with a header; raises BadInput where it is none."""
    try:
        table = csv.read_csv(io.BytesIO(body), convert_options=csv.ConvertOptions(strings_can_be_null=True))
        columns = {name: [_plain(value) for value in table[name].to_pylist()] for name in table.column_names}
    except (pa.ArrowException, UnicodeDecodeError, KeyError) as error:  # a name that is twice there is none
        raise BadInput("body", None, f"is no CSV ({str(error).splitlines()[0]})", "give a header and rows") from error
    return Asked(lambda schema: raw_from_columns(columns, schema))


def write(predicted: Predicted) -> Answer:
    """Write what MLflow's server would: a record of probabilities by class, or of `prediction`, for each row."""
    names = predicted.schema.classes or ("prediction",)
    rows = [dict(zip(names, row, strict=True)) for row in predicted.outputs.tolist()]
    return Answer({"predictions": rows}, headers=predicted.headers)


def _of_split(said: Any) -> Rows:
    columns, data = (said.get(key) for key in ("columns", "data")) if isinstance(said, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list) or not data or not _are_names(columns):
        raise BadInput("dataframe_split", None, "has not columns and data", 'give {"columns": [...], "data": [[...]]}')
    for i, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise BadInput(f"dataframe_split.data[{i}]", None, f"has not {len(columns)} values", "give one per column")

    return [dict(zip(columns, row, strict=True)) for row in data]


def _are_names(columns: list[Any]) -> bool:
    return all(isinstance(name, str) for name in columns) and len(set(columns)) == len(columns)


def _plain(value: Any) -> Any:
    """Return what JSON would carry."""
    return value.isoformat() if hasattr(value, "isoformat") else value

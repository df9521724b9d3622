"""The Open Inference Protocol, version 2, over REST, with Triton's binary tensors.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for the binary extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. One input for each
column, of shape [N] or [N, 1]; outputs `label` (BYTES [N]) and `probabilities` (FP32 [N, K]), or `value` (FP32 [N, 1]).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from cluster.columns import MISSING_TIME, Array, ColumnSchema, ModelSchema, Raw, raw_from_columns
from conf.errors import BadInput, nearest
from serve.answers import Answer, Refused
from serve.prediction import Asked, Predicted

BINARY_LENGTH = "inference-header-content-length"  # bytes of JSON before the binary tensors
DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_OF_COLUMN = {"number": "FP32", "boolean": "BOOL", "category": "BYTES", "time": "INT64", "text": "BYTES"}


@dataclass(frozen=True)
class Infer:
    """An infer request: what is asked, its id, and for each output wanted whether it is binary (none: all, as said)."""

    asked: Asked
    id: str
    wanted: dict[str, bool] = field(default_factory=dict)
    binary: bool = False


def metadata(name: str, versions: list[int], schema: ModelSchema) -> Answer:
    """Describe a model's inputs and outputs."""
    inputs = [{"name": c.name, "datatype": _OF_COLUMN[c.type], "shape": [-1, 1]} for c in schema.columns]
    outputs = [{"name": each, "datatype": kind, "shape": shape} for each, (kind, shape) in _outputs(schema).items()]
    said = {"name": name, "versions": [str(number) for number in versions], "platform": "onnxruntime_onnx"}
    return Answer({**said, "inputs": inputs, "outputs": outputs})


def _outputs(schema: ModelSchema) -> dict[str, tuple[str, list[int]]]:
    if not schema.classes:
        return {"value": ("FP32", [-1, 1])}
    return {"label": ("BYTES", [-1]), "probabilities": ("FP32", [-1, len(schema.classes)])}


def read(body: bytes, json_length: str, version: int | None) -> Infer:
    """Read an infer request; raises BadInput naming the tensor at fault.

    json_length: the header BINARY_LENGTH, "" where all of the body is JSON.
    """
    if json_length and not (json_length.isdecimal() and len(json_length) < 12 and int(json_length) <= len(body)):
        raise Refused(
            400, BadInput(BINARY_LENGTH, json_length, "is no length within the body", "say the JSON's length")
        )
    length = int(json_length) if json_length else len(body)
    try:
        said = orjson.loads(body[:length])
    except orjson.JSONDecodeError as error:
        raise Refused(400, BadInput("body", None, f"is not JSON ({error})", "send an infer request")) from error
    inputs = said.get("inputs") if isinstance(said, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise BadInput("inputs", None, "is not a list of tensors", "give one for each column")
    tensors = _tensors(inputs, memoryview(body)[length:])
    parameters = _parameters(said, "request")
    wanted = {}
    outputs = said.get("outputs") or []
    for output in outputs if isinstance(outputs, list) else [outputs]:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise BadInput("outputs", None, "has an output without a name", 'give {"name": ...}')
        wanted[output["name"]] = bool(_parameters(output, output["name"]).get("binary_data", False))
    id_ = said.get("id", "")
    if not isinstance(id_, str):
        raise BadInput("id", repr(id_)[:40], "is not a text", "give a string")
    unit = parameters.get("unit", "")
    asked = Asked(lambda schema: _raw(tensors, schema), str(unit), id_, version)
    return Infer(asked, id_, wanted, bool(parameters.get("binary_data_output", False)))


def write(predicted: Predicted, infer: Infer, model: str) -> Answer:
    """Write the outputs that are wanted, binary where that was asked for."""
    schema, made = predicted.schema, _made(predicted)
    unknown = sorted(set(infer.wanted) - set(made))
    if unknown:
        raise BadInput("outputs", unknown[0], "is not an output", nearest(unknown[0], made))
    tensors, tail = [], list[bytes]()
    for name, (kind, _) in _outputs(schema).items():
        if infer.wanted and name not in infer.wanted:
            continue
        tensor: dict[str, object] = {"name": name, "datatype": kind, "shape": list(made[name].shape)}
        if infer.wanted.get(name, infer.binary) if infer.wanted else infer.binary:
            tail.append(_written(made[name]))
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = made[name].ravel().tolist()
        tensors.append(tensor)
    said: dict[str, object] = {
        "model_name": model,
        "model_version": str(predicted.variant.version.number),
        "id": infer.id or predicted.request_id,
        "parameters": {"variant": predicted.variant.alias},
        "outputs": tensors,
    }
    if not tail:
        return Answer(said, headers=predicted.headers)
    written = orjson.dumps(said)
    headers = {"content-type": "application/octet-stream", BINARY_LENGTH: str(len(written))}
    return Answer(b"".join([written, *tail]), headers={**predicted.headers, **headers})


def _made(predicted: Predicted) -> dict[str, Array]:
    outputs, classes = predicted.outputs, predicted.schema.classes
    if not classes:
        return {"value": outputs}
    return {"label": np.array(classes, dtype=object)[outputs.argmax(axis=1)], "probabilities": outputs}


def _written(values: Array) -> bytes:
    """Return a tensor's bytes: little-endian, a text after its length."""
    if values.dtype != object:
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    texts = [str(value).encode() for value in values.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _parameters(said: dict[str, Any], where: str) -> dict[str, Any]:
    given = said.get("parameters") or {}
    if not isinstance(given, dict):
        raise BadInput(f"{where}.parameters", None, "is not an object", "give an object, or none")
    return given


def _tensors(inputs: list[dict[str, Any]], tail: memoryview) -> dict[str, list[Any]]:
    """Return each input's values, flat: from its data, or from its part of the bytes after the JSON."""
    found: dict[str, list[Any]] = {}
    for i, tensor in enumerate(inputs):
        name, kind, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
        where = f"inputs[{i}]"
        if not isinstance(name, str) or name in found:
            raise BadInput(where, None, "has no name of its own", "give each column once")
        if not isinstance(kind, str) or (kind not in DTYPES and kind != "BYTES"):
            raise BadInput(
                f"{where}.datatype", str(kind)[:20], "is no datatype", nearest(str(kind), [*DTYPES, "BYTES"])
            )
        count = _count(where, shape)
        size = _parameters(tensor, where).get("binary_data_size")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(tail):
                raise BadInput(where, size, "is no binary_data_size within the body", "say the bytes of the tensor")
            values, tail = _read(where, kind, tail[:size]), tail[size:]
        else:
            data = tensor.get("data")
            values = _flat(data) if isinstance(data, list) else []
        if len(values) != count:
            raise BadInput(where, None, f"has {len(values)} values, its shape says {count}", "correct one of them")
        found[name] = values
    if len(tail):
        raise BadInput("body", None, f"has {len(tail)} bytes after its last tensor", "say each binary_data_size")
    return found


def _count(where: str, shape: object) -> int:
    """Return the rows of a shape [N] or [N, 1]."""
    sizes = shape if isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape) else []
    if len(sizes) not in (1, 2) or sizes[1:] not in ([], [1]):
        raise BadInput(f"{where}.shape", str(shape)[:40], "is not [N] or [N, 1]", "give a value for each row")
    return int(sizes[0])


def _flat(data: list[Any]) -> list[Any]:
    return [value for each in data for value in (each if isinstance(each, list) else [each])]


def _read(where: str, kind: str, part: memoryview) -> list[Any]:
    if kind != "BYTES":
        dtype = np.dtype(DTYPES[kind]).newbyteorder("<")
        if len(part) % dtype.itemsize:
            raise BadInput(where, None, f"is not whole values of {kind}", "say its binary_data_size")
        return list(np.frombuffer(part, dtype).tolist())
    texts, at = [], 0
    while at < len(part):
        if at + 4 > len(part) or at + 4 + (size := struct.unpack_from("<I", part, at)[0]) > len(part):
            raise BadInput(where, None, "is cut within a text", "write each after its length in 4 bytes")
        try:
            texts.append(bytes(part[at + 4 : at + 4 + size]).decode())
        except UnicodeDecodeError as error:
            raise BadInput(where, None, "is not UTF-8", "write texts in UTF-8") from error
        at += 4 + size
    return texts


def _raw(tensors: dict[str, list[Any]], schema: ModelSchema) -> Raw:
    """Return the raw columns; a NaN is a missing number, the least INT64 a missing time, "" a missing text."""
    if len({len(values) for values in tensors.values()}) > 1 or not any(tensors.values()):
        raise BadInput("inputs", None, "have not the same number of rows, at least one", "correct their shapes")
    columns = {column.name: column for column in schema.columns}
    said = {name: _plain(columns[name], values) if name in columns else values for name, values in tensors.items()}
    return raw_from_columns(said, schema)


def _plain(column: ColumnSchema, values: list[Any]) -> list[Any]:
    """Return values as JSON has them."""
    if column.type == "time":
        return [None if value == MISSING_TIME else value for value in values]
    if column.type in ("number", "boolean"):
        return [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return values


def error(refused: Refused) -> Answer:
    """Return an error as the protocol has it: its one sentence."""
    return Answer({"error": str(refused.why)}, refused.status, refused.headers)

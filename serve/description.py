"""What is served, described: OpenAPI made from the schema of the model that answers, and a page to try it on."""

from __future__ import annotations

from typing import Any

from cluster.columns import LARGEST, ColumnSchema, ModelSchema
from conf.errors import BadInput, nearest
from conf.schema import DeployConfig
from serve.access import OPEN, enough, role_of
from serve.answers import Answer, Refused
from serve.inference import BINARY_LENGTH, DTYPES
from serve.native import ARROW

_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Served by Rungway</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true})</script>
</body>
</html>
"""
_JSON_TYPES: dict[str, dict[str, Any]] = {
    "number": {"type": "number", "nullable": True, "minimum": -LARGEST, "maximum": LARGEST},
    "boolean": {"anyOf": [{"type": "boolean", "nullable": True}, {"type": "number", "enum": [0, 1]}]},
    "category": {"anyOf": [{"type": "string", "nullable": True}, {"type": "number"}, {"type": "boolean"}]},
    "time": {"anyOf": [{"type": "string", "format": "date-time", "nullable": True}, {"type": "number"}]},
    "text": {"type": "string", "nullable": True},
}
MOST_VERSIONS = 10**9 - 1  # what a path of the application may say
_REFUSALS = {
    "400": "The body cannot be read.",
    "413": "The body or its rows are too many.",
    "415": "The content type is not taken here.",
    "422": "A value does not fit; the sentence says which.",
    "429": "Too many requests are in hand; come again after `retry-after` seconds.",
    "503": "It cannot be answered, or kept, now or in the time allowed; come again after `retry-after` seconds.",
}


def docs(name: str) -> Answer:
    """Return the page, or one of the files that it needs; raises Refused (404) for any other."""
    if not name:
        return Answer(_PAGE.encode(), headers={"content-type": "text/html; charset=utf-8"})
    if name not in _FILES:
        raise Refused(404, BadInput("path", f"docs/{name}", "is not here", nearest(name, _FILES)))
    from swagger_ui_bundle import swagger_ui_path

    return Answer((swagger_ui_path / name).read_bytes(), headers={"content-type": _FILES[name]})


def description(cfg: DeployConfig, schema: ModelSchema) -> dict[str, Any]:
    """Return the OpenAPI 3.0 description (what the page can show) of one application."""
    model = f"/v2/models/{cfg.name}"
    number = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_VERSIONS},
    }
    infer = _post("Open Inference Protocol", _infer(schema), {"$ref": "#/components/schemas/InferAnswer"}, oip=True)
    described, ready = (_get(said, {"type": "object"}) for said in ("Inputs and outputs", "Readiness of the model"))
    paths: dict[str, Any] = {
        "/predict": {"post": _post("Predict rows or columns", _predict(cfg, schema), _answer(schema), arrow=True)},
        "/feedback": {"post": _post("Say what became of a prediction", _feedback(schema), _accepted())},
        "/invocations": {"post": _post("MLflow's scoring protocol", _mlflow(cfg, schema), _mlflow_answer(schema))},
        "/healthz": {"get": _get("What is live", {"type": "object"})},
        "/readyz": {"get": _get("Whether it answers", {"type": "object"})},
        "/metrics": {"get": _get_text("What all replicas counted, for Prometheus")},
        "/v2": {"get": _get("The server", {"type": "object"})},
        "/v2/health/live": {"get": _get("Liveness", {"type": "object"})},
        "/v2/health/ready": {"get": _get("Readiness", {"type": "object"})},
        model: {"get": described},
        f"{model}/ready": {"get": ready},
        f"{model}/infer": {"post": infer},
        f"{model}/versions/{{version}}": {"get": _of_version(described), "parameters": [number]},
        f"{model}/versions/{{version}}/ready": {"get": _of_version(ready), "parameters": [number]},
        f"{model}/versions/{{version}}/infer": {"post": _of_version(infer), "parameters": [number]},
    }
    said = {
        "openapi": "3.0.3",
        "info": {"title": cfg.name, "version": "1", "description": f"Predicts {schema.target} ({schema.task})."},
        "servers": [{"url": f"/{cfg.name}"}],
        "paths": paths,
        "components": {"schemas": _components(schema)},
    }
    return said if cfg.serving.http.token_file is None else _secured(said)


def _secured(said: dict[str, Any]) -> dict[str, Any]:
    """Add what the door asks for: a bearer token, its role, and how it refuses."""
    for path, item in said["paths"].items():
        role = role_of(path)
        error = {"$ref": f"#/components/schemas/{'InferError' if path.startswith('/v2') else 'Error'}"}
        for method in {"get", "post"} & set(item):
            if role == OPEN:
                item[method]["security"] = []
                continue
            refusals = {
                "401": _response("The token is missing or not known.", error),
                "403": _response(f"The token's role is not {enough(role)}.", error),
            }
            item[method] = {**item[method], "responses": {**item[method]["responses"], **refusals}}
    said["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {**said, "security": [{"token": []}]}


def _components(schema: ModelSchema) -> dict[str, Any]:
    text = {"type": "string"}
    error: dict[str, Any] = {key: {} for key in ("key", "value", "bound", "remedy")} | {"message": text}
    tensor = {"name": text, "datatype": text, "shape": {"type": "array", "items": {"type": "integer"}}}
    return {
        "Row": _object({column.name: _column(column) for column in schema.columns}, closed=True),
        "Error": _object({"error": _object(error)}),
        "InferError": _object({"error": text}),
        "InferAnswer": _object(
            {"model_name": text, "model_version": text, "outputs": {"type": "array", "items": _object(tensor)}}
        ),
    }


def _column(column: ColumnSchema) -> dict[str, Any]:
    said = dict(_JSON_TYPES[column.type])
    if column.type == "number" and column.minimum is not None:
        said["description"] = f"trained on {column.minimum:g} to {column.maximum:g}"
    return said


def _object(properties: dict[str, Any], *, closed: bool = False, required: list[str] | None = None) -> dict[str, Any]:
    needs = list(properties) if required is None else required
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": needs, **more}


def _list(of: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1, **({"maxItems": most} if most else {})}


def _predict(cfg: DeployConfig, schema: ModelSchema) -> dict[str, Any]:
    most, text = cfg.serving.max_rows, {"type": "string"}
    rows = _object({"rows": _list(_row(), most), "unit": text, "request_id": text}, closed=True, required=["rows"])
    lists = {column.name: _list(_column(column), most) for column in schema.columns}
    columns = {"columns": _object(lists, closed=True), "unit": text, "request_id": text}
    return {"oneOf": [rows, _object(columns, closed=True, required=["columns"])]}


def _row() -> dict[str, Any]:
    return {"$ref": "#/components/schemas/Row"}


def _answer(schema: ModelSchema) -> dict[str, Any]:
    number, text = {"type": "number"}, {"type": "string"}
    label = {"label": text, "probabilities": _object(dict.fromkeys(schema.classes, number))}
    one = _object(label if schema.classes else {"value": number})
    said = {"predictions": _list(one), "model": text, "version": {"type": "integer"}, "variant": text}
    return _object({**said, "request_id": text})


def _feedback(schema: ModelSchema) -> dict[str, Any]:
    label = {"enum": list(schema.classes)} if schema.classes else {"type": "number"}
    row = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    fields = {"request_id": {"type": "string", "minLength": 1}, "label": label, "row": row}
    one = _object(fields, closed=True, required=["request_id", "label"])
    return {"oneOf": [one, _object({"feedback": _list(one)}, closed=True)]}


def _accepted() -> dict[str, Any]:
    return _object({"accepted": {"type": "integer"}})


def _mlflow(cfg: DeployConfig, schema: ModelSchema) -> dict[str, Any]:
    most = cfg.serving.max_rows
    names = [column.name for column in schema.columns]
    cells = {"type": "array", "items": {}, "minItems": len(names), "maxItems": len(names)}
    split = _object({"columns": {"enum": [names]}, "data": _list(cells, most)})
    inputs = _object({column.name: _list(_column(column), most) for column in schema.columns}, closed=True)
    rows = _list(_row(), most)
    forms = {"dataframe_split": split, "dataframe_records": rows, "instances": rows, "inputs": inputs}
    return {"oneOf": [_object({form: said}, closed=True) for form, said in forms.items()]}


def _mlflow_answer(schema: ModelSchema) -> dict[str, Any]:
    of_row = _object({name: {"type": "number"} for name in schema.classes or ("prediction",)})
    return _object({"predictions": _list(of_row)})


def _infer(schema: ModelSchema) -> dict[str, Any]:
    tensor = {
        "name": {"enum": [column.name for column in schema.columns]},
        "datatype": {"enum": [*DTYPES, "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2},
        "data": {"type": "array", "items": {}},
    }
    return _object({"id": {"type": "string"}, "inputs": _list(_object(tensor))}, required=["inputs"])


def _get(summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _response("The answer.", answer)}}


def _of_version(operation: dict[str, Any]) -> dict[str, Any]:
    missing = _response("The version is not served.", {"$ref": "#/components/schemas/InferError"})
    return {**operation, "responses": {**operation["responses"], "404": missing}}


def _get_text(summary: str) -> dict[str, Any]:
    text = {"description": "The text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": summary, "responses": {"200": text}}


def _post(
    summary: str, body: dict[str, Any], answer: dict[str, Any], *, arrow: bool = False, oip: bool = False
) -> dict[str, Any]:
    error = {"$ref": f"#/components/schemas/{'InferError' if oip else 'Error'}"}
    refusals = {status: _response(why, error) for status, why in _REFUSALS.items()}
    content: dict[str, Any] = {"application/json": {"schema": body}}
    answered = _response("The answer.", answer)
    if arrow:
        content[ARROW] = {"schema": {"type": "string", "format": "binary"}}
        answered["content"][ARROW] = {"schema": {"type": "string", "format": "binary"}}
    said: dict[str, Any] = {"summary": summary, "requestBody": {"required": True, "content": content}}
    if oip:
        said["parameters"] = [
            {"name": BINARY_LENGTH, "in": "header", "schema": {"type": "integer"}, "description": "bytes of JSON"}
        ]
        refusals["404"] = _response("The version is not served.", error)
    return {**said, "responses": {"200": answered, **refusals}}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}

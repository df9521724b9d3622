"""The application of one registered model: a bare ASGI app in a replica that holds all live variants."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from cluster import records
from cluster.columns import Array, ModelSchema, Raw, raw_from_columns, raw_from_rows
from cluster.records import FEEDBACK_SCHEMA, Prediction, SegmentWriter
from cluster.storage import storage_path
from conf.errors import BadInput, nearest
from conf.schema import DeployConfig
from serve.answers import Answer, Receive, Refused, Scope, Send, header, read_json, refusal, send
from serve.traffic import assign
from serve.variants import Variants

FLUSH_S, COMMIT_S, QUEUED = 1.0, 0.01, 100_000
Feedback = dict[str, object]


class Application:
    """Answers /<name>/predict, /<name>/feedback and /<name>/healthz."""

    def __init__(self, cfg: DeployConfig) -> None:
        self._cfg = cfg
        self._variants = Variants(cfg)
        storage, schema = storage_path(cfg.cluster), self._variants.live.schema
        self._predictions = SegmentWriter[Prediction](
            records.folder(storage, records.PREDICTIONS, cfg.name),
            partial(records.prediction_table, schema=schema),
            FLUSH_S,
            QUEUED,
        )
        self._feedback = SegmentWriter[Feedback](
            records.folder(storage, records.FEEDBACK, cfg.name), _feedback_table, COMMIT_S, QUEUED
        )
        self._routes = {
            "/predict": ("POST", self._predict),
            "/feedback": ("POST", self._accept_feedback),
            "/healthz": ("GET", self._health),
        }

    def close(self) -> None:
        """Write what is left of the records."""
        self._variants.close()
        self._predictions.close()
        self._feedback.close()

    async def __call__(self, scope: Scope, receive: Receive, respond: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope, receive)
        except Refused as refused:
            answer = refusal(refused)
        except BadInput as why:
            answer = refusal(Refused(422, why))
        await send(answer, respond)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path = str(scope["path"]).removeprefix(f"/{self._cfg.name}")
        if path not in self._routes:
            raise Refused(404, BadInput("path", scope["path"], "is not here", nearest(path, self._routes)))
        method, answer = self._routes[path]
        if scope["method"] != method:
            why = BadInput("method", scope["method"], f"is not for {path}", f"use {method}")
            raise Refused(405, why)
        return await answer(scope, receive)

    async def _predict(self, scope: Scope, receive: Receive) -> Answer:
        started = time.perf_counter()
        body = await read_json(scope, receive, int(self._cfg.serving.max_body_mb * 1e6))
        live = self._variants.live
        # the proxy gives every request an x-request-id, so that a client's own in the body comes first
        request_id = _text(body, "request_id") or header(scope, b"x-request-id") or uuid.uuid4().hex
        unit = header(scope, b"x-unit-id") or _text(body, "unit") or request_id
        variant = live.variants[assign(live.policy.ab_test, unit, live.policy.weights)]
        raw = self._raw(body, variant.bundle.schema)
        outputs = variant.bundle.predict(raw)
        answer = {
            "predictions": _predictions(outputs, variant.bundle.schema),
            "model": self._cfg.name,
            "version": variant.version.number,
            "variant": variant.alias,
            "request_id": request_id,
        }
        if self._cfg.serving.log_predictions:
            latency_ms = (time.perf_counter() - started) * 1000
            self._predictions.append(
                Prediction(
                    request_id, time.time(), variant.version.number, variant.alias, unit, raw, outputs, latency_ms
                )
            )
        return Answer(answer, headers={"x-request-id": request_id, "x-variant": variant.alias})

    def _raw(self, body: dict[str, Any], schema: ModelSchema) -> Raw:
        """Return the raw columns of {"rows": [...]} or {"columns": {...}}; raises BadInput."""
        unknown = set(body) - {"rows", "columns", "unit", "request_id"}
        if unknown:
            raise BadInput(sorted(unknown)[0], None, "is not a field of a request", "give rows or columns, unit")
        if ("rows" in body) == ("columns" in body):
            raise BadInput("body", None, "has not exactly one of rows and columns", 'send {"rows": [{...}]}')
        rows, columns, most = body.get("rows"), body.get("columns"), self._cfg.serving.max_rows
        if isinstance(rows, list) and rows:
            count = len(rows)
        elif isinstance(columns, dict) and columns:
            count = max((len(values) for values in columns.values() if isinstance(values, list)), default=0)
        else:
            count = 0
        if not count:
            key, kind = ("rows", "a list of objects") if "rows" in body else ("columns", "an object of lists")
            raise BadInput(key, None, "is empty or of the wrong type", f"give {kind}")
        if count > most:
            bound = f"are more than serving.max_rows={most}"
            raise Refused(413, BadInput("rows", count, bound, "send fewer at once"))
        return raw_from_rows(rows, schema) if isinstance(rows, list) else raw_from_columns(columns or {}, schema)

    async def _accept_feedback(self, scope: Scope, receive: Receive) -> Answer:
        """Acknowledge only what is on disk."""
        body = await read_json(scope, receive, int(self._cfg.serving.max_body_mb * 1e6))
        given = body.get("feedback", [body])
        if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
            raise BadInput("feedback", None, "is not a list of objects", 'send {"request_id": ..., "label": ...}')
        schema = self._variants.live.schema
        accepted = [_feedback(item, i, schema) for i, item in enumerate(given)]
        waiting = [asyncio.wrap_future(self._feedback.append_durably(item)) for item in accepted]
        try:
            await asyncio.gather(*waiting)
        except OSError as error:
            why = BadInput("feedback", None, f"cannot be kept ({error})", "send it again later")
            raise Refused(503, why) from error
        return Answer({"accepted": len(accepted)})

    async def _health(self, _scope: Scope, _receive: Receive) -> Answer:
        live = self._variants.live
        return Answer(
            {
                "status": "ok",
                "model": self._cfg.name,
                "ab_test": live.policy.ab_test,
                "weights": live.policy.weights,
                "variants": {alias: variant.version.number for alias, variant in live.variants.items()},
                "refused": self._variants.refused,
                "log_dropped": self._predictions.dropped,
            }
        )


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


def _feedback(item: dict[str, Any], place: int, schema: ModelSchema) -> Feedback:
    """Check one feedback; raises BadInput naming its place."""
    where = f"feedback[{place}]"
    if set(item) - {"request_id", "row", "label"} or not item.get("request_id") or "label" not in item:
        raise BadInput(where, None, "has not the fields request_id, label and perhaps row", "give just these")
    row, label = item.get("row", 0), item["label"]
    if not isinstance(item["request_id"], str) or type(row) is not int or not 0 <= row < 2**31:
        raise BadInput(where, None, "has a request_id that is no text, or a row that is no index", "correct it")
    number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
    if schema.classes:
        label = {True: "true", False: "false"}.get(label, label) if isinstance(label, bool) else label
        if str(label) not in schema.classes:
            raise BadInput(f"{where}.label", str(label)[:60], "is not a class", nearest(str(label), schema.classes))
    elif not number:
        raise BadInput(f"{where}.label", str(label)[:60], "is not a finite number", "give the true value")
    now = datetime.now(UTC)
    of_class = str(label) if schema.classes else None
    return {
        "request_id": item["request_id"],
        "row": row,
        "time": now,
        "label": of_class,
        "value": None if of_class else float(label),
    }


def _feedback_table(batch: list[Feedback]) -> pa.Table:
    return pa.Table.from_pylist(batch, FEEDBACK_SCHEMA)

"""The application of one registered model: a bare ASGI app in a replica that holds all live variants."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial

from conf.errors import BadInput, nearest
from conf.schema import DeployConfig
from serve import feedback, inference, native, scoring
from serve.access import Access
from serve.answers import (
    Answer,
    Receive,
    Refused,
    Scope,
    Send,
    content_type,
    header,
    read_body,
    read_json,
    refusal,
    send,
)
from serve.counts import FAILED, GONE, Counts
from serve.description import description, docs
from serve.isolated import Hosts
from serve.metrics import metrics
from serve.prediction import Asked, Predicted, Predictor
from serve.recorder import Recorder
from serve.shadow import Shadow
from serve.snapshots import Snapshots
from serve.variants import Variants

log = logging.getLogger("ray.serve")

LONGEST_MS, LONGEST_ID = 3_600_000, 256
JSON, CSV, BINARY = "application/json", "text/csv", "application/octet-stream"
Handler = Callable[[Scope, Receive], Awaitable[Answer]]


class Application:
    """Answers, under /<name>: the own protocol, the Open Inference Protocol (/v2) and MLflow's (/invocations)."""

    def __init__(self, cfg: DeployConfig, hosts: Hosts | None = None) -> None:
        """Load what the registry says; hosts: where the variants live, None for here."""
        self._cfg, self._access = cfg, Access(cfg.serving.http.token_file)
        self._variants = Variants(cfg, hosts)
        self._records = Recorder(cfg, self._variants.live.schema)
        self._shadow = Shadow(cfg, self._variants, self._records.predictions)
        self._predict = Predictor(cfg, self._variants, self._records.predictions, self._shadow)
        self.counts = Counts()
        self._snapshots = Snapshots(cfg, self.counts, self._variants, self._records.predictions)
        self._most_bytes = int(cfg.serving.max_body_mb * 1e6)
        model = f"/v2/models/{cfg.name}"
        self._routes: dict[str, tuple[str, Handler]] = {
            "/predict": ("POST", self._native),
            "/feedback": ("POST", self._accept_feedback),
            "/invocations": ("POST", self._mlflow),
            "/ping": ("GET", self._ping),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/docs": ("GET", self._docs),
            "/v2": ("GET", self._server),
            "/v2/health/live": ("GET", partial(self._yes, {"live": True})),
            "/v2/health/ready": ("GET", partial(self._yes, {"ready": True})),
            model: ("GET", self._metadata),
            f"{model}/ready": ("GET", partial(self._yes, {"name": cfg.name, "ready": True})),
            f"{model}/infer": ("POST", self._infer),
        }
        self._versioned = re.compile(rf"({re.escape(model)})/versions/([0-9]{{1,9}})(|/ready|/infer)")

    def close(self) -> None:
        """Write what is left of the records."""
        self._access.close()
        self._variants.close()
        self._predict.close()
        self._shadow.close()
        self._records.close()
        self._snapshots.close()

    async def __call__(self, scope: Scope, receive: Receive, respond: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            return
        path = str(scope["path"]).removeprefix(f"/{self._cfg.name}")
        started, status, headers = time.perf_counter(), FAILED, dict[str, str]()
        try:
            answer = await self._answer_or_refuse(path, scope, receive)
            await send(answer, respond)
            status, headers = answer.status, answer.headers
        except asyncio.CancelledError:
            status = GONE
            raise
        finally:
            self.counts.add(self._route(path), status, headers, time.perf_counter() - started)

    async def _answer_or_refuse(self, path: str, scope: Scope, receive: Receive) -> Answer:
        said = inference.error if path.startswith("/v2") else refusal
        try:
            return await self._answer(path, scope, receive)
        except Refused as refused:
            return said(refused)
        except BadInput as why:
            return said(Refused(422, why))
        except Exception:
            log.exception("%s: a request to %s failed", self._cfg.name, self._route(path))
            bound = "failed in a way that nobody foresaw"
            return said(Refused(FAILED, BadInput("request", None, bound, "the replica's log has the reason")))

    def _route(self, path: str) -> str:
        """Return the route of a path for its count: few, whatever clients ask for."""
        if path in self._routes:
            return path
        if (versioned := self._versioned.fullmatch(path)) is not None:
            return f"{versioned[1]}/versions/{{version}}{versioned[3]}"
        return "/docs" if path.startswith("/docs/") else "other"

    async def _answer(self, path: str, scope: Scope, receive: Receive) -> Answer:
        self._access.check(path, scope)
        if (versioned := self._versioned.fullmatch(path)) is not None:
            path = f"{versioned[1]}{versioned[3]}"
            scope = {**scope, "version": self._there(int(versioned[2]))}
        if path.startswith("/docs/"):
            return docs(path.removeprefix("/docs/"))
        if path not in self._routes:
            raise Refused(404, BadInput("path", scope["path"], "is not here", nearest(path, self._routes)))
        method, answer = self._routes[path]
        if scope["method"] != method:
            why = BadInput("method", scope["method"], f"is not for {path}", f"use {method}")
            raise Refused(405, why)
        return await answer(scope, receive)

    def _there(self, number: int) -> int:
        """Return a version that is live; raises Refused (404) for another."""
        return self._variants.live.of_version(number).version.number

    def _named(self, asked: Asked, scope: Scope) -> Asked:
        """Return what is asked with the unit, the id, the deadline and the tester's variant that headers say.

        Raises Refused (400, 403). The proxy gives every request an x-request-id, so that a client's own in the body
        comes first.
        """
        unit = header(scope, b"x-unit-id") or asked.unit
        request_id = asked.request_id or header(scope, b"x-request-id")
        for key, said in (("unit", unit), ("request_id", request_id)):
            if len(said) > LONGEST_ID:
                raise BadInput(key, said[:60], f"is longer than {LONGEST_ID} characters", "give a shorter one")
        variant, timeout_s = self._access.variant(scope), _timeout_s(scope)
        return replace(asked, unit=unit, request_id=request_id, variant=variant, timeout_s=timeout_s)

    async def _predicted(self, asked: Asked, scope: Scope) -> Predicted:
        predicted = await self._predict(self._named(asked, scope))
        self.counts.predicted(predicted)
        return predicted

    async def _native(self, scope: Scope, receive: Receive) -> Answer:
        kind = content_type(scope, JSON, native.ARROW)
        body = await read_body(receive, self._most_bytes)
        asked = native.read(read_json(body)) if kind == JSON else native.read_arrow(body, self._cfg.serving.max_rows)
        predicted = await self._predicted(asked, scope)
        return (native.write if kind == JSON else native.write_arrow)(predicted, self._cfg.name)

    async def _mlflow(self, scope: Scope, receive: Receive) -> Answer:
        kind = content_type(scope, JSON, CSV)
        body = await read_body(receive, self._most_bytes)
        asked = scoring.read(scoring.parse(body)) if kind == JSON else scoring.read_csv(body)
        return scoring.write(await self._predicted(asked, scope))

    async def _infer(self, scope: Scope, receive: Receive) -> Answer:
        content_type(scope, JSON, BINARY)
        body = await read_body(receive, self._most_bytes)
        length = header(scope, inference.BINARY_LENGTH.encode())
        infer = inference.read(body, length, scope.get("version"))
        return inference.write(await self._predicted(infer.asked, scope), infer, self._cfg.name)

    async def _accept_feedback(self, scope: Scope, receive: Receive) -> Answer:
        content_type(scope, JSON)
        body = read_json(await read_body(receive, self._most_bytes))
        return Answer({"accepted": await feedback.accept(body, self._variants.live.schema, self._records.feedback)})

    async def _health(self, scope: Scope, _receive: Receive) -> Answer:
        """Say what is live; reasons, which may name paths and hosts, to an admin alone."""
        live, admin = self._variants.live, self._access.is_admin(scope)

        def told(why: object) -> object:
            return why if admin or not why else "an admin's token is told why"

        return Answer(
            {
                "status": "ok",
                "model": self._cfg.name,
                "ab_test": live.policy.ab_test,
                "weights": live.weights,
                "policy": asdict(live.policy),
                "variants": {alias: variant.version.number for alias, variant in live.variants.items()},
                "shadow": {alias: {**of, "why": told(of["why"])} for alias, of in self._shadow.counts().items()},
                "refused": told("; ".join(filter(None, (self._variants.refused, self._access.refused)))),
                "log_dropped": self._records.predictions.dropped,
                "log_failure": told(self._records.predictions.failure),
            }
        )

    async def _metrics(self, scope: Scope, _receive: Receive) -> Answer:
        snapshots = await asyncio.to_thread(self._snapshots.all)  # from a disk that may be slow
        return await asyncio.to_thread(metrics, self._cfg.name, snapshots, time.time(), header(scope, b"accept"))

    async def _ping(self, _scope: Scope, _receive: Receive) -> Answer:
        return Answer(b"\n", headers={"content-type": "text/plain"})

    async def _server(self, _scope: Scope, _receive: Receive) -> Answer:
        return Answer({"name": "rungway", "version": "2", "extensions": ["binary_tensor_data"]})

    async def _yes(self, said: dict[str, object], _scope: Scope, _receive: Receive) -> Answer:
        return Answer(said)

    async def _metadata(self, scope: Scope, _receive: Receive) -> Answer:
        live = self._variants.live
        number = scope.get("version")
        schema = live.schema if number is None else live.of_version(number).bundle.schema
        return inference.metadata(self._cfg.name, live.numbers, schema)

    async def _openapi(self, _scope: Scope, _receive: Receive) -> Answer:
        return Answer(description(self._cfg, self._variants.live.schema))

    async def _docs(self, _scope: Scope, _receive: Receive) -> Answer:
        return docs("")


def _timeout_s(scope: Scope) -> float | None:
    said = header(scope, b"x-request-timeout-ms")
    if not said:
        return None
    if not (said.isdecimal() and len(said) < 8 and 0 < int(said) <= LONGEST_MS):
        bound = f"is not a whole number of milliseconds from 1 to {LONGEST_MS}"
        raise Refused(400, BadInput("x-request-timeout-ms", said[:20], bound, "correct or leave it out"))
    return int(said) / 1000

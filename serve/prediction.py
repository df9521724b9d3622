"""One prediction, whatever protocol asked for it: the unit's variant, its answer, and the record of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cluster.columns import Array, ModelSchema, Raw, joined, raw_from_rows
from cluster.policy import ALIASES
from cluster.records import Predictions
from cluster.segments import SegmentWriter
from conf.errors import BadInput
from conf.schema import DeployConfig
from serve.answers import Refused
from serve.batching import Batches
from serve.doubts import NONE, Doubts
from serve.failures import AnsweredBy
from serve.shadow import Shadow
from serve.traffic import assign
from serve.variants import Variant, Variants

Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Asked:
    """What a request of any protocol comes to.

    raw: rows as JSON objects, which are read together with those of other requests; or what makes the columns of a
    schema from what was sent. Raises BadInput where it does not fit. unit, request_id: "" where not said; version,
    variant: the one that must answer, None and "" for the unit's variant; timeout_s: how long the answer is
    of use, None for ever.
    """

    raw: Rows | Callable[[ModelSchema], Raw]
    unit: str = ""
    request_id: str = ""
    version: int | None = None
    timeout_s: float | None = None
    variant: str = ""


@dataclass(frozen=True)
class Predicted:
    """An answer before it is written. outputs [N, K]; warnings: what the model has not been trained on, of the rows."""

    variant: Variant
    request_id: str
    outputs: Array
    warnings: Doubts

    @property
    def schema(self) -> ModelSchema:
        """Return the schema of what answered."""
        return self.variant.bundle.schema

    @property
    def headers(self) -> dict[str, str]:
        """Return what every answer says of itself."""
        return self.variant.headers(self.request_id)


@dataclass(frozen=True)
class _Item:
    """A request in a batch: as rows, or as the columns made of them. started: seconds of the performance counter."""

    raw: Rows | Raw
    rows: int
    unit: str
    request_id: str
    started: float


class Predictor:
    """Answers requests with the live variants, those of one moment together, and records them off their path."""

    def __init__(self, cfg: DeployConfig, variants: Variants, log: SegmentWriter[Predictions], shadow: Shadow) -> None:
        self._serving, self._variants, self._log, self._shadow = cfg.serving, variants, log, shadow
        isolated = cfg.serving.isolation == "deployment"  # an answer from elsewhere is waited for in a thread
        told: dict[str, Any] = {"long_s": 0.0, "threads": len(ALIASES)} if isolated else {}
        self._batches = Batches[Variant, _Item, Predicted](self._run, cfg.serving.max_rows, **told)

    def close(self) -> None:
        """End what batches need."""
        self._batches.close()

    async def __call__(self, asked: Asked) -> Predicted:
        """Predict.

        Raises Refused for a version that is not live (404), what the variant cannot take (422), too many rows (413) or
        requests (429), and an answer that is late (503).
        """
        started = time.perf_counter()
        request_id = asked.request_id or uuid.uuid4().hex
        unit = asked.unit or request_id
        variant = self._variant(unit, asked)
        with AnsweredBy(variant, request_id):
            raw = asked.raw(variant.bundle.schema) if callable(asked.raw) else asked.raw
            rows, most = len(next(iter(raw.values())) if isinstance(raw, dict) else raw), self._serving.max_rows
            if not rows:
                raise BadInput("rows", 0, "are none", "give at least one")
            if rows > most:
                bound = f"are more than serving.max_rows={most}"
                raise Refused(413, BadInput("rows", rows, bound, "send fewer at once"))
            if self._batches.ongoing >= self._serving.max_ongoing:
                bound = f"are in hand, as many as serving.max_ongoing={self._serving.max_ongoing}"
                raise Refused(429, BadInput("requests", self._batches.ongoing, bound, "send it again later"))
            answer = self._batches.ask(variant, _Item(raw, rows, unit, request_id, started), rows)
            if asked.timeout_s is None:
                return await answer
            try:
                return await asyncio.wait_for(answer, asked.timeout_s)
            except TimeoutError as error:
                said = f"{asked.timeout_s * 1000:g}"
                why = BadInput("x-request-timeout-ms", said, "has passed without an answer", "allow more time")
                raise Refused(503, why) from error

    def _variant(self, unit: str, asked: Asked) -> Variant:
        live = self._variants.live
        if asked.variant:
            return live.of_alias(asked.variant, asked.version)
        if asked.version is not None:
            return live.of_version(asked.version)
        return live.variants[assign(live.policy.ab_test, unit, live.weights)]

    def _run(self, variant: Variant, items: list[_Item]) -> list[Predicted | Exception]:
        """Predict a batch; return for each of its requests the answer, or why it has none."""
        schema = variant.bundle.schema
        parts = _read(items, schema)
        good = [item for item, part in zip(items, parts, strict=True) if not isinstance(part, Exception)]
        if not good:
            return [part for part in parts if isinstance(part, Exception)]
        raw = joined([part for part in parts if not isinstance(part, Exception) and part], schema)
        outputs = variant.bundle.predict(raw)
        self._record(variant, good, raw, outputs)
        answers = iter(self._split(variant, good, raw, outputs))
        return [part if isinstance(part, Exception) else next(answers) for part in parts]

    def _split(self, variant: Variant, items: list[_Item], raw: Raw, outputs: Array) -> list[Predicted]:
        """Return the answer to each request of a batch."""
        doubts = variant.trained.doubts(raw)
        if len(items) == 1:
            return [Predicted(variant, items[0].request_id, outputs, doubts)]
        answers, first = list[Predicted](), 0
        for item in items:
            own = slice(first, first + item.rows)
            of_item = {name: values[own] for name, values in raw.items()} if doubts.said else None
            warnings = NONE if of_item is None else variant.trained.doubts(of_item)
            answers.append(Predicted(variant, item.request_id, outputs[own], warnings))
            first += item.rows
        return answers

    def _record(self, variant: Variant, items: list[_Item], raw: Raw, outputs: Array) -> None:
        now = time.perf_counter()
        made = Predictions(
            request_ids=[item.request_id for item in items],
            units=[item.unit for item in items],
            counts=[item.rows for item in items],
            time=time.time(),
            version=variant.version.number,
            variant=variant.alias,
            raw=raw,
            outputs=outputs,
            latencies_ms=[(now - item.started) * 1000 for item in items],
            schema=variant.bundle.schema,
        )
        if self._serving.records.predictions:
            self._log.append(made)
        self._shadow.offer(made)


def _read(items: list[_Item], schema: ModelSchema) -> list[Raw | Exception]:
    """Return the columns of each request, or what is wrong with it.

    Where all are rows and all are good, the first has the columns of all, and the others none.
    """
    rows = [item.raw for item in items if not isinstance(item.raw, dict)]
    if len(rows) == len(items) > 1:
        with suppress(BadInput):  # whose it is, the next lines find
            return [raw_from_rows([row for each in rows for row in each], schema), *({} for _ in rows[1:])]
    found = list[Raw | Exception]()
    for item in items:
        try:
            found.append(item.raw if isinstance(item.raw, dict) else raw_from_rows(item.raw, schema))
        except BadInput as why:
            found.append(why)
    return found

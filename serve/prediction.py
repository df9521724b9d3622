"""One prediction, whatever protocol asked for it: the unit's variant, its answer, and the record of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from cluster.columns import Array, ModelSchema, Raw
from cluster.records import Prediction, SegmentWriter
from conf.errors import BadInput
from conf.schema import DeployConfig
from serve.answers import Refused
from serve.doubts import Doubts
from serve.failures import AnsweredBy
from serve.traffic import assign
from serve.variants import Variant, Variants


@dataclass(frozen=True)
class Asked:
    """What a request of any protocol comes to.

    raw: makes the columns of a schema from what was sent, and raises BadInput where it does not fit; unit, request_id:
    "" where not said; version: the one that must answer, None for the unit's variant.
    """

    raw: Callable[[ModelSchema], Raw]
    unit: str = ""
    request_id: str = ""
    version: int | None = None


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


class Predictor:
    """Answers requests with the live variants, and records them off their path."""

    def __init__(self, cfg: DeployConfig, variants: Variants, log: SegmentWriter[Prediction]) -> None:
        self._cfg, self._variants, self._log = cfg, variants, log

    def __call__(self, asked: Asked) -> Predicted:
        """Predict; raises Refused for a version that is not live, and for what the variant cannot take."""
        started = time.perf_counter()
        request_id = asked.request_id or uuid.uuid4().hex
        unit = asked.unit or request_id
        variant = self._variant(unit, asked.version)
        with AnsweredBy(variant, request_id):
            raw = asked.raw(variant.bundle.schema)
            rows, most = len(next(iter(raw.values()))), self._cfg.serving.max_rows
            if rows > most:
                bound = f"are more than serving.max_rows={most}"
                raise Refused(413, BadInput("rows", rows, bound, "send fewer at once"))
            outputs = variant.bundle.predict(raw)
        if self._cfg.serving.log_predictions:
            latency_ms = (time.perf_counter() - started) * 1000
            number = variant.version.number
            self._log.append(Prediction(request_id, time.time(), number, variant.alias, unit, raw, outputs, latency_ms))
        return Predicted(variant, request_id, outputs, variant.trained.doubts(raw))

    def _variant(self, unit: str, version: int | None) -> Variant:
        live = self._variants.live
        if version is not None:
            return live.of_version(version)
        return live.variants[assign(live.policy.ab_test, unit, live.policy.weights)]

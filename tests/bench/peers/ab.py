"""What every peer in serving does beside its protocol: two loaded models, sticky assignment, a log off the path.

Assignment and log are our own functions, so that rows differ by what carries a request to the model and back, not by
these. ONNX Runtime has one thread, as our replica of one CPU has.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from cluster.columns import ModelSchema
from cluster.records import Predictions, prediction_tables
from cluster.segments import SegmentWriter
from serve.traffic import assign

WEIGHTS = {"champion": 0.5, "challenger": 0.5}
FOLDER = "BENCH_FOLDER"  # variable: where bundles/<alias> lie, and logs go
FLUSH_S, QUEUED = 1.0, 100_000  # as serving.records has them

Row = Mapping[str, float]


def folder() -> Path:
    """Return the folder that this server was told."""
    return Path(os.environ[FOLDER])


def assigned(unit: str) -> str:
    """Return the variant of a unit."""
    return assign("ab", unit, WEIGHTS)


@dataclass(frozen=True)
class Answered:
    """An answer with what is recorded of it. raw: columns [N, 1]; outputs [N, K]."""

    raw: dict[str, np.ndarray]
    outputs: np.ndarray
    took_ms: float


class Model:
    """One variant: model.onnx of a bundle, asked for rows of numbers."""

    def __init__(self, alias: str) -> None:
        bundle = folder() / "bundles" / alias
        self.schema = ModelSchema.from_dict(json.loads((bundle / "schema.json").read_text()))
        self._names = [column.name for column in self.schema.columns]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, rows: Sequence[Row]) -> Answered:
        """Return probabilities of JSON rows; raises KeyError for a missing column."""
        started = time.perf_counter()
        raw = {name: np.array([[row[name]] for row in rows], dtype=np.float32) for name in self._names}
        outputs = np.asarray(self._session.run(None, raw)[0])
        return Answered(raw, outputs, (time.perf_counter() - started) * 1000)


class Log:
    """The prediction log of one process."""

    def __init__(self, schema: ModelSchema) -> None:
        into = folder() / "peer_records" / str(os.getpid())
        self._writer = SegmentWriter[Predictions](into, prediction_tables, FLUSH_S, QUEUED)
        self._schema = schema

    def append(self, alias: str, unit: str, answered: Answered) -> dict[str, object]:
        """Record a prediction, and return it as it is answered."""
        request_id = uuid.uuid4().hex
        self._writer.append(
            Predictions(
                request_ids=[request_id],
                units=[unit],
                counts=[len(answered.outputs)],
                time=time.time(),
                version=1,
                variant=alias,
                raw=answered.raw,
                outputs=answered.outputs,
                latencies_ms=[answered.took_ms],
                schema=self._schema,
            )
        )
        return {"probabilities": answered.outputs.tolist(), "variant": alias, "request_id": request_id}


class AB:
    """Both models in one process."""

    def __init__(self) -> None:
        self._models = {alias: Model(alias) for alias in WEIGHTS}
        self._log = Log(self.schema)

    @property
    def schema(self) -> ModelSchema:
        """Return the schema of both."""
        return self._models["champion"].schema

    def answer(self, rows: Sequence[Row], unit: str) -> dict[str, object]:
        """Predict with the unit's variant, and record it."""
        alias = assigned(unit)
        return self._log.append(alias, unit, self._models[alias].predict(rows))

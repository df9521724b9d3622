"""What a run leaves: the kept epoch's weights and metrics, and every epoch's metrics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """The kept epoch's weights and metrics, every epoch's metrics in order, and the rows taken at once in the end.

    micro_batch: None where a worker's whole share of a batch fitted.
    """

    state: State
    metrics: dict[str, float]
    kept_epoch: int
    history: tuple[dict[str, float], ...]
    micro_batch: int | None = None

    @property
    def weights_sha256(self) -> str:
        """Return the hash of all weights: equal for bitwise equal models."""
        digest = hashlib.sha256()
        for name, weights in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(weights.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def tags(self) -> dict[str, object]:
        """Return what a run is tagged with."""
        fitted = {} if self.micro_batch is None else {"micro_batch": self.micro_batch}
        return {"weights_sha256": self.weights_sha256, "kept_epoch": self.kept_epoch, **fitted}


@dataclass
class Kept:
    """The epoch whose weights are kept so far: the best by the selection metric, or the last."""

    metric: str
    direction: str
    keep: str
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    state: State = field(default_factory=dict)

    def offer(self, epoch: int, metrics: dict[str, float], state: Callable[[], State]) -> None:
        """Keep an epoch where it is better, or the last is kept; `state` gives its weights."""
        value, best = metrics[self.metric], self.metrics.get(self.metric)
        better = best is None or math.isnan(best) or (value > best if self.direction == "max" else value < best)
        if better or self.keep == "last":
            self.epoch, self.metrics, self.state = epoch, metrics, state()

"""Several trainings of one config in lockstep, one for each seed; a metric is the mean of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from conf.schema import TrainConfig
from jobs.training.context import LocalContext
from jobs.training.epoch import Epoch
from jobs.training.examples import TrainingData
from jobs.training.loop import Loop
from jobs.training.metrics import COSTS
from jobs.training.state import LoopState


class Replicates:
    """One training for each config, epoch by epoch.

    One that has stopped early counts with its last epoch until all have.
    read: metrics that are asked for; each epoch reports those of COSTS among them too.
    """

    def __init__(self, configs: list[TrainConfig], data: TrainingData, read: tuple[str, ...] = ()) -> None:
        self._loops = [Loop(cfg, data, LocalContext()) for cfg in configs]
        self._latest: list[Epoch | None] = [None for _ in configs]
        self._costs = {name: float(getattr(self._loops[0], name)()) for name in read if name in COSTS}
        self.history: list[dict[str, float]] = []

    @property
    def last(self) -> bool:
        """Tell whether all have finished."""
        return all(epoch is not None and epoch.last for epoch in self._latest)

    def __iter__(self) -> Iterator[Epoch]:
        """Return the epochs still to come."""
        return self

    def __next__(self) -> Epoch:
        """Train each that has not finished an epoch more and return the mean."""
        if self.last:
            raise StopIteration
        self._latest = [
            epoch if epoch is not None and epoch.last else next(loop)
            for loop, epoch in zip(self._loops, self._latest, strict=True)
        ]
        mean = mean_epoch(len(self.history) + 1, [epoch for epoch in self._latest if epoch is not None], self._costs)
        self.history.append(mean.report())
        return mean

    def kept(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return metrics of the weights kept so far."""
        outcomes = [loop.outcome().metrics for loop in self._loops]
        loops_own = [name for name in names if all(name in metrics for metrics in outcomes)]
        return {name: sum(metrics[name] for metrics in outcomes) / len(outcomes) for name in loops_own}

    def save(self, path: Path) -> None:
        """Write all trainings as they stand between two epochs."""
        latest = [
            epoch and [epoch.number, epoch.samples, epoch.metrics, epoch.objective, epoch.last]
            for epoch in self._latest
        ]
        states = [loop.state() for loop in self._loops]
        loops = [{"tensors": state.tensors, "plain": state.plain} for state in states]
        torch.save({"loops": loops, "latest": latest, "history": self.history}, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        for loop, own in zip(self._loops, state["loops"], strict=True):
            loop.load_state(LoopState(**own))
        self._latest = [epoch and Epoch(*epoch) for epoch in state["latest"]]
        self.history = list(state["history"])


def mean_epoch(number: int, latest: list[Epoch], costs: Mapping[str, float] = {}) -> Epoch:
    """Return the mean of the replicates' epochs; last when all are."""
    count = len(latest)
    metrics = {name: sum(epoch.metrics[name] for epoch in latest) / count for name in latest[0].metrics}
    objective = sum(epoch.objective for epoch in latest) / count
    samples = max(epoch.samples for epoch in latest)
    return Epoch(number, samples, {**metrics, **costs}, objective, all(epoch.last for epoch in latest))

"""What a trial's actor runs: the one training loop; several replicates in lockstep, their metrics averaged."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch

from conf.compose import from_yaml
from conf.schema import TrainConfig
from jobs.training.context import Epoch, LocalContext, TrialContext
from jobs.training.loop import Outcome, epochs
from jobs.training.tensors import TrainingData

Loop = Generator[Epoch, None, Outcome]


def trial(config: dict[str, list[str]], data: TrainingData) -> None:
    """Run one trial of Ray Tune; config["configs"]: the whole config of each replicate, as yaml."""
    context = TrialContext()
    for epoch in lockstep([from_yaml(text, TrainConfig) for text in config["configs"]], data):
        context.report(epoch)


def lockstep(configs: list[TrainConfig], data: TrainingData) -> Iterator[Epoch]:
    """Train all replicates epoch by epoch and yield the mean of their epochs.

    Each has its own random stream, so that it trains as it would alone. One that has stopped early counts with
    its last epoch until all have.
    """
    loops: list[Loop | None] = [epochs(cfg, data, LocalContext()) for cfg in configs]
    streams = [torch.get_rng_state() for _ in loops]
    latest: list[Epoch] = []
    number = 0
    while any(loops):
        number += 1
        for i, loop in enumerate(loops):
            if loop is None:
                continue
            torch.set_rng_state(streams[i])
            epoch = next(loop)
            streams[i] = torch.get_rng_state()
            latest[i:] = [epoch, *latest[i + 1 :]]
            loops[i] = None if epoch.last else loop
        yield mean_epoch(number, latest)


def mean_epoch(number: int, latest: list[Epoch]) -> Epoch:
    """Return the mean of the replicates' metrics; last when all are."""
    count = len(latest)
    metrics = {name: sum(epoch.metrics[name] for epoch in latest) / count for name in latest[0].metrics}
    objective = sum(epoch.objective for epoch in latest) / count
    return Epoch(number, metrics, objective, all(epoch.last for epoch in latest))

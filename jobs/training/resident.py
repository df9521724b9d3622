"""A part that fits on the device, as tensors, shuffled by index."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from conf.errors import BadInput
from conf.schema import Training
from jobs.models.features import tensor
from jobs.models.predictor import Predictor
from jobs.training.batch import Batch, rows_at_once
from jobs.training.context import Context
from jobs.training.examples import Examples


class Resident:
    """One part of the data on the device, its features made once; no row is touched by Python."""

    def __init__(self, predictor: Predictor, part: Examples, context: Context) -> None:
        inputs, device = part.inputs, context.device
        with torch.no_grad():
            features = predictor.features(tensor(inputs.numbers).to(device), tensor(inputs.times).to(device))
        own = (inputs.codes, *inputs.texts, part.target)
        *rest, self.target = (tensor(array).to(device, copy=True) for array in own)
        self.inputs = (features, *rest)  # their own memory: a person's network may write into what it is given
        self.rows, self._context = len(self.target), context

    @property
    def one(self) -> tuple[Tensor, ...]:
        """Return the network's inputs of a row."""
        return tuple(part[:1] for part in self.inputs)

    def epoch(self, training: Training, seed: int, number: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered `start` on, in an order of (seed, number) alone."""
        order = self._order(training, torch.Generator().manual_seed(seed * 1_000_003 + number))
        for batch in order.to(self._context.device).split(training.batch_size)[start : training.steps_per_epoch]:
            own = batch[self._context.rank :: self._context.world_size]
            yield Batch(tuple(part[own] for part in self.inputs), self.target[own], len(batch))

    def _order(self, training: Training, random: torch.Generator) -> Tensor:
        if training.sampling == "shuffled":
            return torch.randperm(self.rows, generator=random)
        if self.target.is_floating_point():
            remedy = "say training.sampling=shuffled"
            raise BadInput("training.sampling", training.sampling, "is for classes, not for values", remedy)
        target = self.target.cpu()
        ends = torch.cumsum((1.0 / torch.bincount(target).double())[target], 0)
        drawn = torch.rand(self.rows, dtype=torch.float64, generator=random) * ends[-1]
        return torch.searchsorted(ends, drawn).clamp_(max=self.rows - 1)

    def shares(self) -> Iterator[Batch]:
        """Yield a worker's rows (rank, rank + world_size, ...) in order, in equally many pieces on every worker."""
        most = -(-self.rows // self._context.world_size)
        own = [part[self._context.rank :: self._context.world_size] for part in (*self.inputs, self.target)]
        at_once = rows_at_once(self.inputs)
        for start in range(0, most, at_once):
            *inputs, target = (part[start : start + at_once] for part in own)
            yield Batch(tuple(inputs), target, len(target))

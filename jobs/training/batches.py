"""Which rows each step trains on: the whole batch is the same for any number of workers, each takes its share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from conf.schema import Training
from jobs.models.predictor import Predictor
from jobs.training.batch import Batch
from jobs.training.context import Context
from jobs.training.examples import Examples
from jobs.training.held import Held, fits
from jobs.training.resident import Resident
from jobs.training.streamed import Streamed


class Batches(Protocol):
    """The rows of one part."""

    rows: int

    @property
    def target(self) -> Tensor:
        """Return the target of all rows, [N]."""

    @property
    def one(self) -> tuple[Tensor, ...]:
        """Return the network's inputs of a row."""

    def epoch(self, training: Training, seed: int, number: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered `start` on, in an order of (seed, number) alone."""

    def shares(self) -> Iterator[Batch]:
        """Yield a worker's rows (rank, rank + world_size, ...) in order, in equally many pieces on every worker."""


def batches(predictor: Predictor, part: Examples, context: Context) -> Batches:
    """Return the batches of a part: of tensors where they fit on every device, else read from disk or memory."""
    if part.stored or context.sum(float(not fits(part, context.device))):
        return Streamed(predictor, part, part.stored or Held(part), context)
    return Resident(predictor, part, context)

"""One batch: the rows of it that a worker has."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conf.schema import Training

_AT_ONCE, _SHORT = 8192, 64  # rows of a part that is only looked at; bytes of a text up to which that is so


@dataclass(frozen=True)
class Batch:
    """A worker's own rows of one batch: the network's inputs, the target [n], and how many rows all workers have."""

    inputs: tuple[Tensor, ...]
    target: Tensor
    rows: int


def steps(training: Training, rows: int) -> int:
    """Return how many batches an epoch of so many rows has."""
    whole = -(-rows // training.batch_size)
    return min(whole, training.steps_per_epoch or whole)


def rows_at_once(inputs: tuple[Tensor, ...]) -> int:
    """Return how many rows are looked at in one forward pass: fewer of long texts."""
    longest = max((part.shape[1] for part in inputs if part.dim() == 2 and part.element_size() == 1), default=0)
    return max(1, _AT_ONCE * _SHORT // max(_SHORT, longest))

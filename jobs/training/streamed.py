"""A part that is read while it is trained on: a window of it in memory, and the next one on its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from cluster.columns import Array
from conf.errors import BadInput
from conf.schema import Training
from jobs.models.features import tensor
from jobs.models.predictor import Predictor
from jobs.training.batch import Batch, rows_at_once, steps
from jobs.training.context import Context
from jobs.training.examples import Examples

RUN = 256  # rows that are next to one another on disk and in one window
WINDOW_BYTES, WINDOW_ROWS = 32 * 2**20, 2**16  # at most so much is shuffled together

Runs = list[tuple[int, int]]  # (first row, how many)


class Source(Protocol):
    """Rows that are read in runs: on disk, or in the host's memory."""

    @property
    def rows(self) -> int:
        """Return how many there are."""

    @property
    def row_bytes(self) -> int:
        """Return what a row takes."""

    @property
    def target(self) -> Array:
        """Return the target of all rows."""

    def read(self, runs: Runs) -> list[Array]:
        """Return the rows of all runs: the arrays in the order in which a predictor takes them, the target last."""


class Streamed:
    """One part that is not on the device: runs of rows from everywhere in it make a window, whose rows are shuffled.

    That is the two-level shuffle of CorgiPile (Xu et al. 2022, "In-database machine learning with CorgiPile:
    stochastic gradient descent without full data shuffle"): a batch has rows of up to 256 places, whatever the order
    of the files. Any batch of any epoch can be gone to without reading those before it.
    """

    def __init__(self, predictor: Predictor, sample: Examples, source: Source, context: Context) -> None:
        self.rows, self._predictor, self._source, self._context = source.rows, predictor, source, context
        self._window_rows = max(1, min(WINDOW_ROWS, WINDOW_BYTES // source.row_bytes) // RUN) * RUN
        self._sample = sample

    @cached_property
    def target(self) -> Tensor:
        """Return the target of all rows."""
        return tensor(self._source.target).to(self._context.device)

    @cached_property
    def one(self) -> tuple[Tensor, ...]:
        """Return the network's inputs of a row."""
        return self._inputs([tensor(block[:1]).to(self._context.device) for block in self._sample.inputs.blocks])

    def epoch(self, training: Training, seed: int, number: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered `start` on, in an order of (seed, number) alone."""
        if training.sampling != "shuffled":
            remedy = "say training.class_weights=balanced, or dataset.loading=memory"
            raise BadInput("training.sampling", training.sampling, "needs all rows in memory", remedy)
        size, left = training.batch_size, steps(training, self.rows) - start
        held: tuple[Tensor, ...] = ()
        for window, last in self._shuffled(seed * 1_000_003 + number, start * size):
            held = tuple(torch.cat(parts) for parts in zip(held, window, strict=True)) if held else window
            rows = len(held[-1])
            whole = rows if last else rows // size * size
            for first in range(0, whole, size)[:left]:
                left -= 1
                end = min(first + size, rows)
                *inputs, target = (part[first:end][self._own] for part in held)
                yield Batch(tuple(inputs), target, end - first)
            if not left:
                return
            held = tuple(part[whole:] for part in held)

    def shares(self) -> Iterator[Batch]:
        """Yield a worker's rows (rank, rank + world_size, ...) in order, in equally many pieces on every worker."""
        starts = range(0, self.rows, self._window_rows)
        windows = [[(first, min(self._window_rows, self.rows - first))] for first in starts]
        for first, window in zip(starts, self._read(windows), strict=True):
            own = slice((self._context.rank - first) % self._context.world_size, None, self._context.world_size)
            *inputs, target = (part[own] for part in window)
            at_once = rows_at_once(tuple(inputs))
            for piece in range(0, -(-len(window[-1]) // self._context.world_size), at_once):
                part = slice(piece, piece + at_once)
                yield Batch(tuple(each[part] for each in inputs), target[part], len(target[part]))

    @property
    def _own(self) -> slice:
        return slice(self._context.rank, None, self._context.world_size)

    def _shuffled(self, seed: int, skipped: int) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
        """Yield an epoch's windows, shuffled, without the rows `skipped` at its start, and whether it is the last."""
        order = torch.randperm(self.rows // RUN, generator=torch.Generator().manual_seed(seed))
        windows = order.split(self._window_rows // RUN)
        first, last = min(skipped // self._window_rows, len(windows) - 1), len(windows) - 1
        skipped -= first * self._window_rows
        rest = [(self.rows // RUN * RUN, self.rows % RUN)]  # the rows that make no run, in the last window
        runs = (
            [(int(run) * RUN, RUN) for run in windows[number]] + (rest if number == last else [])
            for number in range(first, last + 1)
        )
        for number, window in enumerate(self._read(runs), first):
            random = torch.Generator().manual_seed(seed * 1_000_003 + number)
            shuffled = torch.randperm(len(window[-1]), generator=random)[skipped if number == first else 0 :]
            shuffled = shuffled.to(self._context.device)
            yield tuple(part[shuffled] for part in window), number == last

    def _read(self, windows: Iterable[Runs]) -> Iterator[tuple[Tensor, ...]]:
        """Yield windows as the network's inputs and the target; each is read while the one before is used."""
        with ThreadPoolExecutor(1, "read") as aside:
            ahead: Future[list[Tensor]] | None = None
            for window in chain(windows, [None]):
                here, ahead = ahead, aside.submit(self._load, window) if window is not None else None
                if here is not None:
                    *blocks, target = (part.to(self._context.device, non_blocking=True) for part in here.result())
                    yield *self._inputs(blocks), target

    def _load(self, window: Runs) -> list[Tensor]:
        """Return the arrays of a window in memory that a GPU can copy from by itself."""
        arrays = [tensor(array) for array in self._source.read(window)]
        return [array.pin_memory() for array in arrays] if self._context.device.type == "cuda" else arrays

    @torch.no_grad()
    def _inputs(self, blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        numbers, codes, times, *texts = blocks
        return self._predictor.features(numbers, times), codes, *texts

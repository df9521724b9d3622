"""A part in the host's memory that is too large for the device: read in windows, as one on disk is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cluster.columns import Array
from jobs.training.examples import Examples

_SHARE = 0.5  # of a device's free memory that data may take; the rest is for weights and activations


class Held:
    """The arrays of a part, in the order in which a predictor takes them, the target last."""

    def __init__(self, part: Examples) -> None:
        self._arrays = [*part.inputs.blocks, part.target]
        self.rows, self.target = len(part.target), part.target

    @property
    def row_bytes(self) -> int:
        """Return what a row takes."""
        return sum(array[:1].nbytes for array in self._arrays)

    def read(self, runs: Sequence[tuple[int, int]]) -> list[Array]:
        """Return the rows of all runs (first row, how many), one after the other."""
        return [np.concatenate([array[first : first + rows] for first, rows in runs]) for array in self._arrays]


def fits(part: Examples, device: torch.device) -> bool:
    """Return whether a part leaves room on the device; the CPU has its memory anyway."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return part.rows * Held(part).row_bytes < _SHARE * free

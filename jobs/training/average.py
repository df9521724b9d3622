"""An exponential moving average of the weights, which is what is validated and kept where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """decay * average + (1 - decay) * weights after each step, from the first step's weights on.

    Source: Polyak and Juditsky 1992; the exponential form as in `torch.optim.swa_utils`. Early steps use the smaller
    decay (1 + n) / (10 + n), as TensorFlow's ExponentialMovingAverage does, so that the start is soon forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = list(parameters), decay
        self.weights: list[Tensor] = [weights.detach().clone() for weights in parameters] if decay else []
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take a step's weights in."""
        if self._decay:
            decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
            self.updates += 1
            get_ema_multi_avg_fn(decay)(self.weights, [p.detach() for p in self._parameters], self.updates)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for own, average in zip(self._parameters, self.weights, strict=False):  # none where there is no average
            before = own.detach().clone()
            own.copy_(average)
            average.copy_(before)

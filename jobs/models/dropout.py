"""Dropout that draws eight units from each random word: on a CPU the draws are most of its cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 256  # the rate is rounded to one in so many


class Dropout(nn.Module):
    """Drop units with probability `rate` (rounded to 1/256) while training, and scale the rest to keep the mean.

    Source: Srivastava et al. 2014, section 10 (inverted scaling).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = min(round(rate * LEVELS), LEVELS - 1)

    def forward(self, units: Tensor) -> Tensor:
        """Return the units, [N, width], some of them dropped; as they are in eval mode."""
        if not self.training or self.threshold == 0:
            return units
        words = torch.randint(-(2**63), 2**63 - 1, (-(-units.numel() // 8),), device=units.device)
        drawn = words.view(torch.uint8)[: units.numel()].view(units.shape)
        kept = (drawn >= self.threshold).to(units.dtype).mul_(LEVELS / (LEVELS - self.threshold))
        return units * kept

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.threshold / LEVELS:.3f}"

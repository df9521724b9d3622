"""Raw numbers and times to what a network sees: filled, scaled, periodic. Part of the exported graph."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from cluster.columns import MISSING_TIME, Array

DAY, WEEK, YEAR = 86_400, 7 * 86_400, 31_556_952  # seconds; mean Gregorian year
CLIP = 8.0  # standard deviations: an absurd value at serving time cannot drown the rest


def tensor(array: Array) -> Tensor:
    """Return an array as a tensor in the same memory, which nobody may write: all trials of a machine share it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's, that it cannot tell writers off
        return torch.from_numpy(array)


def _period_start(period: int) -> int:
    """Return the offset that makes the epoch (a Thursday) line up with the period's own start (Monday)."""
    return 3 * DAY if period == WEEK else 0


class Features(nn.Module):
    """Fill, scale and expand numbers and times; statistics come from the train part only.

    forward(numbers [N, a] float32 with NaN for missing, times [N, c] int64 epoch seconds with MISSING_TIME)
    returns [N, width] float32: scaled numbers, indicators of missing values (columns where train had any),
    and the declared parts of each time (hour, weekday, yearday as sine and cosine; trend scaled).
    """

    def __init__(self, numbers: Tensor, times: Tensor, parts: tuple[tuple[str, ...], ...]) -> None:
        super().__init__()
        missing = torch.isnan(numbers)
        known = (~missing).sum(0).clamp(min=1)
        filled = torch.nan_to_num(numbers.double(), nan=0.0)
        mean = filled.sum(0) / known
        centred = torch.where(missing, 0.0, numbers.double() - mean)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", _scale(centred.square().sum(0) / known))
        self.register_buffer("gaps", missing.any(0).nonzero().flatten())
        self.parts = parts
        seen = times != MISSING_TIME
        days = torch.where(seen, times, 0).double() / DAY
        count = seen.sum(0).clamp(min=1)
        trend_mean = days.sum(0) / count
        self.register_buffer("trend_mean", trend_mean.float())
        variance = torch.where(seen, days - trend_mean, 0.0).square().sum(0) / count
        self.register_buffer("trend_scale", _scale(variance))
        self.width = numbers.shape[1] + len(self.gaps) + sum(_WIDTHS[part] for of_one in parts for part in of_one)

    mean: Tensor
    scale: Tensor
    gaps: Tensor
    trend_mean: Tensor
    trend_scale: Tensor

    def forward(self, numbers: Tensor, times: Tensor) -> Tensor:
        """Return the features, [N, width] float32."""
        missing = torch.isnan(numbers)
        scaled = torch.where(missing, torch.zeros_like(numbers), (numbers - self.mean) * self.scale)
        made = [scaled.clamp(-CLIP, CLIP)]
        if len(self.gaps):
            made.append(missing.index_select(1, self.gaps).to(numbers.dtype))
        for column, of_one in enumerate(self.parts):
            made += [self._part(part, times[:, column : column + 1], column) for part in of_one]
        return torch.cat(made, dim=1)

    def _part(self, part: str, time: Tensor, column: int) -> Tensor:
        missing = time == MISSING_TIME
        if part == "trend":
            days = torch.div(time, DAY, rounding_mode="floor").float()
            made = ((days - self.trend_mean[column]) * self.trend_scale[column]).clamp(-CLIP, CLIP)
        else:
            period = {"hour": DAY, "weekday": WEEK, "yearday": YEAR}[part]
            into = torch.remainder(time + _period_start(period), period).float()
            angle = into * (2 * math.pi / period)
            made = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        return torch.where(missing, torch.zeros_like(made), made)


_WIDTHS = {"hour": 2, "weekday": 2, "yearday": 2, "trend": 1}


def _scale(variance: Tensor) -> Tensor:
    """Return 1 / standard deviation, 1 for a constant column."""
    deviation = variance.sqrt()
    return torch.where(deviation > 1e-12, 1 / deviation.clamp(min=1e-12), 1.0).float()

"""What can be told of a noisy curve: its level, its noise, its spread, how far it rose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Values = Sequence[float]
NARROW = 3  # values that a level is the median of


def mean(values: Values) -> float:
    """Return the mean (as `statistics.fmean`, which raises on what overflows)."""
    return sum(values) / len(values)


def quantile(values: Values, share: float) -> float:
    """Return the value that a share of the others lie below."""
    return sorted(values)[round(share * (len(values) - 1))]


def median(values: Values) -> float:
    """Return the median."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def levels(values: Values) -> list[float]:
    """Return the moving median, which no single outlier moves; shorter windows at both ends."""
    reach = NARROW // 2
    return [median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def noise(values: Values) -> float:
    """Return the standard deviation about the trend; 0 for fewer than three values.

    It is the median absolute second difference, made a standard deviation of independent normal noise (Gasser, Sroka
    and Jennen-Steinmetz 1986, "Residual variance and residual pattern in nonlinear regression", with a median for
    their mean): a smooth trend has next to none, an outlier counts little.
    """
    second = [abs(values[i - 1] - 2 * values[i] + values[i + 1]) for i in range(1, len(values) - 1)]
    return 1.4826 * median(second) / math.sqrt(6) if second else 0.0


def strip(count: int) -> int:
    """Return how many epochs are looked at together: a tenth, at least three where there are six."""
    return min(max(NARROW, count // 10), count // 2)


def ratio(part: float, whole: float) -> float:
    """Return part / whole; 0 of nothing is 0, all else of nothing is infinite."""
    if whole == 0:
        return 0.0 if part == 0 else math.copysign(math.inf, part)
    return part / whole


@dataclass(frozen=True)
class Rise:
    """How a curve that should fall ended above its lowest level.

    lowest: index of the lowest level; since: index of the last that is as low within the noise; share: of the
    lowest level; clear: it is beyond the noise.
    """

    lowest: int
    since: int
    share: float
    clear: bool


def rise(values: Values, sigmas: float) -> Rise:
    """Measure the rise of at least one value; sigmas: standard deviations of noise that a clear one exceeds.

    The share is Prechelt's generalisation loss (1998, "Early stopping - but when?", equation 2) of levels instead of
    single values. Where values are not all positive, a share of the level says nothing: the spread stands in then.
    """
    smooth, own = levels(values), noise(values)
    lowest = min(range(len(values)), key=smooth.__getitem__)
    level, end = smooth[lowest], median(values[-NARROW:])
    scale = level if min(values) > 0 else max(abs(level), quantile(values, 0.75) - min(values))
    since = max((i for i, value in enumerate(smooth) if value <= level + own), default=lowest)
    return Rise(lowest, since, ratio(end - level, scale), end - level > sigmas * own)


@dataclass(frozen=True)
class Progress:
    """What a curve that should rise gained from one strip of epochs to the last.

    gain: difference of the strips' means; share: of the value, or of the spread where that is more; noise: of the
    difference; best: index of the best value; on_top: the best is in the last strip, or within the noise of it.
    """

    epochs: int
    gain: float
    share: float
    noise: float
    best: int
    on_top: bool


def progress(values: Values) -> Progress:
    """Measure the progress of at least two values, the more the better.

    After Prechelt's training progress over strips (1998, equation 5). The spread, from the lower quarter to the best,
    stands in for the value where that comes near to zero, as a coefficient of determination may.
    """
    wide, own = strip(len(values)), noise(values)
    last, before = values[-wide:], values[-2 * wide : -wide]
    best = max(range(len(values)), key=values.__getitem__)
    gain = mean(last) - mean(before)
    scale = max(abs(mean(last)), values[best] - quantile(values, 0.25))
    on_top = max(last) >= values[best] - own
    return Progress(wide, gain, ratio(gain, scale), own * math.sqrt(2 / wide), best, on_top)

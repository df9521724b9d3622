"""Is this curve healthy: what a run's history says of it, in words with numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.training.curve import Progress, levels, median, progress, ratio, rise

DIVERGED, EXPLODING, VANISHING = "diverged", "exploding_gradients", "vanishing_gradients"
OVERFITTING, GAP, UNSTABLE = "overfitting", "gap", "unstable"
NOISY, IMPROVING, CONVERGED = "noisy", "still_improving", "converged"
TOO_SHORT, UNDEFINED = "too_short", "undefined"
UNHEALTHY = (DIVERGED, EXPLODING, VANISHING, OVERFITTING, GAP, UNSTABLE)  # said first, in this order
CODES = (*UNHEALTHY, NOISY, IMPROVING, CONVERGED, TOO_SHORT, UNDEFINED)

MIN_EPOCHS = 5  # fewer do not tell a trend from noise: its estimate needs three second differences
OVERFITS = 0.03  # val_loss above its lowest; Prechelt 1998 stops at 1 to 5 %
DIVERGES = 0.20  # both losses above their lowest
IMPROVES = 0.005  # of the selection metric, from one strip of epochs to the next
APART = 0.05  # selection metric of the validation part against that of the train part
CLEAR, LIKELY = 4.0, 2.0  # standard deviations of noise: beyond the lowest of many, beyond one difference
VANISHES = 1e-5  # of the total gradient norm, a layer's; Glorot and Bengio 2010 look at this ratio between layers
EXPLODES = 100.0  # times the norm of the epochs before
ANNEALED = 0.1  # of the largest learning rate
GRADIENT, LAYER = "gradient_norm", "gradient_norm/"


@dataclass(frozen=True)
class Curves:
    """A run's history and what is needed to read it.

    history: each epoch's metrics: train_loss, val_loss, the selection metric, lr, gradient_norm (mean total norm over
    the epoch, before clipping) and gradient_norm/<layer>; what is missing is not judged. An epoch that a Diverged loss
    ended belongs in it, with that loss. direction: "max" or "min". kept_epoch: from 1; 0: unknown. train_metric,
    val_metric: selection metric of the kept weights in evaluation, on rows trained on and on the validation part.
    """

    history: Sequence[Mapping[str, float]]
    metric: str
    direction: str
    planned_epochs: int
    kept_epoch: int = 0
    stopped_early: bool = False
    train_metric: float | None = None
    val_metric: float | None = None

    def column(self, name: str) -> list[float]:
        """Return a metric of every epoch, NaN where it is missing."""
        return [float(epoch.get(name, math.nan)) for epoch in self.history]

    def finite(self, name: str) -> list[float]:
        """Return a metric of every epoch, nothing unless all are finite."""
        values = self.column(name)
        return values if all(map(math.isfinite, values)) else []

    def gap(self) -> float | None:
        """Return how much worse the validation part is than the train part, as a share; None where it is unknown."""
        train, val = self.train_metric, self.val_metric
        if train is None or val is None or not (math.isfinite(train) and math.isfinite(val)):
            return None
        behind = train - val if self.direction == "max" else val - train
        return max(0.0, ratio(behind, max(abs(train), abs(val))))


@dataclass(frozen=True)
class Finding:
    """One thing that is so: a code of CODES, one sentence, and its numbers by name."""

    code: str
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All that was found, the worst first; gap: as a share, also where it is within its bound."""

    findings: tuple[Finding, ...]
    gap: float | None = None

    @property
    def codes(self) -> tuple[str, ...]:
        """Return what was found."""
        return tuple(finding.code for finding in self.findings)

    @property
    def healthy(self) -> bool:
        """Tell whether nothing needs a person."""
        return not set(self.codes) & set(UNHEALTHY)

    def tags(self) -> dict[str, str]:
        """Return it as the tags of a run: the codes, the sentences, and each number."""
        numbers = {key: value for finding in self.findings for key, value in finding.numbers.items()}
        if self.gap is not None:
            numbers["gap"] = self.gap
        sentences = "; ".join(finding.sentence for finding in self.findings)
        said = {"diagnosis": ",".join(self.codes), "diagnosis.sentences": sentences}
        return {**said, **{f"diagnosis.{key}": f"{value:.4g}" for key, value in numbers.items()}}

    def __str__(self) -> str:
        """Say it, a sentence a line."""
        return "\n".join(finding.sentence for finding in self.findings)


def diagnose(curves: Curves) -> Diagnosis:
    """Read the curves. Every rule is of ratios: losses in other units give the same findings."""
    rules: tuple[Callable[[Curves], Finding | None], ...] = (
        _diverged,
        _exploding,
        _vanishing,
        _overfitting,
        _gap,
    )
    found = [finding for rule in rules if (finding := rule(curves)) is not None]
    trend = _trend(curves, {finding.code for finding in found})
    ordered = sorted([*found, *trend], key=lambda finding: CODES.index(finding.code))
    return Diagnosis(tuple(ordered), curves.gap())


def _diverged(curves: Curves) -> Finding | None:
    remedy = "lower optimizer.lr or training.gradient_clip"
    for number, epoch in enumerate(curves.history, start=1):
        for name in ("train_loss", "val_loss"):
            if name in epoch and not math.isfinite(epoch[name]):
                sentence = f"diverged: {name} is {epoch[name]} in epoch {number}; {remedy}"
                return Finding(DIVERGED, sentence, {"diverged_in_epoch": number})
    train, val = curves.finite("train_loss"), curves.finite("val_loss")
    if len(train) < MIN_EPOCHS:
        return None
    rises = [rise(values, CLEAR) for values in (train, val) if values]
    if not all(one.clear and one.share >= DIVERGES for one in rises):
        return None
    lowest = rises[0].lowest + 1
    sentence = f"diverged: train_loss rose {_percent(rises[0].share)} above its lowest, about epoch {lowest}; {remedy}"
    return Finding(DIVERGED, sentence, {"diverged_in_epoch": rises[0].since + 2})


def _exploding(curves: Curves) -> Finding | None:
    norms = curves.column(GRADIENT) if any(GRADIENT in epoch for epoch in curves.history) else []
    remedy = "lower optimizer.lr or training.gradient_clip"
    known: list[float] = []
    for number, norm in enumerate(norms, start=1):
        if GRADIENT in curves.history[number - 1] and not math.isfinite(norm):
            sentence = f"exploding gradients: their norm is {norm} in epoch {number}; {remedy}"
            return Finding(EXPLODING, sentence, {"exploding_in_epoch": number})
        usual = max(known[0], median(known)) if known else 0.0
        if usual > 0 and norm >= EXPLODES * usual:
            times = ratio(norm, usual)
            sentence = f"exploding gradients: in epoch {number} their norm was {times:.3g} times that before; {remedy}"
            return Finding(EXPLODING, sentence, {"exploding_in_epoch": number, "exploding_times": times})
        known += [norm] if math.isfinite(norm) else []
    return None


def _vanishing(curves: Curves) -> Finding | None:
    totals = [norm for norm in curves.column(GRADIENT) if math.isfinite(norm)]
    if totals and not any(totals):
        return Finding(VANISHING, "vanishing gradients: their norm is 0 in every epoch", {"vanishing_share": 0.0})
    shares = {}
    for name in sorted({name for epoch in curves.history for name in epoch if name.startswith(LAYER)}):
        pairs = zip(curves.column(name), curves.column(GRADIENT), strict=True)
        of_total = [ratio(own, total) for own, total in pairs if total > 0 and math.isfinite(own + total)]
        if of_total and (share := median(of_total)) < VANISHES:
            shares[name.removeprefix(LAYER)] = share
    if not shares:
        return None
    least = min(shares, key=lambda layer: shares[layer])
    more = f", {len(shares) - 1} more have little" if len(shares) > 1 else ""
    sentence = f"vanishing gradients: layer {least} has {shares[least]:.2g} of the total norm{more}"
    return Finding(VANISHING, sentence, {"vanishing_share": shares[least], "vanishing_layers": len(shares)})


def _overfitting(curves: Curves) -> Finding | None:
    train, val = curves.finite("train_loss"), curves.finite("val_loss")
    if min(len(train), len(val)) < MIN_EPOCHS:
        return None
    up = rise(val, CLEAR)
    before, after = levels(train)[up.since], levels(train)[-1]
    if not up.clear or up.share < OVERFITS or after >= before:
        return None
    began, fell = up.since + 2, ratio(before - after, max(abs(before), abs(after)))
    kept = f"; the weights kept are of epoch {curves.kept_epoch}" if curves.kept_epoch else ""
    sentence = (
        f"overfitting from epoch {began}: val_loss rose {_percent(up.share)} while train_loss fell "
        f"{_percent(fell)}{kept}"
    )
    return Finding(OVERFITTING, sentence, {"overfitting_from_epoch": began, "overfitting_rise": up.share})


def _gap(curves: Curves) -> Finding | None:
    share = curves.gap()
    if share is None or share <= APART:
        return None
    assert curves.val_metric is not None, "a gap is known where both are"
    sentence = (
        f"gap: {curves.metric} {curves.val_metric:.3g} against {curves.train_metric:.3g} on the train part, "
        f"{_percent(share)} apart, bound {_percent(APART)}"
    )
    return Finding(GAP, sentence)


def _trend(curves: Curves, found: set[str]) -> Iterator[Finding]:
    """Say where the selection metric was going in the end; a run that went wrong has not converged."""
    sign = 1.0 if curves.direction == "max" else -1.0
    epochs = [i for i, value in enumerate(curves.column(curves.metric), start=1) if math.isfinite(value)]
    values = [sign * curves.history[i - 1][curves.metric] for i in epochs]
    if len(curves.history) < MIN_EPOCHS:
        count = len(curves.history)
        yield Finding(TOO_SHORT, f"too short: {count} of the {MIN_EPOCHS} epochs that a trend needs")
    elif len(values) < MIN_EPOCHS:
        yield Finding(UNDEFINED, f"undefined: {curves.metric} is a number in {len(values)} epochs only")
    elif DIVERGED not in found:
        yield from _going(curves, progress(values), epochs, spoilt=bool(found & {OVERFITTING, EXPLODING}))


def _going(curves: Curves, now: Progress, epochs: list[int], spoilt: bool) -> Iterator[Finding]:
    """Say it of a metric that has a trend; spoilt: of a plateau nothing is said."""
    name, best = curves.metric, f"its best is of epoch {epochs[now.best]}"
    over = f"over the last {now.epochs} epochs{_annealed(curves)}"
    up = now.gain > 0 and now.on_top
    blur = (LIKELY if up else CLEAR) * now.noise  # what needs a person must be the surer
    moved, seen = abs(now.share) >= IMPROVES, abs(now.gain) > blur
    numbers = {"last_gain": now.gain}
    if moved and seen and up and not curves.stopped_early:
        remedy = "raise training.epochs" if len(curves.history) >= curves.planned_epochs else "go on"
        yield Finding(IMPROVING, f"still improving: {name} gained {now.gain:.2g} {over}; {remedy}", numbers)
    elif spoilt:
        return
    elif moved and seen and not up:
        way = "fell" if now.gain < 0 else "recovered"
        remedy = "lower optimizer.lr"
        sentence = f"unstable: {name} {way} by {abs(now.gain):.2g} {over}, {best}; {remedy}"
        yield Finding(UNSTABLE, sentence, numbers)
    elif moved and not seen and not curves.stopped_early:
        sentence = f"noisy: {name} moved {abs(now.gain):.2g} {over}, within its noise of {blur:.2g}"
        yield Finding(NOISY, sentence, {**numbers, "noise": now.noise})
    else:
        count = len(curves.history)
        early = f"; stopped early, in epoch {count} of {curves.planned_epochs}" if curves.stopped_early else ""
        yield Finding(CONVERGED, f"converged: {name} moved {abs(now.gain):.2g} {over}, {best}{early}", numbers)


def _annealed(curves: Curves) -> str:
    """Return the aside that the learning rate had nearly gone: a curve flattens, or rises once more, by that alone."""
    rates = [rate for rate in curves.column("lr") if math.isfinite(rate)]
    return f" (lr fell to {rates[-1]:.2g})" if rates and rates[-1] < ANNEALED * max(rates) else ""


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"

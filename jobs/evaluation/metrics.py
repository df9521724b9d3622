"""Metrics with bootstrap intervals, over predictions of rows that were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster.columns import Array

BATCH = 50  # resamples computed at once: BATCH x N weights in memory
Statistic = Callable[[Array], Array]
"""From resampled row counts [B, N] to the metric of each resample [B]."""


@dataclass(frozen=True)
class Interval:
    """A metric and its percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Say it to four digits."""
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def statistics(task: str, answers: Array, target: Array) -> dict[str, Statistic]:
    """Return the task's metrics as functions of row counts.

    answers: [N, K] probabilities or [N, 1] values; target: [N] class index or value.
    Classification: log_loss (nats), brier (sum over classes), accuracy, and for two classes auc.
    Regression: rmse, mae, r2.
    """
    if task == "regression":
        return _regression(answers[:, 0].astype(np.float64), target.astype(np.float64))
    rows = np.arange(len(target))
    wanted = np.zeros_like(answers, dtype=np.float64)
    wanted[rows, target] = 1
    found: dict[str, Statistic] = {
        "log_loss": _mean(-np.log(np.clip(answers[rows, target].astype(np.float64), 1e-12, 1))),
        "brier": _mean(np.square(answers - wanted).sum(axis=1)),
        "accuracy": _mean((answers.argmax(axis=1) == target).astype(np.float64)),
    }
    return {"auc": _auc(answers[:, 1], target), **found} if task == "binary" else found


def evaluate(
    found: dict[str, Statistic], rows: int, resamples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return each metric on all rows with its interval over resamples of the rows; the same seed, the same interval."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {name: [] for name in found}
    for start in range(0, resamples, BATCH):
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(BATCH, resamples - start))
        for name, statistic in found.items():
            drawn[name].append(statistic(weights))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    once = np.ones((1, rows), dtype=np.int64)
    made = {}
    for name, statistic in found.items():
        low, high = np.nanquantile(np.concatenate(drawn[name]), tails)
        made[name] = Interval(float(statistic(once)[0]), float(low), float(high))
    return made


def _mean(of_row: Array) -> Statistic:
    return lambda weights: np.asarray(weights @ of_row / weights.sum(axis=1))


def _auc(score: Array, target: Array) -> Statistic:
    """Return the area under the ROC curve, ties counted half (Mann-Whitney), with the scores sorted once."""
    order = np.argsort(score, kind="stable")
    positive = target[order] == 1
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)

    def statistic(weights: Array) -> Array:
        sorted_weights = weights[:, order].astype(np.float64)
        of_positive = np.add.reduceat(sorted_weights * positive, starts, axis=1)
        of_negative = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
        below = np.cumsum(of_negative, axis=1) - of_negative
        pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
        wins = (of_positive * (below + of_negative / 2)).sum(axis=1)
        return np.asarray(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))

    return statistic


def _regression(values: Array, target: Array) -> dict[str, Statistic]:
    squared = np.square(values - target)

    def r2(weights: Array) -> Array:
        total = weights.sum(axis=1)
        mean = weights @ target / total
        spread = weights @ np.square(target) - total * np.square(mean)
        return np.asarray(1 - weights @ squared / np.maximum(spread, 1e-300))

    mean_squared = _mean(squared)
    return {"rmse": lambda weights: np.sqrt(mean_squared(weights)), "mae": _mean(np.abs(values - target)), "r2": r2}

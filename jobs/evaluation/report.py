"""One static HTML page that shows an evaluation: metrics with intervals, and the curves behind them."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from cluster.columns import Array, ModelSchema
from jobs.evaluation.metrics import Interval

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#d9822b", "#3a8f5c", "#8d4fa0")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2rem }
.sub { color: #5b6773; margin-top: .2rem } table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #dfe5ea }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } .bound { color: #5b6773; font-size: .85em }
svg { width: 100%; height: auto } .note { background: #f3f6f9; padding: .6rem 1rem; border-radius: 6px }
"""


@dataclass(frozen=True)
class Evaluated:
    """One part's predictions ([N, K] or [N, 1]), truth ([N]) and metrics."""

    answers: Array
    target: Array
    metrics: dict[str, Interval]


def page(title: str, subtitle: str, schema: ModelSchema, parts: dict[str, Evaluated], notes: list[str]) -> str:
    """Return the page; parts by name, in order."""
    charts = _regression_charts(parts) if schema.task == "regression" else _class_charts(schema, parts)
    said = "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p class=sub>{html.escape(subtitle)}</p>"
        f"{said}<h2>Metrics</h2>{_table(parts)}<h2>Curves</h2>{charts}</html>"
    )


def _table(parts: dict[str, Evaluated]) -> str:
    names = list(next(iter(parts.values())).metrics)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("part", "rows", *names))
    rows = []
    for part, evaluated in parts.items():
        cells = "".join(_cell(evaluated.metrics[name]) for name in names)
        rows.append(f"<tr><td>{html.escape(part)}</td><td>{len(evaluated.target):,}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cell(metric: Interval) -> str:
    return f"<td>{metric.value:.4g}<br><span class=bound>{metric.low:.4g} – {metric.high:.4g}</span></td>"


def _class_charts(schema: ModelSchema, parts: dict[str, Evaluated]) -> str:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for colour, (part, evaluated) in zip(COLOURS, parts.items(), strict=False):
        if schema.task == "binary":
            score, truth = evaluated.answers[:, 1], evaluated.target
            rates = roc_curve(truth, score)
            left.plot(rates[0], rates[1], color=colour, label=part)
            name = f"probability of {schema.classes[1]}"
        else:
            score = evaluated.answers.max(axis=1)
            truth = (evaluated.answers.argmax(axis=1) == evaluated.target).astype(int)
            shares = [float(truth[evaluated.target == i].mean()) for i in np.unique(evaluated.target)]
            left.plot(range(len(shares)), shares, "o", color=colour, label=part)
            name = "confidence"
        happened, expected = calibration_curve(truth, np.clip(score, 0, 1), n_bins=10, strategy="quantile")
        middle.plot(expected, happened, "o-", color=colour, ms=4, label=part)
        right.hist(score, bins=40, range=(0, 1), histtype="step", density=True, color=colour, label=part)
    if schema.task == "binary":
        left.plot([0, 1], [0, 1], ":", color="#9aa5b1")
        _label(left, "ROC", "false positive rate", "true positive rate")
    else:
        _label(left, "Accuracy by class", "class", "accuracy")
        left.set_xticks(range(len(schema.classes)), schema.classes, rotation=90 if len(schema.classes) > 12 else 0)
    middle.plot([0, 1], [0, 1], ":", color="#9aa5b1")
    _label(middle, "Calibration", name, "share that happened")
    _label(right, "Predictions", name, "density")
    return _svg(figure)


def _regression_charts(parts: dict[str, Evaluated]) -> str:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for colour, (part, evaluated) in zip(COLOURS, parts.items(), strict=False):
        shown = np.random.default_rng(0).permutation(len(evaluated.target))[:1000]
        values = evaluated.answers[:, 0]
        left.plot(evaluated.target[shown], values[shown], ".", ms=3, alpha=0.5, color=colour, label=part)
        right.hist(values - evaluated.target, bins=60, histtype="step", density=True, color=colour, label=part)
    bounds = [float(min(e.target.min() for e in parts.values())), float(max(e.target.max() for e in parts.values()))]
    left.plot(bounds, bounds, ":", color="#9aa5b1")
    _label(left, "Predicted against true (1,000 rows at most)", "true", "predicted")
    _label(right, "Errors", "predicted - true", "density")
    return _svg(figure)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg")
    plt.close(figure)
    return written.getvalue().partition("<svg")[1] + written.getvalue().partition("<svg")[2]

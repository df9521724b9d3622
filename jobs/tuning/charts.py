"""One static HTML page that shows a search: what won, which keys mattered, and what the budget bought."""

from __future__ import annotations

import html
import io
import math
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import optuna
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

BLUE, ORANGE, RED, GREY = "#1f5fa8", "#d9822b", "#b5423c", "#9aa5b1"
_LOOK: dict[Any, Any] = {"text.parse_math": False, "svg.hashsalt": "rungway", "legend.frameon": False, "font.size": 9.5}
_LOOK |= {"axes.edgecolor": GREY, "axes.spines.top": False, "axes.spines.right": False}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 0 } svg { width: 100%; height: auto }
.sub { color: #5b6773; margin: .2rem 0 .6rem } table { border-collapse: collapse } body { overflow-wrap: anywhere }
.note, pre { background: #f3f6f9; padding: .6rem 1rem; border-radius: 6px; white-space: pre-wrap }
pre { user-select: all; font: 13px/1.5 monospace } b { display: block; font-size: 1.35rem; color: #1d2733 }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 } td, .tiles div { padding: .5rem .8rem }
td { border-bottom: 1px solid #dfe5ea } .tiles div { flex: 1; border: 1px solid #dfe5ea; border-radius: 6px }
"""
MOST_LINES, MOST_POINTS, MOST_STEPS, MOST_AXES, MOST_ROWS = 300, 3000, 100, 10, 30  # drawn
MOST_WEIGHED, LEAST_WEIGHED = 200, 8  # trials that fANOVA looks at: its time grows with their square
VAST, ABSENT = 1e100, -0.12  # a value as good as infinite; place of a trial without the key on an axis
NUMBERS = (FloatDistribution, IntDistribution)
Array = npt.NDArray[np.float64]
Scale = tuple[list[float], list[tuple[float, str]]]  # places, and ticks with their labels


@dataclass(frozen=True)
class SearchFacts:
    """What a study does not know."""

    title: str
    subtitle: str
    metric: str  # of several objectives their names, with commas between
    notes: tuple[str, ...] = ()
    best: tuple[str, ...] = ()  # the winner's overrides
    rungs: tuple[int, ...] = ()  # epochs where the scheduler decided


@dataclass(frozen=True)
class _Seen:
    """A study as it is drawn: first objectives (NaN: none), costs (infinite: cannot win), places drawn, worst first."""

    trials: list[FrozenTrial]
    epochs: list[int]
    values: Array
    costs: Array
    drawn: list[int]
    lower: bool
    best: int | None
    names: list[str]

    def frame(self, values: Array) -> tuple[float, float]:
        """Return the ends of an axis: all that is good, and of what is bad nothing far off (Tukey's outer fence)."""
        low, first, third, high = (float(at) for at in np.quantile(values, [0, 0.25, 0.75, 1]))
        reach = 3 * (third - first) or high - low
        low, high = (low, min(high, third + reach)) if self.lower else (max(low, first - reach), high)
        pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - pad, high + pad


def page(study: optuna.Study, about: SearchFacts) -> str:
    """Return the page of a study of one objective or several; all trials count, 300 lines at most are drawn."""
    with mpl.rc_context(_LOOK), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks, what Optuna calls experimental
        seen = _seen(study, about)
        shares, how = _importance(seen)
        names = [*dict.fromkeys([*shares, *(name for trial in seen.trials for name in trial.params)])][:MOST_AXES]
        both = _section("Importance", how, _bars(shares, "{:.0%}") if shares else None) + _configs(seen, names)
        one = _history(seen) + both + _rungs(seen, about.rungs) + _budget(seen) if len(seen.names) == 1 else ""
        body = one or _pareto(study, seen) + both
    failed = Counter(str(t.user_attrs.get("error", "?")) for t in seen.trials if t.state == TrialState.FAIL)
    said = [*about.notes, *(f"{count:,} failed: {error}" for error, count in failed.most_common(3))]
    title, notes = html.escape(about.title), "".join(f"<p class=note>{html.escape(note)}</p>" for note in said)
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    head += f"<h1>{title}</h1><p class=sub>{html.escape(about.subtitle)}</p>{notes}"
    return f"{head}{_summary(seen, about.best)}{body}</html>"


def _seen(study: optuna.Study, about: SearchFacts) -> _Seen:
    trials = study.get_trials(deepcopy=False)  # a trial's place is its number
    names = [name.strip() for name in about.metric.split(",")] if len(study.directions) > 1 else [about.metric]
    names += [f"objective {i + 1}" for i in range(len(names), len(study.directions))]
    lower = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
    values = np.array([t.values[0] if t.values else math.nan for t in trials], dtype=np.float64)
    rank, places = values if lower else -values, range(len(trials))
    may_win = [t.state == TrialState.COMPLETE and all(c <= 0 for c in t.constraints.values()) for t in trials]
    told = [i for i in places if {*(trials[i].user_attrs.get("overrides") or "?")} <= {*about.best}]
    among = [i for i in told if not math.isnan(rank[i])] or [i for i in places if may_win[i]]
    best = min(among, key=lambda i: float(rank[i]), default=None)
    drawn = sorted((i for i in places if abs(rank[i]) < VAST), key=lambda i: -float(rank[i]))
    epochs = [max(trial.intermediate_values, default=0) for trial in trials]
    return _Seen(trials, epochs, values, np.where(may_win, rank, math.inf), drawn, lower, best, names)


def _summary(seen: _Seen, best: Sequence[str]) -> str:
    count = Counter(trial.state for trial in seen.trials)
    pruned = [n for n, trial in zip(seen.epochs, seen.trials, strict=True) if trial.state == TrialState.PRUNED]
    tiles = {"trials": len(seen.trials), "complete": count[TrialState.COMPLETE], "pruned": len(pruned)}
    tiles |= {"failed": count[TrialState.FAIL], "unfinished": count[TrialState.RUNNING] + count[TrialState.WAITING]}
    tiles |= {"diverged": int(np.sum(np.abs(seen.values) >= VAST)), "epochs trained": sum(seen.epochs)}
    tiles["epochs saved"] = max(seen.epochs, default=0) * len(pruned) - sum(pruned)  # had all gone to the end
    shown = "".join(f"<div><b>{of_it:,}</b>{name}</div>" for name, of_it in tiles.items() if of_it)
    how = "One of the Pareto set." if len(seen.names) > 1 else "No trial ran to its end."
    if seen.best is not None and len(seen.names) == 1:
        aim = "lower" if seen.lower else "higher"
        how = f"Trial {seen.best}: {seen.names[0]} {seen.values[seen.best]:.6g}, {aim} is better."
    command = html.escape(" \\\n    ".join(["python -m jobs.train", *map(shlex.quote, best)]))
    return f"<div class=tiles>{shown}</div>{_section('Best config', how)}" + (f"<pre>{command}</pre>" if best else "")


def _history(seen: _Seen) -> str:
    if not seen.drawn:
        return _section("History", "No trial has a value to draw.")
    axes = _axes(3.2)
    for state, mark, colour in ((TrialState.PRUNED, "x", GREY), (TrialState.COMPLETE, "o", BLUE)):
        at = [i for i in _sample(seen.drawn, MOST_POINTS) if seen.trials[i].state == state]
        axes.plot(at, seen.values[at], mark, ms=4.5, color=colour, alpha=0.8, label=state.name.lower())
    lost = [i for i, t in enumerate(seen.trials) if t.state == TrialState.FAIL or abs(seen.values[i]) >= VAST]
    edge = [0.98 if seen.lower else 0.02] * len(lost)
    axes.plot(lost, edge, "|", color=RED, transform=axes.get_xaxis_transform(), label="failed or diverged")
    _best_so_far(axes, np.arange(float(len(seen.trials))), seen.costs, seen)
    axes.set(xlabel="trial", ylim=seen.frame(seen.values[seen.drawn]))
    return _section("History", "Each trial's objective where it ended; a pruned one's is of an earlier epoch.", axes)


def _budget(seen: _Seen) -> str:
    order = [t.number for t in sorted(seen.trials, key=lambda t: str(t.datetime_complete)) if t.state.is_finished()]
    spent = np.cumsum([0, *(seen.epochs[i] for i in order)], dtype=np.float64)
    costs = np.array([math.inf, *seen.costs[order]])
    if not spent[-1] or not abs(costs.min()) < VAST:
        return _section("Budget", "No trial ran to its end with epochs reported.")
    axes = _axes(2.8)
    _best_so_far(axes, spent, costs, seen)
    found = spent[int(np.argmin(costs))]
    axes.axvline(found, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="epochs trained, over all trials", xlim=(0, spent[-1] * 1.02))
    how = f"The best value against the epochs paid for it: found after {found:,.0f} of {spent[-1]:,.0f}."
    return _section("Budget", how, axes)


def _best_so_far(axes: Axes, x: Array, costs: Array, seen: _Seen) -> None:
    best = np.minimum.accumulate(costs)
    best, x = best[np.abs(best) < VAST], x[np.abs(best) < VAST]
    axes.step(x, best if seen.lower else -best, where="post", color=ORANGE, lw=1.8, label="best so far")
    axes.set_ylabel(_short(seen.names[0]))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def _importance(seen: _Seen) -> tuple[dict[str, float], str]:
    """Return each key's share of the objective's variance by fANOVA (Hutter et al. 2014), or why there is none."""
    done = [i for i in seen.drawn if seen.trials[i].state == TrialState.COMPLETE]
    if len(done) < LEAST_WEIGHED:
        return {}, f"Keys are weighed from {LEAST_WEIGHED} finished trials on; there are {len(done)}."
    places, (low, high) = _sample(done, MOST_WEIGHED), seen.frame(seen.values[done])  # one far off would be all of it
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, evaluator = optuna.create_study(), optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
    try:
        study.add_trials([_evened(seen.trials[i], float(np.clip(seen.values[i], low, high))) for i in places])
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    except Exception as error:  # the rest of the page is worth having
        return {}, f"The keys cannot be weighed: {error}."
    if len(found) < 2 or not 0 < sum(found.values()) < math.inf:
        return {}, "There are no two keys that every trial has and that matter."
    others = ", ".join(sorted({name for trial in seen.trials for name in trial.params} - set(found)))
    how = f"The share of {seen.names[0]}'s differences that each key explains (fANOVA, {len(places)} finished trials)."
    shares = {name: float(weight / sum(found.values())) for name, weight in found.items()}
    return shares, how + (f" Not in every trial, hence not weighed: {others}." if others else "")


def _evened(trial: FrozenTrial, value: float) -> FrozenTrial:
    """Return a trial with its logarithmic keys made linear: fANOVA takes a scale as it is."""
    logs = {name: of for name, of in trial.distributions.items() if isinstance(of, NUMBERS) and of.log}
    ends = {name: FloatDistribution(math.log(of.low) - 1e-9, math.log(of.high) + 1e-9) for name, of in logs.items()}
    params = trial.params | {name: math.log(trial.params[name]) for name in logs}
    return optuna.trial.create_trial(params=params, distributions=trial.distributions | ends, value=value)


def _bars(lengths: Mapping[str, float], form: str) -> Axes:
    axes = _axes(0.5 + 0.28 * len(lengths))
    bars = axes.barh(range(len(lengths)), [*lengths.values()], color=BLUE, height=0.6)
    axes.bar_label(bars, [form.format(length) for length in lengths.values()], padding=4)
    axes.set_yticks(range(len(lengths)), [_short(name, 40) for name in lengths])
    axes.set(xticks=[], ylim=(len(lengths) - 0.5, -0.5))
    return axes


def _configs(seen: _Seen, names: Sequence[str]) -> str:
    if not seen.drawn or not names:
        return _section("Configs", "No trial has both a value and something searched.")
    best = seen.best if seen.best in seen.drawn else seen.drawn[-1]
    drawn = [*_sample([i for i in seen.drawn if i != best], MOST_LINES), best]
    low, high = seen.frame(seen.values[drawn])
    held = [[seen.trials[i].distributions.get(name) for i in drawn] for name in names]
    said = [[seen.trials[i].params.get(name) for i in drawn] for name in names]
    scales = [*map(_scale, said, held), _scale([*seen.values[drawn].clip(low, high)], [FloatDistribution(low, high)])]
    axes = _axes(4.2)
    axes.vlines(range(len(scales)), 0, 1, color=GREY, lw=0.8)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    absent = [(x, ABSENT, "absent") for x, (places, _) in enumerate(scales) if ABSENT in places]
    for x, place, label in [*absent, *((x, *tick) for x, (_, ticks) in enumerate(scales) for tick in ticks)]:
        axes.text(x + 0.04, place, label, fontsize=8, va="center", bbox=box, zorder=5)
    shades = LinearSegmentedColormap.from_list("rank", ["#e6ebf0", "#a9c3e0", BLUE])(np.linspace(0, 1, len(drawn)))
    for line, shade in zip(zip(*(places for places, _ in scales), strict=True), shades, strict=True):
        axes.plot(line, color=shade, lw=0.9)
    axes.lines[-1].set(color=ORANGE, linewidth=2.2)
    axes.set(xlim=(-0.1, len(names) + 0.4), ylim=(-0.18, 1.05), yticks=[])
    axes.set_xticks(range(len(scales)), [_short(name) for name in (*names, seen.names[0])], rotation=15, ha="right")
    axes.spines[["left", "bottom"]].set_visible(False)
    how = f"A line is a trial ({len(drawn):,} of {len(seen.trials):,}): darker is better in rank, orange the best."
    return _section("Configs", how, axes)


def _scale(said: Sequence[Any], held: Sequence[BaseDistribution | None]) -> Scale:
    """Return the place of each trial's value on the axis of a key, and the axis's ticks."""
    if not (numbers := [of for of in held if isinstance(of, NUMBERS)]):
        choices = [*dict.fromkeys(str(choice) for of in held for choice in getattr(of, "choices", ()))]
        at = {choice: (i + 0.5) / len(choices) for i, choice in enumerate(choices)}
        ticks = [(place, _short(choice, 14)) for choice, place in at.items()]
        return [at.get(str(value), ABSENT) for value in said], ticks[:: len(choices) // 12 + 1]
    whole, log = all(isinstance(of, IntDistribution) for of in numbers), any(of.log for of in numbers)
    turn = math.log10 if log else float
    low, high = turn(min(of.low for of in numbers)), turn(max(of.high for of in numbers))
    span = high - low or 1.0
    marks = MaxNLocator(6, integer=whole or (log and span >= 2)).tick_values(low, high)
    ticks = [(float(mark - low) / span, f"{10**mark if log else mark:.3g}") for mark in marks if low <= mark <= high]
    return [ABSENT if value is None else (turn(value) - low) / span for value in said], ticks


def _rungs(seen: _Seen, rungs: Sequence[int]) -> str:
    fits = [sorted((x, y) for x, y in trial.intermediate_values.items() if abs(y) < VAST) for trial in seen.trials]
    curves = {i: np.array(_sample(points, MOST_STEPS)) for i, points in enumerate(fits) if points}
    if not curves:
        return _section("Learning curves", "No trial reported an epoch.")
    axes = _axes(3.4)
    shown = _sample([*curves], MOST_LINES)
    for i in [*shown, *(i for i in curves if i == seen.best)]:
        colour = ORANGE if i == seen.best else "#c9d0d7" if seen.trials[i].state == TrialState.PRUNED else "#7fa6d3"
        axes.plot(*curves[i].T, "." * (len(curves[i]) == 1), ls="-", color=colour, lw=2.2 if i == seen.best else 0.6)
    axes.set(xlabel="epoch", ylabel=_short(seen.names[0]), ylim=seen.frame(np.vstack([*curves.values()])[:, 1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    how = f"{len(shown):,} of {len(curves):,} trials: grey was pruned, blue ran to its end, orange is the best."
    axes.vlines(rungs, 0, 1, transform=axes.get_xaxis_transform(), color=GREY, lw=0.8, ls=":")
    reached = {f"epoch {rung}": sum(n >= rung for n in seen.epochs) for rung in sorted(rungs)[:12]}
    bars = _bars({"asked for": len(seen.trials), **reached}, "{:,.0f}")
    counted = _section("Rungs", "How many trials reached each epoch at which the scheduler decides.", bars)
    return (counted if rungs else "") + _section("Learning curves", how, axes)


def _pareto(study: optuna.Study, seen: _Seen) -> str:
    front = sorted(study.best_trials, key=lambda trial: float(trial.values[0]))
    axes = _axes(3.6)
    for trials, size, colour in ((seen.trials, 4, "#a9c3e0"), (front, 7, ORANGE)):
        points = [t.values[:2] for t in _sample(trials, MOST_POINTS) if t.values and max(map(abs, t.values[:2])) < VAST]
        axes.plot([x for x, _ in points], [y for _, y in points], "o", ms=size, color=colour)
    axes.set(xlabel=_short(seen.names[0]), ylabel=_short(seen.names[1]))
    told = [[t.number, *(f"{v:.5g}" for v in t.values), " ".join(t.user_attrs.get("overrides", ()))] for t in front]
    rows: list[list[object]] = [["trial", *seen.names, "overrides"], *told[:MOST_ROWS]]
    written = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    how = f"No trial is better in everything than these {len(front):,} (orange); {len(rows) - 1} are listed."
    return _section("Pareto set", how, axes) + f"<table><tr>{'</tr><tr>'.join(written)}</tr></table>"


def _section(title: str, how: str, axes: Axes | None = None) -> str:
    written = io.StringIO()
    if axes is not None and (figure := axes.get_figure(root=True)):
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = "".join(written.getvalue().partition("<svg")[1:])
    return f"<h2>{title}</h2><p class=sub>{html.escape(how)}</p>{svg}"


def _axes(height: float) -> Axes:
    return Figure(figsize=(9.6, height), layout="constrained").subplots()  # not pyplot's: nothing to close


def _sample(items: Sequence[Any], most: int) -> list[Any]:
    return [items[i] for i in np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)]


def _short(said: str, most: int = 24) -> str:
    text = "".join(c if c.isprintable() else " " for c in said)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"

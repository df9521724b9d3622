"""Against the winner's curse: the best of many is lucky, so the best few are trained anew on fresh seeds."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import ray
from optuna.trial import FrozenTrial

from cluster.progress import Step
from conf.schema import TrainConfig
from jobs.training.examples import TrainingData
from jobs.training.metrics import worst
from jobs.training.scaling import on_workers
from jobs.tuning.execution import Execution
from jobs.tuning.journal import JournaledStudy
from jobs.tuning.objectives import Objectives
from jobs.tuning.searcher import OVERRIDES
from jobs.tuning.space import Space

if TYPE_CHECKING:
    from jobs.training.outcome import Outcome

FRESH = 1_000_003  # added to the seed: no replicate of the search had it


@dataclass(frozen=True)
class Confirmed:
    """A trial trained anew. searched: its objective in the search; values: on fresh seeds."""

    number: int
    overrides: tuple[str, ...]
    searched: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return what is to be expected of it."""
        return statistics.fmean(self.values)


def _value(metric: str, lost: float, fit: Callable[[], Outcome]) -> float:
    """Return the metric of a training; lost, the worst value, where it has none."""
    from jobs.training.loop import Diverged
    from jobs.training.workers import cause_of

    try:
        value = fit().metrics[metric]
    except Exception as error:
        if not isinstance(cause_of(error), Diverged):
            raise
        return lost
    return lost if math.isnan(value) else value


@ray.remote(max_retries=1)
def _here(metric: str, lost: float, cfg: TrainConfig, data: TrainingData) -> float:
    from jobs.training.context import LocalContext
    from jobs.training.loop import fit

    return _value(metric, lost, partial(fit, cfg, data, LocalContext()))


def _values(where: Execution, goals: Objectives, configs: list[TrainConfig]) -> Iterator[float]:
    """Yield the metric of each config's training: all at once as tasks, or one after the other on their workers."""
    tuning, metric, lost = where.cfg.tuning, goals.metric, worst(goals.mode)
    if on_workers(where.cfg.scaling):
        from jobs.training.workers import fit_on_workers

        own = where.folder / f"{where.run_id}.confirm"
        try:
            for i, cfg in enumerate(configs):
                yield _value(metric, lost, partial(fit_on_workers, cfg, where.data, own / str(i)))
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return
    task = _here.options(num_cpus=tuning.cpus_per_trial, num_gpus=tuning.gpus_per_trial)
    for ref in [task.remote(metric, lost, cfg, where.data) for cfg in configs]:
        yield ray.get(ref)


def confirm(where: Execution, study: JournaledStudy, space: Space, goals: Objectives, shown: Step) -> list[Confirmed]:
    """Train the best tuning.confirm_top_k trials on tuning.confirm_seeds fresh seeds; return them, the best first.

    The best by the mean over fresh seeds is the winner, and that mean is what to expect of it (a maximum over many
    noisy values is biased upwards: Cawley and Talbot 2010).
    """
    tuning = where.cfg.tuning
    best: Sequence[FrozenTrial] = goals.best(study.own_trials())
    top = [] if goals.several else best[: tuning.confirm_top_k]
    if not top:
        return []
    count, values = tuning.confirm_seeds, list[float]()
    seeds = [f"seed={where.cfg.seed + FRESH + i}" for i in range(count)]
    asked = [space.compose((*trial.user_attrs[OVERRIDES], seed)) for trial in top for seed in seeds]
    for value in _values(where, goals, asked):
        values.append(value)
        shown.update(f"the best {len(top)} on fresh seeds: {len(values)}/{len(asked)} trained")
    found = [
        Confirmed(t.number, tuple(t.user_attrs[OVERRIDES]), t.values[0], tuple(values[i * count : (i + 1) * count]))
        for i, t in enumerate(top)
    ]
    return sorted(found, key=lambda one: -one.mean if goals.mode == "max" else one.mean)

"""Against the winner's curse: the best of many is lucky, so the best few are trained anew on fresh seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
from optuna.trial import FrozenTrial

from cluster.progress import Step
from cluster.storage import storage_path
from conf.schema import TrainConfig
from jobs.training.examples import TrainingData
from jobs.tuning.journal import JournaledStudy
from jobs.tuning.objectives import Objectives
from jobs.tuning.searcher import OVERRIDES
from jobs.tuning.space import Space

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


@ray.remote(max_retries=1)
def _value(metric: str, cfg: TrainConfig, data: TrainingData) -> float:
    from jobs.training.context import LocalContext
    from jobs.training.loop import fit

    return fit(cfg, data, LocalContext()).metrics[metric]


def _values(metric: str, configs: list[TrainConfig], data: ray.ObjectRef[TrainingData]) -> Iterator[float]:
    """Yield the metric of each config's training: all at once as tasks, or one after the other on their workers."""
    cfg = configs[0]
    if cfg.scaling.strategy != "local":
        from jobs.training.workers import fit_on_workers

        for one in configs:
            yield fit_on_workers(one, data, storage_path(cfg.cluster)).metrics[metric]
        return
    resources = {"num_cpus": cfg.tuning.cpus_per_trial, "num_gpus": cfg.tuning.gpus_per_trial}
    for ref in [_value.options(**resources).remote(metric, one, data) for one in configs]:
        yield ray.get(ref)


def confirm(
    cfg: TrainConfig,
    study: JournaledStudy,
    space: Space,
    goals: Objectives,
    data: ray.ObjectRef[TrainingData],
    shown: Step,
) -> list[Confirmed]:
    """Train the best tuning.confirm_top_k trials on tuning.confirm_seeds fresh seeds; return them, the best first.

    The best by the mean over fresh seeds is the winner, and that mean is what to expect of it (a maximum over many
    noisy values is biased upwards: Cawley and Talbot 2010).
    """
    best: Sequence[FrozenTrial] = goals.best(study.own_trials())
    top = [] if goals.several else best[: cfg.tuning.confirm_top_k]
    if not top:
        return []
    count, values = cfg.tuning.confirm_seeds, list[float]()
    seeds = [f"seed={cfg.seed + FRESH + i}" for i in range(count)]
    asked = [space.compose((*trial.user_attrs[OVERRIDES], seed)) for trial in top for seed in seeds]
    for value in _values(goals.metric, asked, data):
        values.append(value)
        shown.update(f"the best {len(top)} on fresh seeds: {len(values)}/{len(asked)} trained")
    found = [
        Confirmed(t.number, tuple(t.user_attrs[OVERRIDES]), t.values[0], tuple(values[i * count : (i + 1) * count]))
        for i, t in enumerate(top)
    ]
    return sorted(found, key=lambda one: -one.mean if goals.mode == "max" else one.mean)

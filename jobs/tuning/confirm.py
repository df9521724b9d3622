"""Against the winner's curse: the best of many is lucky, so the best few are trained anew on fresh seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from optuna.trial import FrozenTrial

from cluster.progress import Step
from conf.schema import TrainConfig
from jobs.training.epoch import Epoch
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
def _objective(cfg: TrainConfig, data: TrainingData) -> float:
    from jobs.training.context import LocalContext
    from jobs.training.loop import fit

    epochs: list[Epoch] = []
    fit(cfg, data, LocalContext(epochs.append))
    return epochs[-1].objective


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
    resources = {"num_cpus": cfg.tuning.cpus_per_trial, "num_gpus": cfg.tuning.gpus_per_trial}
    waiting = []
    for trial in top:
        for i in range(cfg.tuning.confirm_seeds):
            asked = space.compose((*trial.user_attrs[OVERRIDES], f"seed={cfg.seed + FRESH + i}"))
            waiting.append(_objective.options(**resources).remote(asked, data))
    values: list[float] = []
    for ref in waiting:
        values.append(float(ray.get(ref)))
        shown.update(f"the best {len(top)} on fresh seeds: {len(values)}/{len(waiting)} trained")
    count = cfg.tuning.confirm_seeds
    found = [
        Confirmed(t.number, tuple(t.user_attrs[OVERRIDES]), t.values[0], tuple(values[i * count : (i + 1) * count]))
        for i, t in enumerate(top)
    ]
    return sorted(found, key=lambda one: -one.mean if goals.mode == "max" else one.mean)

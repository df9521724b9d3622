"""A trial that needs several workers: a coordinator that holds no CPU drives Ray Train and passes its reports on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray import tune

from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.epoch import EPOCH, LAST, OBJECTIVE, SAMPLES
from jobs.training.examples import TrainingData
from jobs.training.metrics import COSTS
from jobs.training.scaling import check_resources, check_strategy, on_workers, per_worker
from jobs.tuning.trial import CURVE, DIVERGED, Asked, said_of


def check_workers(cfg: TrainConfig, replicates: tuple[tuple[str, ...], ...]) -> None:
    """Raise BadInput for what a trial on several workers cannot do."""
    check_strategy(cfg.scaling)
    if not on_workers(cfg.scaling):
        return
    if len(replicates) > 1:
        bound = "has no replicates: a trial on several workers trains one seed"
        raise BadInput("scaling.strategy", cfg.scaling.strategy, bound, "say scaling=local, or one seed")
    for key, said in (("objectives", cfg.tuning.objectives), ("constraints", cfg.tuning.constraints)):
        for name in set(said) & set(COSTS):
            raise BadInput(f"tuning.{key}", name, "is not measured on several workers", "say scaling=local")


def most_at_once(cfg: TrainConfig, available: dict[str, float]) -> int:
    """Return how many trials' workers the cluster holds at once; raises BadInput where it holds not even one's."""
    scaling = cfg.scaling
    check_resources(scaling, available)
    return min(int(available[name] // (each * scaling.num_workers)) for name, each in per_worker(scaling).items())


def coordinate(config: dict[str, Any], data: ray.ObjectRef[TrainingData], storage: str) -> None:
    """Run one trial of Ray Tune on the workers of Ray Train."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from jobs.training.loop import Diverged
    from jobs.training.workers import cause_of, fit_on_workers

    asked = Asked.from_dict(config)
    try:
        (cfg,) = asked.configs()
        fit_on_workers(cfg, data, Path(storage) / f"{asked.number}.workers", [TuneReportCallback()])
    except Exception as error:
        cause = cause_of(error)
        nothing = {EPOCH: 0, SAMPLES: 0, OBJECTIVE: asked.worst, CURVE: [], LAST: True, "done": True}
        diverged = isinstance(cause, Diverged)  # it has finished, with the worst value
        tune.report({**nothing, DIVERGED: str(cause)} if diverged else asked.failed(said_of(cause)))

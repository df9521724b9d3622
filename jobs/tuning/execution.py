"""Ray Tune at work on one search: lean trials in reused actors, ended in order whatever ends it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from cluster.interrupt import interrupts
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.examples import TrainingData
from jobs.training.scaling import on_workers
from jobs.tuning.coordinator import coordinate, most_at_once
from jobs.tuning.searcher import RETRIES, OptunaSearcher
from jobs.tuning.trial import Shared, Trial
from jobs.tuning.watch import Watch

_LEAN = {
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own record of the search: the study is ours
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Execution:
    """Where a search runs. folder: of all searches, <storage>/tune; data: in the object store, for all trials."""

    cfg: TrainConfig
    run_id: str
    folder: Path
    data: ray.ObjectRef[TrainingData]

    @property
    def checkpoints(self) -> Path:
        """Return where trials leave their state."""
        return self.folder / f"{self.run_id}.trials"


class Ending(tune.Stopper):
    """Ends the search when it was interrupted, has no time left, or cannot go on."""

    def __init__(self, searcher: OptunaSearcher, watch: Watch, budget_s: float | None) -> None:
        self._searcher, self._watch = searcher, watch
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: Ray Tune copies it to disk, and it belongs to the running search."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by itself."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the search ends now; what runs is left as it is, to go on with later."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._watch.out_of_time = True
        ends = self._watch.interrupted or self._watch.out_of_time or self._watch.hopeless
        if ends or self._searcher.failure is not None:
            self._searcher.leaving = True
        return self._searcher.leaving


def execute(where: Execution, searcher: OptunaSearcher, scheduler: TrialScheduler, watch: Watch) -> None:
    """Run the trials. Raises BadInput where the cluster can hold none, all fail alike or the disk is full.

    Raises KeyboardInterrupt, saying how to go on, when it was interrupted.
    """
    cfg, own = where.cfg, f"{where.run_id}.ray"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial's traceback is in its run
    trainable, at_once = _trainable(where)
    # Ray would start one actor, wait until it runs, and start the next
    os.environ.update({**_LEAN, "TUNE_MAX_PENDING_TRIALS_PG": str(at_once)})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when all are handed out
            max_concurrent_trials=min(cfg.tuning.max_concurrent or at_once, at_once),
            reuse_actors=not on_workers(cfg.scaling),
        ),
        run_config=tune.RunConfig(
            name=own,
            storage_path=str(where.folder),
            callbacks=[watch],
            verbose=0,
            stop=Ending(searcher, watch, cfg.tuning.time_budget_s),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with interrupts(watch.interrupt):
        tuner.fit()
    _raise_what_ended(where, searcher, watch)
    shutil.rmtree(where.folder / own, ignore_errors=True)
    if not watch.out_of_time:
        shutil.rmtree(where.checkpoints, ignore_errors=True)


def _trainable(where: Execution) -> tuple[Any, int]:
    """Return what Ray Tune runs, and how many of it at once."""
    cfg, available = where.cfg, ray.cluster_resources()
    if on_workers(cfg.scaling):
        at_once = most_at_once(cfg, available)
        function = partial(coordinate, data=where.data, storage=str(where.checkpoints))
        return tune.with_resources(function, {"memory": 1}), at_once
    resources = {"CPU": cfg.tuning.cpus_per_trial, "GPU": cfg.tuning.gpus_per_trial}
    for resource, wanted in resources.items():
        if wanted > available.get(resource, 0):
            bound = f"is more than the cluster's {available.get(resource, 0):g}"
            raise BadInput(f"tuning.{resource.lower()}s_per_trial", wanted, bound, "ask for less")
    given = tune.with_parameters(Trial, shared=Shared(where.data, str(where.checkpoints)))
    return tune.with_resources(given, resources), int(available["CPU"] // cfg.tuning.cpus_per_trial)


def _raise_what_ended(where: Execution, searcher: OptunaSearcher, watch: Watch) -> None:
    if searcher.failure is not None:
        why = searcher.failure.strerror or str(searcher.failure)
        remedy = f"make room, then: python -m jobs.tune resume={where.run_id}"
        raise BadInput("cluster.storage", str(where.folder), f"cannot be written ({why})", remedy)
    if watch.interrupted:
        raise KeyboardInterrupt(f"interrupted; go on with: python -m jobs.tune resume={where.run_id}")
    if watch.hopeless:
        count = len(watch.errors)
        raise BadInput("trials", None, f"the first {count} failed alike ({watch.errors[0]})", "mend that, search again")

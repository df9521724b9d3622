"""One search: Ray Tune over an Optuna study, a parent run in MLflow with a child per trial."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
import ray
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from ray import tune
from ray.tune.schedulers import TrialScheduler

from cluster import session
from cluster.progress import step
from cluster.storage import storage_path
from cluster.tracking import Run, connect
from conf.component import make
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.data.load import default_name, load
from jobs.training.context import OBJECTIVE
from jobs.training.metrics import selection_metric
from jobs.training.tensors import TrainingData, prepare
from jobs.tuning.searcher import OptunaSearcher
from jobs.tuning.space import Space
from jobs.tuning.sweep import Dimension
from jobs.tuning.trial import trial
from jobs.tuning.watch import Watch
from jobs.tuning.winner import ARTIFACT


@dataclass(frozen=True)
class SearchResult:
    """The winner of a search, chosen on the validation part: its overrides (fixed ones first) and its metrics."""

    run_id: str
    overrides: tuple[str, ...]
    metric: str
    value: float
    completed: int
    pruned: int
    failed: int

    def __str__(self) -> str:
        """Say it in a line."""
        counts = f"{self.completed} completed, {self.pruned} pruned, {self.failed} failed"
        return f"best {self.metric} {self.value:.4f} of {counts}: {' '.join(self.overrides)} (run {self.run_id})"


@dataclass(frozen=True)
class Search:
    """What is searched. cfg: composed from `fixed` by `entrypoint`; replicates: overrides of each seed or fold."""

    cfg: TrainConfig
    dimensions: Mapping[str, Dimension]
    replicates: tuple[tuple[str, ...], ...] = ((),)
    entrypoint: str = "train"


def search(asked: Search) -> SearchResult:
    """Search, record it in MLflow and return the winner.

    Raises BadInput before Ray starts for what cannot be searched, and the trials' own error when all fail.
    """
    cfg = asked.cfg
    if not asked.dimensions:
        remedy = "add search_space=mlp, or a dimension such as optimizer.lr='tag(log, interval(1e-4, 1e-1))'"
        raise BadInput("search_space", None, "leaves nothing to search", remedy)
    if cfg.scaling.strategy != "local":
        raise BadInput("scaling.strategy", cfg.scaling.strategy, "is not for trials", "a trial runs in one process")
    space = Space(asked.entrypoint, tuple(cfg.overrides), asked.dimensions)
    data = load(cfg.dataset, cfg.split)
    metric, mode = selection_metric(data.schema.task, cfg.training.metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # conditional spaces need TPE's groups
        sampler = make("searcher", cfg.searcher, BaseSampler)  # type: ignore[type-abstract]  # any subclass
    scheduler = make("scheduler", cfg.scheduler, TrialScheduler, metric=OBJECTIVE, mode=mode)
    tracking = connect(cfg.tracking, cfg.cluster)
    name = cfg.name or default_name(cfg.dataset)
    with tracking.run(name, "tune", cfg) as run, step(f"tune {name}") as shown:
        run.tag({"metric": metric, "data_hash": data.data_hash, "split_hash": data.split_hash})
        searcher = OptunaSearcher(_study(cfg, run, mode, sampler), space, list(asked.replicates))
        with session.connect(cfg.cluster), Watch(tracking, run, name, metric, mode, searcher, cfg, shown) as watch:
            _fit(cfg, run, searcher, scheduler, watch, prepare(data))
        result = _winner(cfg, run, metric, watch)
        shown.done(str(result))
    return result


def _study(cfg: TrainConfig, run: Run, mode: str, sampler: BaseSampler) -> optuna.Study:
    """Return a study kept in <storage>/tune/<run>.journal, which stock tools open."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial's traceback is in its run
    folder = storage_path(cfg.cluster) / "tune"
    folder.mkdir(exist_ok=True)
    journal = JournalStorage(JournalFileBackend(str(folder / f"{run.id}.journal")))
    direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
    return optuna.create_study(study_name=run.id, storage=journal, sampler=sampler, direction=direction)


def _fit(
    cfg: TrainConfig,
    run: Run,
    searcher: OptunaSearcher,
    scheduler: TrialScheduler,
    watch: Watch,
    data: TrainingData,
) -> None:
    resources = {"CPU": cfg.tuning.cpus_per_trial, "GPU": cfg.tuning.gpus_per_trial}
    available = ray.cluster_resources()
    for resource, wanted in resources.items():
        if wanted > available.get(resource, 0):
            bound = f"is more than the cluster's {available.get(resource, 0):g}"
            raise BadInput(f"tuning.{resource.lower()}s_per_trial", wanted, bound, "ask for less")
    trainable = tune.with_resources(tune.with_parameters(trial, data=data), resources)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=cfg.tuning.num_samples,
            max_concurrent_trials=cfg.tuning.max_concurrent,
            time_budget_s=cfg.tuning.time_budget_s,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=run.id, storage_path=str(storage_path(cfg.cluster) / "tune"), callbacks=[watch], verbose=0
        ),
    )
    tuner.fit()


def _winner(cfg: TrainConfig, run: Run, metric: str, watch: Watch) -> SearchResult:
    best = watch.best
    if best is None:
        why = watch.errors[0] if watch.errors else "none reported anything"
        raise BadInput("trials", None, f"all {len(watch.ended)} failed ({why})", "mend that and search again")
    overrides = (*cfg.overrides, *best.overrides)
    run.text("\n".join(overrides), ARTIFACT)
    run.tag({"best": best.objective, "best_trial": best.trial_id})
    run.metrics({f"best_{metric}": best.objective})
    ended = watch.ended
    return SearchResult(
        run.id,
        overrides,
        metric,
        best.objective,
        ended.count("complete"),
        ended.count("pruned"),
        ended.count("failed"),
    )

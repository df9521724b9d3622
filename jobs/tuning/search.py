"""One search: Ray Tune over an Optuna study, a parent run in MLflow with a child per trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler
from ray.tune.schedulers import TrialScheduler

from cluster import session
from cluster.progress import say, step
from cluster.spool import Spool, impatient
from cluster.storage import storage_path
from cluster.tracking import Run, connect
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.data.load import Data, default_name, load
from jobs.training.examples import prepare
from jobs.training.metrics import selection_metric
from jobs.training.scaling import on_workers
from jobs.tuning.components import decides_anywhere, make_sampler, make_scheduler
from jobs.tuning.confirm import confirm
from jobs.tuning.coordinator import check_workers
from jobs.tuning.execution import Execution, execute
from jobs.tuning.grammar import WHEN, parse_space
from jobs.tuning.journal import journal_path, open_study
from jobs.tuning.objectives import Objectives, objectives
from jobs.tuning.outcome import SearchResult, conclude
from jobs.tuning.schedule import rungs_of
from jobs.tuning.searched import ASKED, Search
from jobs.tuning.searcher import Form, OptunaSearcher
from jobs.tuning.space import Space
from jobs.tuning.sweep import REPLICATED, plan
from jobs.tuning.warm import warm_start
from jobs.tuning.watch import Watch

SEND_S, LEAVE_S = 60.0, 3.0  # how long the end of a search, and one that has failed, waits for MLflow


def search(cfg: TrainConfig, space: Mapping[str, object]) -> SearchResult:
    """Search from Python, with the strings of the shell: {"optimizer.lr": "tag(log, interval(1e-4, 1e-1))"}.

    A comma list over seed gives replicates; `when` conditions as in a search_space yaml. Raises BadInput.
    """
    conditional = {key: value for key, value in space.items() if key == WHEN or key not in REPLICATED}
    asked = plan([f"{key}={said}" for key, said in space.items() if key in REPLICATED], searching=True)
    return run_search(Search(cfg, parse_space(conditional), tuple(asked.seeds())))


@dataclass(frozen=True)
class Prepared:
    """A search whose every word has been checked, before Ray starts."""

    asked: Search
    space: Space
    data: Data
    goals: Objectives
    sampler: BaseSampler
    scheduler: TrialScheduler
    form: Form


def checked(asked: Search) -> Prepared:
    """Check all that was said; raises BadInput for what cannot be searched."""
    cfg = asked.cfg
    space = asked.space
    check_workers(cfg, asked.replicates)
    data = load(cfg.dataset, cfg.split)
    metric, _ = selection_metric(data.schema.task, cfg.training.metric)
    goals = objectives(cfg.tuning, data.schema.task, metric, str(cfg.scheduler.get("_target_")).rpartition(".")[2])
    rows = data.sizes["train"]
    scheduler = make_scheduler(cfg, rows, asked.dimensions, goals.mode)
    rungs = rungs_of(scheduler, rows)
    form = Form(asked.replicates, rungs, decides_anywhere(scheduler, rungs))
    return Prepared(asked, space, data, goals, make_sampler(cfg, asked.dimensions, goals), scheduler, form)


def run_search(asked: Search) -> SearchResult:
    """Search, record it in MLflow and return the winner.

    Raises BadInput before Ray starts for what cannot be searched, the trials' own error when the first all fail alike,
    and KeyboardInterrupt, saying how to go on, when it was interrupted.
    """
    cfg, prepared = asked.cfg, checked(asked)
    name = cfg.name or default_name(cfg.dataset)
    tracking = connect(cfg.tracking, cfg.cluster)
    folder = storage_path(cfg.cluster) / "tune"
    run = tracking.resume(asked.run) if asked.run else tracking.start(name, "tune")
    with alone(folder, run.id), tracking.ending(run), step(f"tune {name}") as shown:
        _record(run, prepared)
        study = open_study(journal_path(folder, run.id), prepared.goals.directions.values(), prepared.sampler)
        warm_start(cfg, study, prepared.space, prepared.goals, tracking, prepared.data.data_hash)
        searcher = OptunaSearcher(
            study, prepared.space, prepared.goals, prepared.form, cfg.tuning.num_samples, cfg.seed
        )
        spool = Spool(folder / f"{run.id}.spool", tracking, name, run.id)
        watch = Watch(cfg, study, searcher, spool, prepared.goals, shown)
        wait_s = LEAVE_S
        try:
            with impatient(), session.connect(cfg.cluster, state_api=on_workers(cfg.scaling)):
                data = ray.put(prepare(cfg, prepared.data))
                where = Execution(cfg, run.id, folder, data)
                execute(where, searcher, prepared.scheduler, watch)
                confirmed = confirm(where, study, prepared.space, prepared.goals, shown)
            wait_s = SEND_S
        finally:
            searcher.close()
            if unsent := spool.close(wait_s):
                say(f"{unsent} trials are not in MLflow yet; send them later: python -m jobs.tune resume={run.id}")
        result = conclude(cfg, run, study, prepared.goals, prepared.form.rungs, confirmed)
        shown.done(str(result))
    return result


@contextmanager
def alone(folder: Path, run_id: str) -> Iterator[None]:
    """Keep other processes from the same search; raises BadInput where one is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{run_id}.lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise BadInput("resume", run_id, "is still running", "wait for it, or end it first") from error


def _record(run: Run, prepared: Prepared) -> None:
    """Keep with the run what was asked for, so that it can be resumed and compared."""
    cfg, data, goals = prepared.asked.cfg, prepared.data, prepared.goals
    if prepared.asked.run is None:
        run.config(cfg)
    run.text(prepared.asked.to_json(), ASKED)
    run.tag({"metric": goals.metric, "mode": goals.mode, "rows": data.sizes["train"]})
    run.tag({"data_hash": data.data_hash, "split_hash": data.split_hash})

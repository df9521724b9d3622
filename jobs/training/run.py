"""Where a run's loop runs, as `scaling` says: in this process, or on the workers of Ray Train."""

from __future__ import annotations

from cluster import session
from cluster.storage import storage_path
from conf.schema import TrainConfig
from jobs.training.context import LocalContext, Report
from jobs.training.loop import Outcome, fit
from jobs.training.tensors import TrainingData


def run(cfg: TrainConfig, data: TrainingData, on_epoch: Report | None = None) -> Outcome:
    """Train once; `on_epoch` hears each epoch of a local run (workers log their own)."""
    if cfg.scaling.strategy == "local":
        return fit(cfg, data, LocalContext(on_epoch))
    from jobs.training.workers import fit_on_workers

    with session.connect(cfg.cluster):
        return fit_on_workers(cfg, data, storage_path(cfg.cluster))

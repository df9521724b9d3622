"""Where a run's loop runs, as `scaling` says: in this process, or on the workers of Ray Train."""

from __future__ import annotations

from cluster import session
from cluster.progress import Step
from cluster.storage import storage_path
from conf.schema import TrainConfig
from jobs.training.context import LocalContext
from jobs.training.epoch import Epoch
from jobs.training.examples import TrainingData
from jobs.training.loop import Outcome, fit
from jobs.training.metrics import selection_metric
from jobs.training.scaling import check_strategy, on_workers


def run_loop(cfg: TrainConfig, data: TrainingData, shown: Step) -> Outcome:
    """Train once, showing how far it is. Raises BadInput for several workers without Ray Train."""
    metric, _ = selection_metric(data.schema.task, cfg.training.metric)
    check_strategy(cfg.scaling)
    if not on_workers(cfg.scaling):

        def on_epoch(epoch: Epoch) -> None:
            shown.update(f"epoch {epoch.number}/{cfg.training.epochs}, {metric} {epoch.metrics[metric]:.4f}")

        return fit(cfg, data, LocalContext(on_epoch))
    import ray

    from jobs.training.workers import fit_on_workers

    shown.update(f"{cfg.scaling.num_workers} workers of Ray Train")
    with session.connect(cfg.cluster):
        return fit_on_workers(cfg, ray.put(data), storage_path(cfg.cluster))

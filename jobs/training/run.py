"""Where a run's loop runs, as `scaling` says: in this process, or on the workers of Ray Train."""

from __future__ import annotations

import threading

import torch

from cluster import session
from cluster.interrupt import interrupts
from cluster.progress import Step
from cluster.storage import storage_path
from cluster.tracking import Run
from conf.schema import TrainConfig
from jobs.training.context import LocalContext, Watcher
from jobs.training.debug import Aloud
from jobs.training.examples import TrainingData
from jobs.training.folder import RunFolder
from jobs.training.loop import fit
from jobs.training.metrics import selection_metric
from jobs.training.outcome import Outcome
from jobs.training.profile import Profiler
from jobs.training.recorder import Recorder
from jobs.training.saver import Saver, Stopped
from jobs.training.scaling import check_batch, check_strategy, on_workers


def run_folder(cfg: TrainConfig, run_id: str) -> RunFolder:
    """Return the folder of a run."""
    return RunFolder(storage_path(cfg.cluster) / "train" / run_id)


def run_loop(cfg: TrainConfig, data: TrainingData, run: Run, shown: Step) -> Outcome:
    """Train once, from the run's latest checkpoint where it has one, recording epochs and showing how far it is.

    Raises BadInput for several workers without Ray Train, and KeyboardInterrupt, saying how to go on, when SIGINT or
    SIGTERM has ended it in order.
    """
    metric, _ = selection_metric(data.schema.task, cfg.training.metric)
    check_strategy(cfg.scaling)
    check_batch(cfg.training, cfg.scaling)
    folder = run_folder(cfg, run.id)
    folder.prepare()
    asked = threading.Event()

    def stop() -> None:
        asked.set()
        folder.stop.touch()

    recorder = Recorder(folder, run, shown, cfg.training, metric)
    try:
        with recorder.following(), interrupts(stop):
            if on_workers(cfg.scaling):
                outcome = _on_workers(cfg, data, folder, shown)
            else:
                outcome = _here(cfg, data, folder, asked)
    except Stopped:
        asked.set()
    if asked.is_set():
        raise KeyboardInterrupt(f"interrupted; go on with: python -m jobs.train resume={run.id}")
    return outcome


def _here(cfg: TrainConfig, data: TrainingData, folder: RunFolder, asked: threading.Event) -> Outcome:
    saver = Saver(folder, cfg.training, 0, asked.is_set)
    watchers: list[Watcher] = [saver, *([Aloud()] if cfg.debug else []), *([Profiler(folder)] if cfg.profiler else [])]
    with torch.autograd.set_detect_anomaly(cfg.debug):
        outcome = fit(cfg, data, LocalContext(watchers=watchers))
    saver.end()
    return outcome


def _on_workers(cfg: TrainConfig, data: TrainingData, folder: RunFolder, shown: Step) -> Outcome:
    import ray

    from jobs.training.workers import fit_on_workers

    shown.update(f"{cfg.scaling.num_workers} workers of Ray Train")
    with session.connect(cfg.cluster):
        return fit_on_workers(cfg, ray.put(data), folder.path)

"""Where a run's loop runs, as `scaling` says: in this process, or on the workers of Ray Train."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from cluster import session
from cluster.interrupt import interrupts
from cluster.progress import Step
from cluster.storage import storage_path
from cluster.tracking import Run
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.context import LocalContext, Watcher
from jobs.training.debug import Aloud
from jobs.training.examples import TrainingData
from jobs.training.folder import RunFolder
from jobs.training.loop import Diverged, fit
from jobs.training.metrics import selection_metric
from jobs.training.outcome import Outcome
from jobs.training.profile import Profiler
from jobs.training.recorder import Recorder
from jobs.training.saver import Saver, Stopped
from jobs.training.scaling import check_batch, check_strategy, on_workers, said


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
        with recorder.following():
            if on_workers(cfg.scaling):
                shown.update(f"{said(cfg.scaling)} of Ray Train")
                outcome = _on_workers(cfg, data, folder, stop)
            else:
                with interrupts(stop):
                    outcome = _here(cfg, data, folder, asked)
    except Stopped:
        asked.set()
    except Diverged as why:
        run.tag({"diagnosis": "diverged", "diagnosis.sentences": str(why)})
        raise
    except OSError as full:
        remedy = f"make room, then: python -m jobs.train resume={run.id}"
        raise BadInput("cluster.storage", str(folder.path), f"cannot be written ({full.strerror})", remedy) from full
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


def _on_workers(cfg: TrainConfig, data: TrainingData, folder: RunFolder, stop: Callable[[], None]) -> Outcome:
    import ray

    from jobs.training.workers import fit_on_workers

    with session.connect(cfg.cluster), interrupts(stop):  # in this order: Ray takes the signals when it starts
        return fit_on_workers(cfg, ray.put(data), folder.path)

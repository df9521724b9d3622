"""The driver's view of a running search: the live line, the best so far, and the trials' runs in MLflow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from cluster.progress import Step
from cluster.tracking import Run, Tracking
from conf.schema import TrainConfig
from jobs.training.context import LAST, OBJECTIVE
from jobs.tuning.searcher import OptunaSearcher

_RAYS_OWN = ("time_", "iterations_", "hostname", "node_ip", "trial_id", "pid", "date", "done", "should_checkpoint")


@dataclass
class Watched:
    """One trial so far. ended: complete, pruned or failed, "" while it runs."""

    trial_id: str
    overrides: tuple[str, ...]
    objective: float = float("nan")
    history: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""
    error: str = ""


class Watch(tune.Callback):
    """Follows the trials; writes each as a child run when it ends, on a thread of its own."""

    def __init__(
        self,
        tracking: Tracking,
        parent: Run,
        name: str,
        metric: str,
        mode: str,
        searcher: OptunaSearcher,
        cfg: TrainConfig,
        shown: Step,
    ) -> None:
        self._tracking, self._parent, self._name, self._metric = tracking, parent, name, metric
        self._sign = 1 if mode == "max" else -1
        self._searcher, self._total, self._shown = searcher, cfg.tuning.num_samples, shown
        self._trials: dict[str, Watched] = {}
        self._writer = ThreadPoolExecutor(1)

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: Ray Tune copies its callbacks to disk, and this one belongs to the running search."""
        return {}

    def __enter__(self) -> Watch:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait until all trials are written."""
        self._writer.shutdown(wait=True)

    @property
    def ended(self) -> list[str]:
        """Return how each ended trial ended."""
        return [trial.ended for trial in self._trials.values() if trial.ended]

    @property
    def errors(self) -> list[str]:
        """Return what the failed trials said."""
        return [trial.error for trial in self._trials.values() if trial.ended == "failed"]

    @property
    def best(self) -> Watched | None:
        """Return the best trial: of those that ran to their end, or of all while there is none."""
        reported = [trial for trial in self._trials.values() if trial.history and trial.ended != "failed"]
        finished = [trial for trial in reported if trial.ended == "complete"]
        return max(finished or reported, key=lambda trial: self._sign * trial.objective, default=None)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Begin to follow a trial."""
        self._trials[trial.trial_id] = Watched(trial.trial_id, self._searcher.overrides[trial.trial_id])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Take an epoch."""
        watched = self._trials[trial.trial_id]
        watched.objective = result[OBJECTIVE]
        watched.history.append({key: value for key, value in result.items() if _ours(key, value)})
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Write a trial that ended, by itself or by the scheduler."""
        self._end(trial, "complete" if trial.last_result.get(LAST) else "pruned", "")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Write a trial that failed; the search goes on."""
        self._end(trial, "failed", _why(trial))

    def _end(self, trial: Trial, ended: str, error: str) -> None:
        watched = self._trials[trial.trial_id]
        watched.ended, watched.error = ended, error
        self._writer.submit(self._write, watched)
        self._show()

    def _write(self, watched: Watched) -> None:
        run = self._tracking.start(self._name, "trial", self._parent.id)
        run.log(watched.history)
        run.params(dict(override.split("=", 1) for override in watched.overrides))
        run.tag({"state": watched.ended, "trial_id": watched.trial_id, "error": watched.error})
        run.finish("FAILED" if watched.ended == "failed" else "FINISHED")

    def _show(self) -> None:
        best, ended = self.best, self.ended
        counts = f"{len(ended)}/{self._total} trials, {ended.count('pruned')} pruned, {ended.count('failed')} failed"
        if best is not None:
            counts += f", best {self._metric} {best.objective:.4f} with {' '.join(best.overrides)}"
        self._shown.update(counts)


def _ours(key: str, value: object) -> bool:
    """Tell the loop's metrics from what Ray Tune adds to a result."""
    return isinstance(value, int | float) and not key.startswith((*_RAYS_OWN, "config/", "training_iteration", LAST))


def _why(trial: Trial) -> str:
    """Return the last line that a failed trial's actor said, without the name of an error that is a sentence."""
    path = Path(trial.error_file) if trial.error_file else None
    said = path.read_text().strip().splitlines() if path and path.exists() else []
    return said[-1].removeprefix("conf.errors.BadInput: ").rstrip(".") if said else "it said nothing"

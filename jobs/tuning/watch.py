"""The driver's view of a running search: the live line, and each ended trial on its way to MLflow."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial

from cluster.progress import Step
from cluster.spool import Spool, TrialRecord
from conf.schema import TrainConfig
from jobs.training.epoch import EPOCH, LAST, OBJECTIVE, SAMPLES
from jobs.tuning.journal import JournaledStudy
from jobs.tuning.objectives import Objectives
from jobs.tuning.searcher import ERROR, OVERRIDES, OptunaSearcher
from jobs.tuning.trial import CURVE, DIVERGED, FAILED

_ENDED = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_OWN = (EPOCH, SAMPLES, OBJECTIVE, LAST)  # of a report: no metrics of the loop


@dataclass
class Watched:
    """One trial as it has gone so far; epochs: number -> (metrics, when)."""

    number: int
    started: int
    epochs: dict[int, tuple[dict[str, float], int]] = field(default_factory=dict)
    objective: float = math.nan


@dataclass
class _Counts:
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    epochs: int = 0

    @property
    def ended(self) -> int:
        return self.complete + self.pruned + self.failed


class Watch(tune.Callback):
    """Follows the trials. interrupted, out_of_time: why the search is to end; hopeless: all failed alike so far."""

    def __init__(
        self,
        cfg: TrainConfig,
        study: JournaledStudy,
        searcher: OptunaSearcher,
        spool: Spool,
        goals: Objectives,
        shown: Step,
    ) -> None:
        self._cfg, self._searcher, self._spool, self._goals, self._shown = cfg, searcher, spool, goals, shown
        self._running: dict[str, Watched] = {}
        self._counts, self._started = _Counts(), time.monotonic()
        self._best: tuple[float, tuple[str, ...]] | None = None
        self.errors: list[str] = []
        self.interrupted = self.out_of_time = False
        for trial in study.own_trials():
            if trial.state in _ENDED:
                objective = trial.values[0] if trial.values else math.nan
                self._count(_ENDED[trial.state], len(trial.intermediate_values), trial.user_attrs.get(ERROR, ""))
                if trial.state == TrialState.COMPLETE:
                    self._offer(objective, tuple(trial.user_attrs[OVERRIDES]))
        self._before = self._counts.ended

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: Ray Tune copies its callbacks to disk, and this one belongs to the running search."""
        return {}

    def interrupt(self) -> None:
        """Let the search end in order."""
        self.interrupted = True

    @property
    def hopeless(self) -> bool:
        """Tell whether the first tuning.most_alike trials all failed the same way."""
        counts, most = self._counts, self._cfg.tuning.most_alike
        enough = counts.failed == counts.ended >= min(most, self._cfg.tuning.num_samples)
        return enough and len({_without_numbers(error) for error in self.errors}) == 1

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Begin to follow a trial."""
        self._searcher.begun.add(trial.trial_id)
        self._running.setdefault(trial.trial_id, self._watched(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Take the epochs of a report."""
        watched = self._running[trial.trial_id]
        for report in result.get(CURVE, [result] if OBJECTIVE in result else []):
            metrics = {key: value for key, value in report.items() if key not in _OWN and _number(value)}
            self._counts.epochs += report[EPOCH] not in watched.epochs
            watched.epochs[report[EPOCH]] = (metrics, _now())
            watched.objective = report[OBJECTIVE]
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Take the end of a trial, by itself or by the scheduler."""
        result = trial.last_result or {}
        if OBJECTIVE not in result or FAILED in result:
            self._end(trial, "failed", str(result.get(FAILED) or "it reported nothing"))
        else:
            self._end(trial, "complete" if result.get(LAST) else "pruned", str(result.get(DIVERGED, "")))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Take the end of a trial whose process died once too often; one that is handed out again has not ended."""
        if trial.trial_id in self._searcher.asked:
            self._running.setdefault(trial.trial_id, self._watched(trial))
            self._end(trial, "failed", "its process died")

    def _watched(self, trial: Trial) -> Watched:
        return Watched(self._searcher.asked[trial.trial_id].number, _now())

    def _end(self, trial: Trial, state: str, error: str) -> None:
        watched = self._running.pop(trial.trial_id, None)
        if watched is None or self._searcher.leaving:
            return
        self._count(state, 0, error if state == "failed" else "")
        overrides = self._searcher.asked[trial.trial_id].overrides  # a population perturbs them on the way
        if state == "complete" and not self._goals.several:
            self._offer(watched.objective, overrides)
        epochs = [watched.epochs[number] for number in sorted(watched.epochs)]
        params = dict(override.split("=", 1) for override in overrides)
        history, times = [metrics for metrics, _ in epochs], [when for _, when in epochs]
        record = TrialRecord(watched.number, params, history, times, state, watched.started, _now(), error)
        try:
            self._spool.append(record)
        except OSError as full:
            self._searcher.failure = full
        self._show()

    def _count(self, state: str, epochs: int, error: str) -> None:
        setattr(self._counts, state, getattr(self._counts, state) + 1)
        self._counts.epochs += epochs
        if error and state == "failed":
            self.errors.append(error)

    def _offer(self, objective: float, overrides: tuple[str, ...]) -> None:
        sign = 1 if self._goals.mode == "max" else -1
        if self._best is None or sign * objective > sign * self._best[0]:
            self._best = (objective, overrides)

    def _show(self) -> None:
        counts, total = self._counts, self._cfg.tuning.num_samples
        said = f"{counts.ended}/{total} trials: {len(self._running)} running, {counts.pruned} pruned"
        said += f", {counts.failed} failed, {counts.epochs} epochs"
        took, ended = time.monotonic() - self._started, counts.ended - self._before
        if ended:
            left = took / ended * (total - counts.ended)
            budget = self._cfg.tuning.time_budget_s
            said += f", {left if budget is None else min(left, budget - took):.0f} s to go"
        if self._best is not None:
            said += f"; best {self._goals.metric} {self._best[0]:.4f} with {' '.join(self._best[1])}"
        self._shown.update(said)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_numbers(error: str) -> str:
    """Return what kind of error it is: the same sentence about another value is the same error."""
    return "".join(c for c in error if not c.isdigit() and c not in ".-+e")


def _now() -> int:
    return int(time.time() * 1000)

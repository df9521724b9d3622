"""A Ray Tune searcher over Optuna's ask and tell: a trial stopped by the scheduler is told as pruned."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from jobs.training.context import LAST, OBJECTIVE
from jobs.tuning.space import Space


class OptunaSearcher(Searcher):
    """Suggests configs from a study and tells it how each trial ended.

    A trial that reported LAST finished by itself and is told COMPLETE with its objective; one stopped before is told
    PRUNED with its intermediate values (Ray's own searcher tells it complete, which misleads TPE); one that raised,
    FAIL.
    """

    def __init__(self, study: optuna.Study, space: Space, replicates: list[tuple[str, ...]]) -> None:
        direction = "max" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"
        super().__init__(metric=OBJECTIVE, mode=direction)
        self._study, self._space, self._replicates = study, space, replicates
        self._trials: dict[str, optuna.Trial] = {}
        self.overrides: dict[str, tuple[str, ...]] = {}

    def suggest(self, trial_id: str) -> dict[str, object]:
        """Ask the study for the next config."""
        trial = self._study.ask()
        sampled = self._space.sample(trial)
        trial.set_user_attr("overrides", list(sampled))
        self._trials[trial_id], self.overrides[trial_id] = trial, sampled
        return {"configs": [self._space.written((*sampled, *seed)) for seed in self._replicates]}

    def on_trial_result(self, trial_id: str, result: dict[str, float]) -> None:
        """Give the study an intermediate value."""
        self._trials[trial_id].report(result[OBJECTIVE], int(result["epoch"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, float] | None = None, error: bool = False) -> None:
        """Tell the study how the trial ended."""
        trial = self._trials.pop(trial_id)
        if error or not result or OBJECTIVE not in result:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        self._report_once(trial, result)
        if result.get(LAST):
            self._study.tell(trial, result[OBJECTIVE])
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _report_once(self, trial: optuna.Trial, result: dict[str, float]) -> None:
        """Give the last value too: Ray hands a trial's last result only to on_trial_complete."""
        step = int(result["epoch"])
        if step not in self._study.trials[trial.number].intermediate_values:
            trial.report(result[OBJECTIVE], step)

    def save(self, checkpoint_path: str) -> None:
        """Write which trial is which; the study keeps the rest itself."""
        numbers = {trial_id: trial.number for trial_id, trial in self._trials.items()}
        Path(checkpoint_path).write_text(json.dumps(numbers))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        numbers: dict[str, int] = json.loads(Path(checkpoint_path).read_text())
        of_number = {trial.number: trial for trial in self._study.trials}
        self._trials = {
            trial_id: optuna.Trial(self._study, of_number[number]._trial_id) for trial_id, number in numbers.items()
        }

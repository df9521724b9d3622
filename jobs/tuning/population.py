"""Population based training over trials that a searcher begins."""

from __future__ import annotations

from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pbt import _explore, _PBTTrialState

VALUES, NUMBER = "values", "number"  # of a trial's config: what is perturbed, and what no other trial may take over


class Population(PopulationBasedTraining):
    """Ray's scheduler, which refuses searchers: it wants to draw the first configs itself, and ours are the study's.

    The worst go on from the weights and the config of one of the best, perturbed; a trial stays who it is.
    """

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Take a trial as the searcher made it."""
        self._trial_state[trial] = _PBTTrialState(trial)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the other's config with its own keys perturbed (some exist only under some choices)."""
        mutations: Any = self._hyperparam_mutations[VALUES]
        factors: Any = self._perturbation_factors
        present = {key: how for key, how in mutations.items() if key in trial_to_clone.config[VALUES]}
        config, operations = _explore(
            trial_to_clone.config,
            {VALUES: present},
            self._resample_probability,
            factors,
            self._custom_explore_fn,
        )
        return {**config, NUMBER: trial.config[NUMBER]}, operations

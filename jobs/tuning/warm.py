"""Begin a search with what an earlier one learned."""

from __future__ import annotations

import warnings

from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from cluster.storage import storage_path
from cluster.tracking import Tracking
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.tuning.components import WARM_START
from jobs.tuning.journal import WARM, JournaledStudy, journal_path, read_study
from jobs.tuning.objectives import METRICS, Objectives
from jobs.tuning.searcher import OVERRIDES
from jobs.tuning.space import Space

MEASURED = (TrialState.COMPLETE, TrialState.PRUNED)


def warm_start(
    cfg: TrainConfig, study: JournaledStudy, space: Space, goals: Objectives, tracking: Tracking, data_hash: str
) -> int:
    """Add the finished trials of the run `searcher.warm_start` that lie in this space; return how many.

    Raises BadInput for a run whose trials measured something else. A study that has trials already is left as it is.
    """
    said = cfg.searcher.get(WARM_START)
    if said is None or study.count():
        return 0
    run = tracking.find(str(said), "tune", cfg.name, finished=False)
    tags = tracking.client.get_run(run).data.tags
    if tags.get("metric") != goals.metric:
        bound = f"searched for {tags.get('metric')}, this one for {goals.metric}"
        raise BadInput("searcher.warm_start", run, bound, "name a search for the same metric")
    if tags.get("data_hash") != data_hash:
        raise BadInput("searcher.warm_start", run, "searched on other data", "name a search on the same data")
    earlier = read_study(journal_path(storage_path(cfg.cluster) / "tune", run))
    found = (_anew(trial, space, goals) for trial in earlier.get_trials(deepcopy=False, states=MEASURED))
    fitting = [trial for trial in found if trial is not None]
    for trial in fitting:
        trial.user_attrs[WARM] = run
        study.add_trial(trial)
    return len(fitting)


def _anew(trial: FrozenTrial, space: Space, goals: Objectives) -> FrozenTrial | None:
    """Return an earlier trial as one of this search, or None where this one could not have made it."""
    values = _values(trial, goals)
    if values is None or not set(trial.params) <= set(space.dimensions):
        return None
    asked = FixedTrial({key: str(v) if space.dimensions[key].choices else v for key, v in trial.params.items()})
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):  # a value out of its bounds
            overrides = space.sample(asked)
    except (ValueError, UserWarning):
        return None
    if set(asked.params) != set(trial.params):
        return None
    return create_trial(
        state=trial.state,
        values=values,
        params=asked.params,
        distributions=asked.distributions,
        user_attrs={**trial.user_attrs, OVERRIDES: list(overrides)},
        system_attrs={_CONSTRAINTS_KEY: list(goals.violations(trial))} if goals.constraints else {},
        intermediate_values={} if goals.several else trial.intermediate_values,
    )


def _values(trial: FrozenTrial, goals: Objectives) -> list[float] | None:
    if not goals.several:
        return trial.values if len(trial.values or ()) == 1 else None
    metrics = trial.user_attrs.get(METRICS, {})
    known = trial.state == TrialState.COMPLETE and set(goals.directions) <= set(metrics)
    return goals.values(metrics) if known else None

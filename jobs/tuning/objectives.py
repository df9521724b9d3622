"""What a search is for: one objective or several, bounds on what else counts, and which trial is best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from conf.errors import BadInput, nearest
from conf.schema import Tuning
from jobs.training.epoch import OBJECTIVE
from jobs.training.metrics import COSTS, DIRECTION, of_task, worst

METRICS = "metrics"  # user attribute of a trial: what objectives and constraints read
FAR = 1e9  # violation of a bound on a metric that was never reported


@dataclass(frozen=True)
class Objectives:
    """directions: metric -> max or min, the first one named in lines; constraints: metric -> {max: ...} or {min: ...}.

    A single metric is the run's selection metric, of the weights kept; several are those of the weights kept too.
    """

    directions: Mapping[str, str]
    constraints: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Tell whether a trial has more than one value."""
        return len(self.directions) > 1

    @property
    def metric(self) -> str:
        """Return the first metric."""
        return next(iter(self.directions))

    @property
    def mode(self) -> str:
        """Return the first metric's direction."""
        return self.directions[self.metric]

    @property
    def read(self) -> tuple[str, ...]:
        """Return the metrics that a trial must report beside its objective."""
        several = self.directions if self.several else ()
        return tuple(dict.fromkeys([*several, *self.constraints]))

    def values(self, report: Mapping[str, float]) -> list[float]:
        """Return the values of a trial's last report, the worst for what it lacks or is not a number."""
        found = []
        for metric, direction in self.directions.items():
            value = float(report.get(metric if self.several else OBJECTIVE, math.nan))
            found.append(worst(direction) if math.isnan(value) else value)
        return found

    def violations(self, trial: FrozenTrial) -> Sequence[float]:
        """Return by how much each bound is broken (0 or less: kept), as Optuna's samplers want it."""
        metrics = trial.user_attrs.get(METRICS, {})
        found = []
        for metric, bounds in self.constraints.items():
            value = metrics.get(metric, math.nan)
            for side, bound in bounds.items():
                over = value - bound if side == "max" else bound - value
                found.append(FAR if math.isnan(over) else over)
        return found

    def best(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the finished trials that keep all bounds, best first; of several objectives the Pareto set."""
        done = [t for t in trials if t.state == TrialState.COMPLETE and all(v <= 0 for v in self.violations(t))]
        if self.several:
            return [trial for trial in done if not any(self._dominates(other, trial) for other in done)]
        return sorted(
            done, key=lambda trial: (-trial.values[0] if self.mode == "max" else trial.values[0], trial.number)
        )

    def _dominates(self, one: FrozenTrial, other: FrozenTrial) -> bool:
        signs = [-1 if direction == "max" else 1 for direction in self.directions.values()]
        pairs = [(s * a, s * b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def objectives(tuning: Tuning, task: str, metric: str, scheduler: str) -> Objectives:
    """Return what `tuning` says, the selection metric where it names no objective; raises BadInput.

    scheduler: the name of the scheduler's class; one that stops trials cannot weigh several objectives.
    """
    allowed = [*of_task(task), *COSTS]
    for key, said in (("objectives", tuning.objectives), ("constraints", tuning.constraints)):
        for name in said:
            if name not in allowed:
                raise BadInput(f"tuning.{key}", name, f"is not a metric of a {task} task", nearest(name, allowed))
    for name, direction in tuning.objectives.items():
        if direction not in ("max", "min"):
            raise BadInput(f"tuning.objectives.{name}", direction, "is not a direction", "say max or min")
    for name, bounds in tuning.constraints.items():
        if not isinstance(bounds, dict) or not bounds or set(bounds) - {"max", "min"}:
            raise BadInput(f"tuning.constraints.{name}", str(bounds), "is no bound", "say {max: 5} or {min: 0.9}")
    directions = tuning.objectives or {metric: DIRECTION[metric]}
    if len(tuning.objectives) > 1 and scheduler != "FIFOScheduler":
        remedy = "say scheduler=none: no scheduler can weigh them"
        raise BadInput("tuning.objectives", str(list(directions)), f"are several for {scheduler}", remedy)
    if len(tuning.objectives) == 1 and metric not in tuning.objectives:
        (only,) = tuning.objectives
        bound = f"is not the run's selection metric {metric}"
        raise BadInput("tuning.objectives", only, bound, f"say training.metric={only}")
    return Objectives(dict(directions), {name: dict(bounds) for name, bounds in tuning.constraints.items()})


def pruned_best(trials: Iterable[FrozenTrial], mode: str) -> FrozenTrial | None:
    """Return the best of the trials that were stopped, where none has finished."""
    sign = 1 if mode == "max" else -1
    stopped = (trial for trial in trials if trial.state == TrialState.PRUNED and trial.values)
    return max(stopped, key=lambda trial: sign * trial.values[0], default=None)

"""The sampler and the scheduler of a search, from their yamls."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from hydra.utils import get_class
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler
from ray import tune
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

from conf.component import make
from conf.errors import BadInput
from conf.schema import Component, TrainConfig
from jobs.training.epoch import OBJECTIVE, SAMPLES
from jobs.tuning.grammar import Dimension
from jobs.tuning.objectives import Objectives
from jobs.tuning.population import Population
from jobs.tuning.space import parsed

WARM_START = "warm_start"
RESAMPLES = ("model", "seed")  # keys that cannot change while a network trains


def make_sampler(cfg: TrainConfig, dimensions: Mapping[str, Dimension], goals: Objectives) -> BaseSampler:
    """Return Optuna's sampler of `searcher`; raises BadInput for what it cannot search."""
    component = {key: value for key, value in cfg.searcher.items() if key != WARM_START}
    kind, name = _class("searcher", component), str(component.get("_target_")).rpartition(".")[2]
    given: dict[str, Any] = {}
    if issubclass(kind, GridSampler):
        given["search_space"] = _grid(dimensions)
    if goals.several and issubclass(kind, CmaEsSampler):
        raise BadInput("tuning.objectives", str(list(goals.directions)), f"are several for {name}", "say searcher=tpe")
    if goals.constraints:
        if "constraints_func" not in inspect.signature(kind).parameters:
            raise BadInput(
                "tuning.constraints", str(dict(goals.constraints)), f"are not for {name}", "say searcher=tpe"
            )
        given["constraints_func"] = goals.violations
    warnings.filterwarnings("ignore", "Clip non-finite values")  # GP says so at each suggestion
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's groups, GP
        warnings.simplefilter("ignore", FutureWarning)  # constraints_func: its successor is for objective functions
        return make("searcher", {**component, "_convert_": "all"}, BaseSampler, **given)  # type: ignore[type-abstract]


def _class(group: str, component: Component) -> type:
    try:
        return get_class(str(component.get("_target_")))
    except Exception as error:
        raise BadInput(f"{group}._target_", component.get("_target_"), "is no class", f"see conf/{group}") from error


def _grid(dimensions: Mapping[str, Dimension]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, dimension in dimensions.items():
        if not dimension.values():
            remedy = "write choice(...) or range(...), or take another searcher"
            raise BadInput(key, dimension.said or None, "is an interval, which no grid enumerates", remedy)
        found[key] = list(dimension.choices or map(dimension.number, dimension.values()))
    return found


def make_scheduler(cfg: TrainConfig, rows: int, dimensions: Mapping[str, Dimension], mode: str) -> TrialScheduler:
    """Return Ray Tune's scheduler of `scheduler`; rows: of the train part. Raises BadInput."""
    component = dict(cfg.scheduler)
    kind = _class("scheduler", component)
    if "max_t" in component and component["max_t"] is None:
        component["max_t"] = cfg.training.epochs * (rows if component.get("time_attr") == SAMPLES else 1)
    given: dict[str, Any] = {}
    if issubclass(kind, PopulationBasedTraining):
        if not issubclass(kind, Population):
            raise BadInput("scheduler._target_", component["_target_"], "takes no searcher", "say scheduler=pbt")
        given = {"hyperparam_mutations": {"values": _mutations(dimensions)}, "custom_explore_fn": Bounds(dimensions)}
    scheduler = make("scheduler", {**component, "_convert_": "all"}, TrialScheduler, **given)
    scheduler.set_search_properties(OBJECTIVE, mode)
    return scheduler


def decides_anywhere(scheduler: TrialScheduler, rungs: tuple[int, ...]) -> bool:
    """Tell whether a scheduler may decide after any epoch."""
    return not rungs and type(scheduler) is not FIFOScheduler


def _mutations(dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return what population based training perturbs: every searched key that is not the network's own."""
    found: dict[str, Any] = {}
    for key, d in dimensions.items():
        if key.split(".")[0] in RESAMPLES or "." not in key:
            continue
        if d.values():
            found[key] = [parsed(key, value) for value in d.values()]
        else:
            found[key] = tune.loguniform(d.low, d.high) if d.log else tune.uniform(d.low, d.high)
    if not found:
        bound = "has nothing to perturb: a network cannot change while it trains"
        raise BadInput("scheduler", "pbt", bound, "search a key such as optimizer.lr")
    return found


class Bounds:
    """Keeps what population based training perturbs within its dimension."""

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        self._bounds = {key: (d.low, d.high, d.whole) for key, d in dimensions.items() if not d.choices}

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the config with its values clipped."""
        for key, value in config["values"].items():
            if key in self._bounds and isinstance(value, int | float):
                low, high, whole = self._bounds[key]
                clipped = min(max(value, low), high)
                config["values"][key] = math.floor(clipped) if whole else clipped
        return config

"""A search space: suggests the overrides of one trial; a key that exists only under some choices is conditional."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import optuna

from conf.compose import compose, to_yaml
from conf.errors import BadInput, nearest
from conf.help import CONF, groups
from conf.schema import TrainConfig
from jobs.tuning.sweep import Dimension

MOST_CHECKED = 64  # combinations of group choices composed before the search begins


class Space:
    """Dimensions over the configs that `fixed` overrides compose to."""

    def __init__(self, entrypoint: str, fixed: tuple[str, ...], dimensions: Mapping[str, Dimension]) -> None:
        """Check that each dimension is a key under some choice; raises BadInput otherwise."""
        self._entrypoint, self._fixed = entrypoint, fixed
        known = groups([CONF])
        self._groups = {key: d for key, d in dimensions.items() if key in known or key.split("@")[0] in known}
        self._values = {key: d for key, d in dimensions.items() if key not in self._groups}
        self._composed: dict[tuple[str, ...], TrainConfig] = {}
        for key in dimensions:
            if key.split(".")[0] in ("dataset", "split", "cluster", "tracking"):
                raise BadInput(key, None, "cannot be searched: a search has one data set", "write a comma list instead")
        options = [[f"{key}={choice}" for choice in d.choices] for key, d in self._groups.items()]
        seen = [
            self._config(combination) for combination in itertools.islice(itertools.product(*options), MOST_CHECKED)
        ]
        for key in self._values:
            if not any(has_key(cfg, key) for cfg in seen):
                keys = sorted({name for cfg in seen for name in _siblings(cfg, key)})
                raise BadInput(key, None, "is not a config key", nearest(key.rpartition(".")[2], keys))

    def sample(self, trial: optuna.Trial) -> tuple[str, ...]:
        """Return a trial's overrides: the groups' choices first, then the keys that exist under them."""
        chosen = tuple(_suggest(trial, d) for d in self._groups.values())
        config = self._config(chosen)
        return *chosen, *(_suggest(trial, d) for key, d in self._values.items() if has_key(config, key))

    def compose(self, overrides: tuple[str, ...]) -> TrainConfig:
        """Return the whole config of a trial."""
        return compose(self._entrypoint, [*self._fixed, *overrides], TrainConfig)

    def written(self, overrides: tuple[str, ...]) -> str:
        """Return the whole config of a trial as text, for its actor."""
        return to_yaml(self.compose(overrides))

    def _config(self, chosen: tuple[str, ...]) -> TrainConfig:
        if chosen not in self._composed:
            self._composed[chosen] = self.compose(chosen)
        return self._composed[chosen]


def _suggest(trial: optuna.Trial, dimension: Dimension) -> str:
    key, step = dimension.key, dimension.step
    if dimension.choices:
        return f"{key}={trial.suggest_categorical(key, dimension.choices)}"
    if dimension.whole:
        low, high = int(dimension.low), int(dimension.high)
        return f"{key}={trial.suggest_int(key, low, high, step=int(step or 1), log=dimension.log)}"
    value = trial.suggest_float(key, dimension.low, dimension.high, step=step, log=dimension.log)
    return f"{key}={value!r}"


def has_key(config: object, key: str) -> bool:
    """Tell whether a dotted key is there in a config of dataclasses and mappings."""
    for part in key.split("."):
        if isinstance(config, dict):
            if part not in config:
                return False
            config = config[part]
        elif is_dataclass(config) and any(item.name == part for item in fields(config)):
            config = getattr(config, part)
        else:
            return False
    return True


def _siblings(config: object, key: str) -> list[str]:
    """Return the names beside a key, as far as its parents are there."""
    for part in key.split(".")[:-1]:
        if not has_key(config, part):
            break
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    if isinstance(config, dict):
        return [str(name) for name in config if name != "_target_"]
    return [item.name for item in fields(config)] if is_dataclass(config) else []

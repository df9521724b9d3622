"""A search space: suggests the overrides of one trial; a key that exists only under some choices is conditional."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from optuna.trial import BaseTrial

from conf.compose import compose, typed, unresolved
from conf.errors import BadInput, nearest
from conf.help import CONF, groups
from conf.schema import TrainConfig
from jobs.tuning.grammar import Dimension, parser

UNSEARCHED = ("dataset", "split", "cluster", "tracking", "tuning", "searcher", "scheduler", "scaling")
MOST_CHECKED = 64  # combinations of group choices composed before the search begins


class Space:
    """Dimensions over the configs that `fixed` overrides compose to."""

    def __init__(self, entrypoint: str, fixed: tuple[str, ...], dimensions: Mapping[str, Dimension]) -> None:
        """Check that each dimension is a key under some choice, and its values are allowed; raises BadInput else."""
        self._entrypoint, self._fixed, self.dimensions = entrypoint, fixed, dict(dimensions)
        known = groups([CONF])
        self._groups = {key: d for key, d in dimensions.items() if key in known or key.split("@")[0] in known}
        others = sorted((d for key, d in dimensions.items() if key not in self._groups), key=lambda d: len(d.when))
        self._values = {d.key: d for d in others}
        self._bases: dict[tuple[str, ...], str] = {}
        self._configs: dict[tuple[str, ...], TrainConfig] = {}
        for key in dimensions:
            if key.split(".")[0] in UNSEARCHED:
                raise BadInput(key, None, "cannot be searched: a search has one data set", "write a comma list instead")
        options = [[f"{key}={choice}" for choice in d.choices] for key, d in self._groups.items()]
        seen = list(itertools.islice(itertools.product(*options), MOST_CHECKED))
        for option in {option for of_group in options for option in of_group}:  # what is fixed must exist under each
            self._config(next(chosen for chosen in seen if option in chosen))
        for d in self._values.values():
            self._check(d, seen)

    def _check(self, d: Dimension, seen: list[tuple[str, ...]]) -> None:
        having = next((chosen for chosen in seen if has_key(self._config(chosen), d.key)), None)
        if having is None:
            keys = sorted({name for chosen in seen for name in _siblings(self._config(chosen), d.key)})
            raise BadInput(d.key, None, "is not a config key", nearest(d.key.rpartition(".")[2], keys))
        for end in d.ends():
            with_values(self.base(having), {d.key: parsed(d.key, end)})

    def sample(self, trial: BaseTrial) -> tuple[str, ...]:
        """Return a trial's overrides: the groups' choices first, then the keys that exist under them."""
        said = {key: _suggest(trial, d) for key, d in self._groups.items()}
        config = self._config(self.chosen(said))
        for key, d in self._values.items():
            if has_key(config, key) and all(said.get(other) in wanted for other, wanted in d.when):
                said[key] = _suggest(trial, d)
        return tuple(f"{key}={value}" for key, value in said.items())

    def chosen(self, said: Mapping[str, str]) -> tuple[str, ...]:
        """Return the overrides that choose groups; `base` is composed from them."""
        return tuple(f"{key}={said[key]}" for key in self._groups)

    def compose(self, overrides: tuple[str, ...]) -> TrainConfig:
        """Return the whole config of a trial, as jobs.train would compose it."""
        return compose(self._entrypoint, [*self._fixed, *overrides], TrainConfig)

    def base(self, chosen: tuple[str, ...]) -> str:
        """Return the config under some groups' choices as yaml, its references between keys unresolved."""
        if chosen not in self._bases:
            self._bases[chosen] = unresolved(self._entrypoint, [*self._fixed, *chosen])
        return self._bases[chosen]

    def _config(self, chosen: tuple[str, ...]) -> TrainConfig:
        if chosen not in self._configs:
            self._configs[chosen] = self.compose(chosen)
        return self._configs[chosen]


@functools.cache
def _structured(base: str) -> DictConfig:
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(TrainConfig), OmegaConf.create(base)))


def with_values(base: str, values: Mapping[str, object]) -> TrainConfig:
    """Return the config of `Space.base` with values set: what Hydra would compose, at a hundredth of its time.

    Raises BadInput for a value out of its bounds.
    """
    config = copy.deepcopy(_structured(base))
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    return typed(config, list(config.overrides), TrainConfig)


@functools.cache
def _parser() -> OverridesParser:
    return parser()


@functools.lru_cache(4096)
def parsed(key: str, written: str) -> object:
    """Return the value of an override as written."""
    value = _parser().parse_override(f"{key}={written}").value()
    return value.text if isinstance(value, QuotedString) else value


def written_as(value: Any) -> str:
    """Return a value as it is written in an override."""
    return str(Override._get_value_element_as_str(_quoted(value)))


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_quoted(inner) for inner in value]
    return QuotedString(value, Quote.single) if isinstance(value, str) else value


def _suggest(trial: BaseTrial, dimension: Dimension) -> str:
    key, step = dimension.key, dimension.step
    if dimension.choices:
        return str(trial.suggest_categorical(key, dimension.choices))
    if dimension.whole:
        low, high = int(dimension.low), int(dimension.high)
        return str(trial.suggest_int(key, low, high, step=int(step or 1), log=dimension.log))
    value = trial.suggest_float(key, dimension.low, dimension.high, step=step, log=dimension.log)
    return repr(value) if step is None else dimension.values()[round((value - dimension.low) / step)]


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

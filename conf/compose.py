"""From overrides to a checked, typed config: the only way a config comes into being."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import fields
from typing import TypeVar, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from conf.bounds import check_bounds
from conf.errors import BadInput, nearest
from conf.schema import Column, DeployConfig, Ground, PipelineConfig, TrainConfig

C = TypeVar("C", bound=Ground)


def typed(config: DictConfig, overrides: list[str], expected: type[C]) -> C:
    """Return the composed config as its dataclass, bounds checked.

    Raises BadInput for a value out of range and omegaconf's MissingMandatoryValue for a `???` left open.
    """
    known = {item.name for item in fields(expected)}
    for key in config:
        if key not in known:  # reached by +key=value
            raise BadInput(str(key), None, "is not a key here", nearest(str(key), known - {"overrides"}))
    result = OmegaConf.to_object(config)
    if not isinstance(result, expected):
        raise TypeError(f"composed {type(result).__name__}, expected {expected.__name__}")
    result.overrides = list(overrides)
    if isinstance(result, TrainConfig):
        result.dataset.columns = {name: _column(name, said) for name, said in result.dataset.columns.items()}
        for key in ("objectives", "constraints"):  # OmegaConf would let no command line name a metric
            said = getattr(result.tuning, key) or {}
            if not isinstance(said, dict):
                raise BadInput(f"tuning.{key}", str(said), "is not a mapping", "say {metric: ...}")
            setattr(result.tuning, key, said)
    if isinstance(result, DeployConfig | PipelineConfig):
        weights = result.traffic.weights
        result.traffic.weights = {alias: weight for alias, weight in weights.items() if weight != 0}
    check_bounds(result)
    return result


def _column(name: str, said: object) -> Column:
    """Type one entry of dataset.columns (OmegaConf cannot add a key to a mapping of dataclasses)."""
    allowed = [item.name for item in fields(Column)]
    if not isinstance(said, dict):
        raise BadInput(f"dataset.columns.{name}", str(said), "is not a mapping", f"give {{key: value}} of {allowed}")
    for key in said:
        if key not in allowed:
            raise BadInput(f"dataset.columns.{name}.{key}", None, "is not a key here", nearest(str(key), allowed))
    return Column(**said)


def compose(entrypoint: str, overrides: list[str], expected: type[C]) -> C:
    """Compose `conf/<entrypoint>.yaml` with these overrides, in the search path of the running entrypoint.

    Used where one command needs many configs (a trial, a cell of a grid, a step of the pipeline, a repeated run), and
    from Python.
    """
    return typed(_composed(entrypoint, overrides), overrides, expected)


def unresolved(entrypoint: str, overrides: list[str]) -> str:
    """Return the composed config as yaml, with its references between keys as they stand in the files."""
    return OmegaConf.to_yaml(_composed(entrypoint, overrides))


def _composed(entrypoint: str, overrides: list[str]) -> DictConfig:
    """Compose in the search path of the running entrypoint, or in ours where none is running."""
    if GlobalHydra.instance().is_initialized():
        return hydra_compose(entrypoint, overrides)
    from conf import store

    store.register()
    with initialize_config_module("conf", version_base="1.3"):
        return hydra_compose(entrypoint, overrides)


def from_yaml(text: str, expected: type[C]) -> C:
    """Return the config that `to_yaml` wrote: a run repeated as it was, whatever the yaml files say today."""
    written = OmegaConf.create(text)
    if not isinstance(written, DictConfig):
        raise TypeError("a config is a mapping")
    config = OmegaConf.merge(OmegaConf.structured(expected), written)
    return typed(cast(DictConfig, config), list(config.overrides), expected)


def flat(cfg: Ground, leave_out: Container[str]) -> dict[str, object]:
    """Return dotted key -> value; a key that is left out takes all below it along."""

    def walk(config: DictConfig, prefix: str) -> Iterator[tuple[str, object]]:
        for key, value in config.items():
            name = prefix + str(key)
            if name in leave_out:
                continue
            if isinstance(value, DictConfig):
                yield from walk(value, f"{name}.")
            else:
                yield name, value

    return dict(walk(cast(DictConfig, OmegaConf.create(to_yaml(cfg))), ""))


def to_yaml(cfg: Ground) -> str:
    """Return the whole config, defaults included."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))

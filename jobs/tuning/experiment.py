"""The winner of a search as a ready `conf/experiment/*.yaml`: the same config as its overrides, to keep and to edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from conf.errors import BadInput
from conf.help import CONF, groups
from conf.schema import TrainConfig
from jobs.tuning.grammar import parser

_SEARCHED = ("tuning", "searcher", "scheduler", "search_space", "cluster", "tracking")  # how and where
LEFT_OUT = (*_SEARCHED, "tuned", "reproduce", "resume", "replay", "hydra", "overrides")
LOST = "\x85\u2028\u2029"  # PyYAML writes these as they are and reads them as spaces
_TOP = ("# @package _global_", "# What a search found: python -m jobs.train experiment=<the name of this file>")


def experiment_yaml(overrides: Sequence[str], about: str) -> str:
    """Return the text of an experiment's yaml; overrides as in the shell, later ones win; about: its comment.

    Raises BadInput for what a yaml cannot say: a value taken away, or more than one value for a key.
    """
    inherited: list[object] = []
    added: dict[str, object] = {}
    chosen: dict[str, object] = {}
    values = OmegaConf.create({})
    for override in parser().parse_overrides(list(overrides)):
        key = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        if override.key_or_group.replace("/", ".").split(".")[0] in LEFT_OUT:
            continue
        if override.is_sweep_override():
            raise _unsaid(override, "is more than one value", "give one of them")
        if not _is_group(override):
            _set(values, override)
        elif key == "experiment":
            said = override.value()
            inherited = said if isinstance(said, list) else [said]
        else:
            (added if override.is_add() else chosen)[key] = None if override.is_delete() else override.value()
    defaults = [*inherited, *({f"/{key}": option} for key, option in added.items()), "_self_"]
    defaults += [{f"override /{key}": option} for key, option in chosen.items()]  # Hydra wants them last
    said_about = ["# " + "".join(c if c.isprintable() else " " for c in line) for line in about.splitlines()]
    parts = [OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults})), OmegaConf.to_yaml(values) if values else ""]
    return "\n".join([*_TOP, *said_about, *(part for part in parts if part)])


def _is_group(override: Override) -> bool:
    """Tell a choice of an option from a value, as Hydra does: a mapping is a value, also of a group's name."""
    key = override.key_or_group
    if isinstance(override.value(), dict):
        return False
    if override.package is not None or "/" in key or key in groups([CONF]):
        return True
    return override.is_add() and "." not in key and key not in {item.name for item in fields(TrainConfig)}


def _set(values: DictConfig, override: Override) -> None:
    """Set a value among those before it, as Hydra does; raises BadInput where merging two yamls would differ."""
    if override.is_delete():
        raise _unsaid(override, "takes a key away, which a yaml cannot say", "set it to a value instead")
    if not set(str(override.input_line)).isdisjoint(LOST):
        raise _unsaid(override, "has a line end that a yaml does not keep", "leave it out")
    key, value = override.key_or_group, override.value()
    parts, node = key.split("."), OmegaConf.to_container(values, resolve=False)
    for i, part in enumerate([*parts, ""] if isinstance(value, dict) else parts):
        if not isinstance(node, dict | list):  # said before, as null or as one value
            raise _unsaid(override, "puts a mapping for a value, which a yaml cannot say", "say the mapping alone")
        if part.isdecimal() and isinstance(node, dict) and parts[:i] != ["dataset", "columns"]:
            raise _unsaid(override, "is one item of a list, which a yaml cannot say", "say the whole list")
        if i < len(parts):
            node = node[int(part)] if isinstance(node, list) else node.get(part, {})
    OmegaConf.update(values, key, value, merge=True, force_add=True)


def _unsaid(override: Override, bound: str, remedy: str) -> BadInput:
    return BadInput(str(override.input_line), None, bound, remedy)

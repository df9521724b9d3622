"""Hydra's and OmegaConf's errors, said in one sentence: which key, what was given, what is allowed."""

from __future__ import annotations

import re

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from conf.errors import BadInput, nearest
from conf.help import CONF, groups

_TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false", "": "a value of its own type"}
_NOT_SAID = ("hydra", "overrides", "_target_")


def as_bad_input(error: BaseException) -> BadInput | None:
    """Return the sentence for an error of Hydra or OmegaConf (causes looked through), or None for any other."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for telling in (BadInput, OverrideParseException, OmegaConfBaseException, HydraException):
        for item in chain:
            if isinstance(item, telling):
                return item if isinstance(item, BadInput) else _said(item)
    return None


def _said(error: Exception) -> BadInput:
    text = _first_line(str(error))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return BadInput(group or "config", option, "is not an option", nearest(option, error.options or []))
    if isinstance(error, OverrideParseException):
        remedy = "write key=value; quote a value that has spaces, commas or brackets: key=\"'a > b'\""
        return BadInput("override", error.override, f"cannot be parsed ({_first_line(error.message)})", remedy)
    if isinstance(error, MissingMandatoryValue):
        key = str(error.full_key or re.sub(r".*: ", "", text))
        return BadInput(key, None, "is not given", f"add {key}=...")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(error)
    if isinstance(error, ValidationError):
        wanted = _TYPES[next((word for word in _TYPES if word in text), "")]
        return BadInput(str(error.full_key), error.value, "has the wrong type", f"give {wanted}")
    if isinstance(error, ConfigCompositionException) and (match := re.search(r"Could not override '([^']+)'", text)):
        word = match[1].split("@")[0]
        return BadInput(word, None, "is not a group or key", nearest(word, groups([CONF])))
    kind = "component" if isinstance(error, InstantiationException) else "config"
    return BadInput(kind, None, f"cannot be used: {text}", "see --help for keys and options")


def _unknown_key(error: ConfigKeyError | ConfigAttributeError) -> BadInput:
    key, parent = str(error.full_key or error.key), error.parent_node
    siblings = [str(name) for name in parent if name not in _NOT_SAID] if isinstance(parent, DictConfig) else []
    remedy = nearest(str(error.key), siblings)
    if isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is dict and "_target_" not in parent:
        remedy += f", or add it with '+{key}={{...}}'"
    return BadInput(key, None, "is not a key here", remedy)


def _first_line(text: str) -> str:
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "no detail given")

"""Hydra's sweep grammar as dimensions to search: the same strings in the shell, in yaml and in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from conf.errors import BadInput

WHEN = "when"  # key of a search_space's conditional dimensions
Condition = tuple[str, tuple[str, ...]]  # key, and the values under which a dimension exists


@dataclass(frozen=True)
class Dimension:
    """One searched key: of choices (as written in an override), or of numbers from low to high, both included."""

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: tuple[Condition, ...] = ()
    said: str = field(default="", compare=False)

    def values(self) -> tuple[str, ...]:
        """Return the values it can take, as written; none for an interval."""
        if self.choices or self.step is None:
            return self.choices
        count, low, step = round((self.high - self.low) / self.step) + 1, _exact(self.low), _exact(self.step)
        return tuple(self.written(float(low + i * step)) for i in range(count))

    def number(self, written: str) -> float:
        """Return a number of this dimension from how it is written."""
        return int(written) if self.whole else float(written)

    def written(self, value: float) -> str:
        """Return a number of this dimension as it is written in an override."""
        return str(int(value)) if self.whole else repr(float(value))

    def ends(self) -> tuple[str, ...]:
        """Return the values that bounds of a config must allow: all choices, or the lowest and the highest."""
        return self.choices or (self.written(self.low), self.written(self.high))


def _exact(value: float) -> Decimal:
    """Return a number as it is written: three times 0.1 is 0.3, as in Hydra's own ranges."""
    return Decimal(repr(value))


def parser(loader: ConfigLoader | None = None) -> OverridesParser:
    """Return Hydra's parser with casts that keep the tags of what they cast (Hydra's own drop them).

    loader: where globs look for options; none: the running entrypoint's.
    """
    running = GlobalHydra.instance().hydra
    made = OverridesParser.create(config_loader=loader or (running.config_loader if running else None))
    for name in ("int", "float", "str", "bool"):
        made.functions.functions[name] = _keeping_tags(made.functions.functions[name])
    return made


def _keeping_tags(cast: Callable[..., Any]) -> Callable[..., Any]:
    def kept(*given: Any, value: Any = None) -> Any:
        source = given[0] if len(given) == 1 else value
        if isinstance(source, IntervalSweep) and cast.__name__ == "cast_int":
            low, high = math.ceil(source.start or 0), math.floor(source.end or 0)
            return IntervalSweep(start=low, end=high, tags=set(source.tags))
        made = cast(*given, value=value)
        if isinstance(made, Sweep) and isinstance(source, Sweep):
            made.tags = set(source.tags)
        return made

    return kept


def parse_space(space: Mapping[str, object], loader: ConfigLoader | None = None) -> dict[str, Dimension]:
    """Return the dimensions of a search_space: key -> sweep, and `when`: {"key=value,value": {key -> sweep}}.

    Raises BadInput for a string that holds nothing to search and for a condition that can never hold.
    """
    found = {key: _parsed(key, said, loader) for key, said in space.items() if key != WHEN}
    for written, inner in _conditional(space.get(WHEN) or {}).items():
        condition = _condition(written, found)
        for key, said in inner.items():
            if key in found:
                raise BadInput(f"search_space.{WHEN}.{written}.{key}", None, "is searched already", "say it once")
            found[key] = replace(_parsed(key, said, loader), when=(condition,))
    return found


def _conditional(said: object) -> dict[str, dict[str, object]]:
    if not isinstance(said, dict) or not all(isinstance(inner, dict) for inner in said.values()):
        remedy = 'write when: {"optimizer=sgd": {optimizer.momentum: "interval(0, 0.99)"}}'
        raise BadInput(f"search_space.{WHEN}", str(said), "is not a mapping of conditions to dimensions", remedy)
    return said


def _condition(written: str, known: Mapping[str, Dimension]) -> Condition:
    key, _, values = written.partition("=")
    wanted, where = tuple(value.strip() for value in values.split(",")), f"search_space.{WHEN}"
    if key not in known:
        raise BadInput(where, written, f"{key} is not searched", f"name one of {', '.join(known)}")
    possible = known[key].values()
    if not possible:
        raise BadInput(where, written, f"{key} is an interval, which meets no single value", "use choice or range")
    for value in wanted:
        if value not in possible:
            raise BadInput(where, written, f"{key} is never {value!r}", f"it is one of {', '.join(possible)}")
    return key, wanted


def _parsed(key: str, said: object, loader: ConfigLoader | None) -> Dimension:
    try:
        override = parser(loader).parse_overrides([f"{key}={said}"])[0]
    except HydraException as error:
        why = str(error).splitlines()[0]
        bound = f"cannot be read ({why})"
        raise BadInput(f"search_space.{key}", str(said), bound, "see Hydra's override grammar") from error
    if not override.is_sweep_override():
        remedy = "write choice(...), range(...) or interval(...), or set it as an override"
        raise BadInput(f"search_space.{key}", str(said), "is one value, nothing to search", remedy)
    return dimension(override)


def values(override: Override) -> tuple[str, ...]:
    """Return the values of a discrete sweep as written; raises BadInput for none."""
    key, said = override.get_key_element(), str(override.input_line)
    if isinstance(sweep := override.value(), RangeSweep) and not sweep.step:
        raise BadInput(key, said, "has a step of 0", "give another step")
    try:
        found = tuple(override.sweep_string_iterator())
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(key, said, "cannot be enumerated", "see Hydra's override grammar") from error
    if not found:
        raise BadInput(key, said, "is empty", "give at least one value")
    return found


def _once(override: Override) -> tuple[str, ...]:
    """Return the values of a discrete sweep, each once."""
    return tuple(dict.fromkeys(values(override)))


def dimension(override: Override) -> Dimension:
    """Return the dimension of a sweep override; raises BadInput for an empty one or a logarithm of zero.

    A search draws values in its own order: a shuffle has no meaning, and would make it another search each time.
    """
    if isinstance(sweep := override.value(), ChoiceSweep | RangeSweep) and sweep.shuffle:
        override = replace(override, _value=replace(sweep, shuffle=False))
    return replace(_dimension(override), said=str(override.input_line).partition("=")[2])


def _dimension(override: Override) -> Dimension:
    key, sweep, said = override.get_key_element(), override.value(), str(override.input_line)
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        if sweep.start is None or sweep.end is None:
            raise BadInput(key, said, "has no bounds", "write interval(low, high)")
        made = Dimension(key, (), sweep.start, sweep.end, None, log, whole=isinstance(sweep.start, int))
    elif isinstance(sweep, RangeSweep) and sweep.step and len(numbers := list(sweep.range())) > 1:
        whole = all(isinstance(number, int) for number in numbers)
        if log and (not whole or abs(sweep.step) != 1):
            return Dimension(key, _once(override))  # a logarithmic scale has no equal steps
        start, step = _exact(float(sweep.start or 0)), _exact(float(sweep.step))
        low, high = sorted((start, start + (len(numbers) - 1) * step))
        made = Dimension(key, (), float(low), float(high), abs(float(step)), log, whole)
    else:
        return Dimension(key, _once(override))
    if made.low >= made.high and not (made.whole and made.low == made.high):
        bound = f"is empty: from {made.low:g} to {made.high:g}"
        raise BadInput(key, said, bound, "give a lower bound below the upper one")
    if log and made.low <= 0:
        raise BadInput(key, said, f"has no logarithm at {made.low:g}", "start above 0, or leave out tag(log, ...)")
    return made

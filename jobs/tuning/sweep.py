"""What a list of Hydra overrides asks for: fixed values, replicates, a grid, and dimensions to search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from conf.errors import BadInput

REPLICATED = ("seed", "fold")


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


@dataclass(frozen=True)
class Plan:
    """fixed: overrides as said; grid and replicates: key -> values; searched: key -> dimension."""

    fixed: tuple[str, ...] = ()
    grid: dict[str, tuple[str, ...]] = field(default_factory=dict)
    replicates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    searched: dict[str, Dimension] = field(default_factory=dict)

    def cells(self) -> list[tuple[str, ...]]:
        """Return the overrides of each cell of the grid, in the order said; one empty cell without a grid."""
        return _product(self.grid)

    def seeds(self) -> list[tuple[str, ...]]:
        """Return the overrides of each replicate; one empty one without any."""
        return _product(self.replicates)


def _product(values: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    return list(itertools.product(*([f"{key}={value}" for value in of_key] for key, of_key in values.items())))


def plan(arguments: Iterable[str], searching: bool, loader: ConfigLoader | None = None) -> Plan:
    """Classify overrides. Later ones replace earlier ones of the same key.

    Comma lists over seed or fold are replicates, other comma lists a grid. `interval` is searched; `choice`,
    `range` and `glob` are searched where `searching` (jobs.tune), enumerated otherwise (-m). A seed is never searched.
    """
    parser = OverridesParser.create(config_loader=loader)
    fixed: dict[str, str] = {}
    grid: dict[str, tuple[str, ...]] = {}
    replicates: dict[str, tuple[str, ...]] = {}
    searched: dict[str, Dimension] = {}
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        for known in (fixed, grid, replicates, searched):
            known.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
        elif override.is_discrete_sweep() and key in REPLICATED:
            replicates[key] = _values(override)
        elif _searched(override, searching):
            searched[key] = dimension(override)
        else:
            grid[key] = _values(override)
    return Plan(tuple(fixed.values()), grid, replicates, searched)


def parse_space(space: Mapping[str, object], loader: ConfigLoader | None = None) -> dict[str, Dimension]:
    """Return the dimensions of a search_space yaml; every string in it is searched."""
    parser = OverridesParser.create(config_loader=loader)
    found = {}
    for key, said in space.items():
        override = parser.parse_overrides([f"{key}={said}"])[0]
        if not override.is_sweep_override():
            remedy = "write choice(...), range(...) or interval(...), or set it as an override"
            raise BadInput(f"search_space.{key}", str(said), "is one value, nothing to search", remedy)
        found[key] = dimension(override)
    return found


def _searched(override: Override, searching: bool) -> bool:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return True
    return searching and not (isinstance(sweep, ChoiceSweep) and sweep.simple_form)


def _values(override: Override) -> tuple[str, ...]:
    values = tuple(override.sweep_string_iterator())
    if not values:
        raise BadInput(override.get_key_element(), str(override.input_line), "is empty", "give at least one value")
    return values


def dimension(override: Override) -> Dimension:
    """Return the dimension of a sweep override; raises BadInput for an empty one or a logarithm of zero."""
    key, sweep = override.get_key_element(), override.value()
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        if sweep.start is None or sweep.end is None:
            raise BadInput(key, str(override.input_line), "has no bounds", "write interval(low, high)")
        made = Dimension(key, (), sweep.start, sweep.end, None, log, whole=isinstance(sweep.start, int))
    elif isinstance(sweep, RangeSweep) and not sweep.shuffle and (values := list(sweep.range())):
        whole = all(isinstance(value, int) for value in values)
        step = None if log else float(sweep.step)
        made = Dimension(key, (), float(min(values)), float(max(values)), step and abs(step), log, whole)
        if len(values) == 1:
            return Dimension(key, _values(override))
    else:
        return Dimension(key, _values(override))
    if made.low >= made.high:
        bound = f"is empty: from {made.low:g} to {made.high:g}"
        raise BadInput(key, str(override.input_line), bound, "give a lower bound below the upper one")
    if log and made.low <= 0:
        bound = f"has no logarithm at {made.low:g}"
        raise BadInput(key, str(override.input_line), bound, "start above 0, or leave out tag(log, ...)")
    return made

"""What a list of Hydra overrides asks for: fixed values, replicates, a grid, and dimensions to search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override

from jobs.tuning.grammar import Dimension, dimension, parser, values

REPLICATED = ("seed", "fold")


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

    def keys(self) -> set[str]:
        """Return every key that was said."""
        fixed = {override.lstrip("+~").split("=", 1)[0] for override in self.fixed}
        return fixed | {*self.grid, *self.replicates, *self.searched}

    def seeds(self) -> list[tuple[str, ...]]:
        """Return the overrides of each replicate; one empty one without any."""
        return _product(self.replicates)


def _product(said: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    return list(itertools.product(*([f"{key}={value}" for value in of_key] for key, of_key in said.items())))


def plan(arguments: Iterable[str], searching: bool, loader: ConfigLoader | None = None) -> Plan:
    """Classify overrides. Later ones replace earlier ones of the same key.

    Comma lists over seed or fold are replicates, other comma lists a grid. `interval` is searched; `choice`,
    `range` and `glob` are searched where `searching` (jobs.tune), enumerated otherwise (-m). A seed is never searched.
    """
    fixed: dict[str, str] = {}
    grid: dict[str, tuple[str, ...]] = {}
    replicates: dict[str, tuple[str, ...]] = {}
    searched: dict[str, Dimension] = {}
    for override in parser(loader).parse_overrides(list(arguments)):
        key = override.get_key_element()
        for known in (fixed, grid, replicates, searched):
            known.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
        elif override.is_discrete_sweep() and key in REPLICATED:
            replicates[key] = values(override)
        elif _searched(override, searching):
            searched[key] = dimension(override)
        else:
            grid[key] = values(override)
    return Plan(tuple(fixed.values()), grid, replicates, searched)


def _searched(override: Override, searching: bool) -> bool:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return True
    return searching and not (isinstance(sweep, ChoiceSweep) and sweep.simple_form)

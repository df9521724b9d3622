"""What is asked of a search, in a module that imports little: it is checked before anything heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.tuning.grammar import Dimension
from jobs.tuning.space import Space

ASKED = "search.json"  # artifact: what was asked for, to go on with


@dataclass(frozen=True)
class Search:
    """What is searched. cfg: composed from `fixed` by `entrypoint`; replicates: overrides of each seed or fold.

    run: the id of the search to go on with; none: a new one.
    """

    cfg: TrainConfig
    dimensions: Mapping[str, Dimension]
    replicates: tuple[tuple[str, ...], ...] = ((),)
    entrypoint: str = "train"
    run: str | None = None

    @cached_property
    def space(self) -> Space:
        """Return the dimensions over the config; raises BadInput for one that is no key, and for none at all."""
        if not self.dimensions:
            remedy = "add search_space=mlp, or a dimension such as optimizer.lr='tag(log, interval(1e-4, 1e-1))'"
            raise BadInput("search_space", None, "leaves nothing to search", remedy)
        return Space(self.entrypoint, tuple(self.cfg.overrides), self.dimensions)

    def to_json(self) -> str:
        """Return all but the config as JSON."""
        space = {key: vars(dimension) for key, dimension in self.dimensions.items()}
        said = {"fixed": self.cfg.overrides, "space": space, "replicates": self.replicates}
        return json.dumps({**said, "entrypoint": self.entrypoint}, indent=1)

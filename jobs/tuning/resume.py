"""Going on with a search: what was asked for then, and whether what is said now may change it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.tracking import Tracking
from conf.compose import compose, flat
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.tuning.grammar import Dimension
from jobs.tuning.searched import ASKED, Search
from jobs.tuning.sweep import Plan, plan

FREE = ("tuning", "cluster", "tracking", "searcher", "resume", "overrides", "search_space")  # trials stay comparable


def resumed(said: Plan, cfg: TrainConfig, tracking: Tracking) -> Search:
    """Return the search `cfg.resume` with what is said anew; raises BadInput, naming the keys, for what may not change.

    The stored overrides come first; only what is said anew is compared with them.
    """
    run = tracking.find(str(cfg.resume), "tune", cfg.name, finished=False)
    stored = json.loads(tracking.read_text(run, ASKED))
    dimensions = {key: _dimension(of_key) for key, of_key in stored["space"].items()}
    replicates = tuple(tuple(of_one) for of_one in stored["replicates"])
    changed = [key for key, d in said.searched.items() if dimensions.get(key) != d]
    changed += list(said.grid)
    if said.replicates and tuple(said.seeds()) != replicates:
        changed += list(said.replicates)
    anew = [override for override in said.fixed if not override.startswith("resume=")]
    entrypoint = stored["entrypoint"]
    then = compose(entrypoint, stored["fixed"], TrainConfig)
    now = compose(entrypoint, list(plan([*stored["fixed"], *anew], searching=True).fixed), TrainConfig)
    before, after = flat(then, FREE), flat(now, FREE)
    changed += [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        bound = f"began with other values of {', '.join(dict.fromkeys(changed))}"
        raise BadInput("resume", run, bound, "its trials could not be compared: leave them out or begin a new search")
    return Search(replace(now, cluster=cfg.cluster, tracking=cfg.tracking), dimensions, replicates, entrypoint, run)


def _dimension(stored: Mapping[str, Any]) -> Dimension:
    when = tuple((key, tuple(values)) for key, values in stored["when"])
    return Dimension(**{**stored, "choices": tuple(stored["choices"]), "when": when})

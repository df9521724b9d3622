"""Hydra's Sweeper over Ray: searches, grids and replicates, all at once where the cluster allows."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from conf.schema import TrainConfig


class SearchSweeper(Sweeper):
    """What `-m` and `python -m jobs.tune` run.

    run: dotted name of the function that makes one plain training run of a config (conf/store.py says which).
    """

    def __init__(self, run: str) -> None:
        self._run = run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives (called before sweep)."""
        self.hydra_context, self.config, self._task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Search where something is searched, else run each config of the grid; prints what came out."""
        from jobs.tuning.sweep import parse_space, plan

        assert self.config is not None, "Hydra calls setup first"
        assert self.hydra_context is not None, "Hydra calls setup first"
        HydraConfig.instance().set_config(self.config)
        entrypoint = str(self.config.hydra.job.config_name)
        searching = entrypoint == "tune"
        loader = self.hydra_context.config_loader
        asked = plan(arguments, searching, loader)
        if searching or asked.searched:
            from conf.compose import compose
            from jobs.tuning.search import Search, search

            for cell in asked.cells():
                cfg = compose(entrypoint, [*asked.fixed, *cell], TrainConfig)
                dimensions = {**parse_space(cfg.search_space, loader), **asked.searched}
                print(search(Search(cfg, dimensions, tuple(asked.seeds()), entrypoint)))
            return None
        from jobs.tuning.multirun import multirun

        overrides = [[*asked.fixed, *cell, *seed] for cell in asked.cells() for seed in asked.seeds()]
        for result in multirun(self._run, entrypoint, overrides):
            print(result)
        return None

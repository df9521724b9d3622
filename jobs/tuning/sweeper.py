"""Hydra's Sweeper over Ray: searches, grids and replicates, all at once where the cluster allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from conf.schema import TrainConfig

if TYPE_CHECKING:
    from jobs.tuning.sweep import Plan


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
        from conf.compose import compose
        from jobs.tuning.sweep import plan

        assert self.config is not None, "Hydra calls setup first"
        assert self.hydra_context is not None, "Hydra calls setup first"
        HydraConfig.instance().set_config(self.config)
        entrypoint = str(self.config.hydra.job.config_name)
        searching = entrypoint == "tune"
        asked = plan(arguments, searching, self.hydra_context.config_loader)
        if not searching and not asked.searched:
            from jobs.tuning.multirun import multirun

            overrides = [[*asked.fixed, *cell, *seed] for cell in asked.cells() for seed in asked.seeds()]
            for result in multirun(self._run, entrypoint, overrides):
                print(result)
            return
        configs = [compose(entrypoint, [*asked.fixed, *cell], TrainConfig) for cell in asked.cells()]
        for line in _answers(configs, asked, entrypoint):
            print(line)


def _answers(configs: list[TrainConfig], asked: Plan, entrypoint: str) -> Iterator[object]:
    """Yield what there is to print: of a replay, of a search resumed, or of one search for each cell of the grid."""
    from cluster import session
    from jobs.training.scaling import on_workers
    from jobs.tuning.grammar import parse_space
    from jobs.tuning.searched import Search

    first = configs[0]
    if first.replay is not None:
        from cluster.tracking import connect
        from jobs.tuning.replay import replay

        yield from replay(first, connect(first.tracking, first.cluster))
        return
    if first.resume is not None:
        from cluster.tracking import connect
        from jobs.tuning.resume import resumed
        from jobs.tuning.search import run_search

        yield run_search(resumed(asked, first, connect(first.tracking, first.cluster)))
        return
    for cfg in configs:
        search = Search(cfg, {**parse_space(cfg.search_space), **asked.searched}, tuple(asked.seeds()), entrypoint)
        if search.space and cfg.tuning.preview:  # the space is checked before anything heavy is imported
            from jobs.tuning.preview import preview

            yield from preview(search)
            continue
        session.begin(cfg.cluster, state_api=on_workers(cfg.scaling))  # while all that follows is imported
        from jobs.tuning.search import run_search

        yield run_search(search)

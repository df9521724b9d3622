"""Hydra's config store: one typed schema per entrypoint, and our sweeper's name."""

from __future__ import annotations

import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from conf.schema import (
    DeployConfig,
    EvaluateConfig,
    Ground,
    PipelineConfig,
    PromoteConfig,
    StatusConfig,
    StopConfig,
    TrafficConfig,
    TrainConfig,
)

PLUGINS = "hydra_plugins.rungway"
SCHEMAS: dict[str, type[Ground]] = {
    "train": TrainConfig,
    "tune": TrainConfig,
    "evaluate": EvaluateConfig,
    "promote": PromoteConfig,
    "traffic": TrafficConfig,
    "pipeline": PipelineConfig,
    "deploy": DeployConfig,
    "stop": StopConfig,
    "status": StatusConfig,
    "head": Ground,
}


def register() -> None:
    """Make `<entrypoint>_schema` and `hydra/sweeper: search` known to Hydra (may be called again)."""
    store = ConfigStore.instance()
    for entrypoint, schema in SCHEMAS.items():
        store.store(name=f"{entrypoint}_schema", node=schema)
    sweeper = {"_target_": f"{PLUGINS}.SearchSweeper", "run": "jobs.train.train"}
    store.store(group="hydra/sweeper", name="search", node=sweeper)


def register_sweeper(sweeper: type[Sweeper]) -> None:
    """Make a sweeper class known to Hydra, which takes plugins from the namespace hydra_plugins alone."""
    module = ModuleType(PLUGINS)
    setattr(module, sweeper.__name__, sweeper)
    sys.modules[PLUGINS] = module
    sweeper.__module__ = PLUGINS
    Plugins.instance().register(sweeper)  # first looks for installed plugins, hence before the next line
    sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))

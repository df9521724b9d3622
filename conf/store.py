"""Hydra's config store: one typed schema per entrypoint, and our sweeper's name."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from conf.schema import DeployConfig, EvaluateConfig, Ground, PipelineConfig, PromoteConfig, TrainConfig

SCHEMAS: dict[str, type[Ground]] = {
    "train": TrainConfig,
    "tune": TrainConfig,
    "evaluate": EvaluateConfig,
    "promote": PromoteConfig,
    "pipeline": PipelineConfig,
    "deploy": DeployConfig,
    "stop": Ground,
    "head": Ground,
}


def register() -> None:
    """Make `<entrypoint>_schema` and `hydra/sweeper: search` known to Hydra (may be called again)."""
    store = ConfigStore.instance()
    for entrypoint, schema in SCHEMAS.items():
        store.store(name=f"{entrypoint}_schema", node=schema)
    store.store(group="hydra/sweeper", name="search", node={"_target_": "jobs.tuning.sweeper.SearchSweeper"})

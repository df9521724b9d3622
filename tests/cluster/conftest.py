"""Two versions of a really trained model, registered in storage of their own."""

from dataclasses import dataclass
from pathlib import Path

import hydra
import pytest

from cluster.registry import Registry, Version
from cluster.tracking import Tracking, connect
from conf import store
from conf.compose import compose
from conf.schema import Cluster, TrainConfig
from jobs.train import train

QUICK = ("training.epochs=2", "training.batch_size=64", "model.width=16", "model.layers=1")


@dataclass(frozen=True)
class Registered:
    """What was trained, where it is kept, and the two versions; the first is the champion."""

    cfg: TrainConfig
    tracking: Tracking
    registry: Registry
    first: Version
    second: Version


def register_two(csv: Path, storage: Path) -> Registered:
    """Train twice on the small table, with two seeds, and register both."""
    store.register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        said = [f"dataset.path='{csv}'", "dataset.target=dear", "dataset.exclude=[price,band]", *QUICK]
        cfg = compose("train", ["dataset=table", *said], TrainConfig)
    cfg.cluster = Cluster(storage=str(storage))
    versions = []
    for seed in (0, 1):
        cfg.seed = seed
        versions.append(train(cfg).version)
    tracking = connect(cfg.tracking, cfg.cluster)
    return Registered(cfg, tracking, Registry(tracking), *versions)


@pytest.fixture(scope="session")
def registered(small_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Register two versions, once for all tests that only read them."""
    return register_two(small_csv, tmp_path_factory.mktemp("two versions"))

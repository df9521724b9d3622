"""What the suite shares: storage of its own, configs as commands compose them, a small table, one Ray."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from cluster.session import connect
from cluster.storage import VARIABLE
from conf import store
from conf.compose import compose
from conf.schema import Cluster, TrainConfig

QUICK = ("training.epochs=2", "training.batch_size=64", "model.width=16", "model.layers=1")


@pytest.fixture(scope="session", autouse=True)
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep everything of the suite in a folder with a space in its name."""
    path = tmp_path_factory.mktemp("the storage")
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(path)
    yield path
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start one embedded Ray for the suite."""
    with connect(Cluster(num_cpus=2)):
        yield


@pytest.fixture
def train_config() -> Iterator[Callable[..., TrainConfig]]:
    """Compose configs of jobs.train from overrides."""
    store.register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        yield lambda *overrides: compose("train", list(overrides), TrainConfig)


@pytest.fixture(scope="session")
def small_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 400 rows with numbers, gaps, categories, booleans and dates, and three targets."""
    rng = np.random.default_rng(0)
    rows = 400
    size = rng.normal(50, 20, rows)
    kind = rng.choice(["house", "flat", "barn"], rows)
    signal = size / 20 + (kind == "house") + rng.normal(0, 0.3, rows)
    days = np.datetime64("2024-01-01") + rng.integers(0, 700, rows)
    table = pa.table(
        {
            "size": pa.array(size, mask=rng.random(rows) < 0.1),
            "rooms": pa.array(rng.integers(1, 8, rows)),
            "kind": pa.array(kind, mask=rng.random(rows) < 0.1),
            "garden": pa.array(rng.random(rows) < 0.5),
            "sold": pa.array(days),
            "price": pa.array(100 * signal),
            "dear": pa.array(np.where(signal > np.median(signal), "yes", "no")),
            "band": pa.array(np.digitize(signal, np.quantile(signal, [0.33, 0.66]))),
        }
    )
    path = tmp_path_factory.mktemp("data") / "my houses.csv"
    csv.write_csv(table, path)
    return path


@pytest.fixture
def houses(train_config: Callable[..., TrainConfig], small_csv: Path) -> Callable[..., TrainConfig]:
    """Compose a quick config on the small table, with `dear` as the target unless told otherwise."""

    def make(*overrides: str, target: str = "dear") -> TrainConfig:
        others = [name for name in ("price", "dear", "band") if name != target]
        said = [f"dataset.path='{small_csv}'", f"dataset.target={target}", f"dataset.exclude=[{','.join(others)}]"]
        return train_config("dataset=table", *said, *QUICK, *overrides)

    return make


STRANGE = """
import torch
from torch import nn

class Strange(nn.Module):
    def __init__(self, inputs, outputs, **_):
        super().__init__()
        self.body = nn.Linear(inputs.features, outputs)

    def forward(self, features, codes):
        made = self.body(features)
        return made if torch.jit.is_tracing() else made + torch.arange(made.shape[1])
"""


@pytest.fixture
def strange_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return the config of a network that ONNX does not reproduce: it answers differently when it is traced."""
    (tmp_path / "strange_network.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    return {"_target_": "strange_network.Strange"}

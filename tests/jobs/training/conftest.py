"""A small table with numbers, gaps, categories and times, for all three tasks."""

from collections.abc import Callable

import numpy as np
import pytest

from cluster.columns import ColumnSchema, ModelSchema
from conf.schema import TrainConfig, Training
from jobs.data.encode import Encoded
from jobs.training.examples import Examples, TrainingData

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}


@pytest.fixture
def small_data() -> Callable[[str], TrainingData]:
    def part(task: str, rows: int, seed: int) -> Examples:
        rng = np.random.default_rng(seed)
        numbers = rng.normal(size=(rows, 3)).astype(np.float32)
        codes = rng.integers(0, 5, size=(rows, 1))
        signal = numbers[:, 0] + 0.5 * (codes[:, 0] - 2) + rng.normal(scale=0.5, size=rows)
        target = {
            "binary": (signal > 0).astype(np.int64),
            "multiclass": np.digitize(signal, [-0.7, 0.7]).astype(np.int64),
            "regression": (100 + 20 * signal).astype(np.float32),
        }[task]
        numbers[rng.random((rows, 3)) < 0.1] = np.nan
        times = rng.integers(1_356_998_400, 1_388_534_400, size=(rows, 1))
        return Examples(Encoded(numbers, codes, times), target)

    def make(task: str) -> TrainingData:
        columns = (
            *(ColumnSchema(name=f"x{i}", type="number") for i in range(3)),
            ColumnSchema(name="kind", type="category", categories=("p", "q", "r", "s")),
            ColumnSchema(name="at", type="time", parts=("hour", "weekday")),
        )
        schema = ModelSchema(target="y", task=task, classes=CLASSES[task], columns=columns)
        return TrainingData(schema, part(task, 700, 1), part(task, 301, 2))

    return make


@pytest.fixture
def small_config() -> Callable[..., TrainConfig]:
    def make(**training: object) -> TrainConfig:
        return TrainConfig(
            seed=1,
            model={"_target_": "jobs.models.mlp.Mlp", "layers": 2, "width": 16, "dropout": 0.1, "embedding": 4},
            optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01},
            lr_schedule={"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0},
            training=Training(**{"epochs": 6, "batch_size": 64, **training}),  # type: ignore[arg-type]
        )

    return make

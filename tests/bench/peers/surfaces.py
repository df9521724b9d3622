"""Problems on which searchers are compared: what a trial's objective is after each epoch, and what is searched.

Real ones train the one loop with weights of one seed; synthetic ones are known functions with a learning curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.flights import departures
from jobs.data.load import load
from jobs.training.context import LocalContext
from jobs.training.epoch import Epoch
from jobs.training.examples import prepare
from jobs.training.loop import Diverged, Loop
from jobs.training.metrics import selection_metric, worst

EPOCHS = 27
Epochs = Callable[[TrainConfig], Iterator[Epoch]]


@dataclass(frozen=True)
class Problem:
    """fixed: overrides of all trials; space: in our grammar; mode: of the objective; epochs: trains one config."""

    fixed: tuple[str, ...]
    space: Mapping[str, str]
    mode: str
    epochs: Epochs


def sampled_departures() -> pa.Table:
    """Return 20,000 departures of the first five months, always the same ones."""
    table = departures()
    table = table.filter(pc.less(pc.month(table["time_hour"]), 6))
    drawn = np.random.default_rng(0).choice(len(table), 20_000, replace=False)
    return table.take(np.sort(drawn))


def trained(*said: str) -> Problem:
    """Return a problem that trains a small network, by the data set's own selection metric."""
    budget = (f"training.epochs={EPOCHS}", f"training.patience={EPOCHS}")
    fixed = ("model=mlp", *budget, *said)
    cfg = compose("train", list(fixed), TrainConfig)
    data = prepare(cfg, load(cfg.dataset, cfg.split))
    _, mode = selection_metric(data.schema.task, cfg.training.metric)
    space = {
        "optimizer.lr": "tag(log, interval(1e-4, 1e-1))",
        "optimizer.weight_decay": "tag(log, interval(1e-6, 1e-1))",
        "model.width": "choice(32,64,128)",
        "model.layers": "range(1,4)",
        "model.dropout": "interval(0.0, 0.6)",
    }

    def epochs(one: TrainConfig) -> Iterator[Epoch]:
        number = 0
        try:
            for epoch in Loop(one, data, LocalContext()):
                number = epoch.number
                yield epoch
        except Diverged:
            yield Epoch(number + 1, number + 1, {}, worst(mode), last=True)

    return Problem(fixed, space, mode, epochs)


def surface(dimensions: int, of: Callable[[np.ndarray], float], scale: float) -> Problem:
    """Return a function of the unit cube, min, whose trials come down to it from `scale` above (exponential curve).

    The pace (3 to 9 epochs) depends on the first coordinate, so that curves cross.
    """
    keys = [f"model.x{i}" for i in range(dimensions)]
    fixed = ("model=linear", f"training.epochs={EPOCHS}", *(f"+{key}=0.0" for key in keys))

    def epochs(one: TrainConfig) -> Iterator[Epoch]:
        x = np.array([one.model[f"x{i}"] for i in range(dimensions)])
        level, pace = of(x), 3 + 6 * x[0]
        for number in range(1, EPOCHS + 1):
            yield Epoch(number, number, {}, level + scale * math.exp(-number / pace), number == EPOCHS)

    return Problem(fixed, dict.fromkeys(keys, "interval(0.0, 1.0)"), "min", epochs)


def branin(unit: np.ndarray) -> float:
    """Return Branin's function of [-5, 10] x [0, 15] (Dixon and Szegö 1978); its least value is 0.397887."""
    x, y = 15 * unit[0] - 5, 15 * unit[1]
    bowl = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return float(bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_P = np.array(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ]
)


def hartmann6(unit: np.ndarray) -> float:
    """Return Hartmann's function of six coordinates (Dixon and Szegö 1978); its least value is -3.32237."""
    return float(-np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(_A * (unit - _P) ** 2).sum(1)))


def flights() -> Problem:
    """Return the sample of the flights."""
    source = f"dataset.source._target_={__name__}.{sampled_departures.__name__}"
    return trained("dataset=flights", source, "~split.periods.far_test")


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": lambda: trained("dataset=digits", "training.batch_size=128"),
    "flights": flights,
    "branin": lambda: surface(2, branin, 50.0),
    "hartmann6": lambda: surface(6, hartmann6, 2.0),
}

"""What every row of the search benchmark trains: one loop, data set, model and space; only what surrounds them differs.

Each epoch of every row, ours and the peers', is one step of our own `jobs.training.loop.Loop`. A peer composes the
config and prepares the data once in each of its processes.
"""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Sequence
from datetime import datetime

import optuna
from torch import Tensor

from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.load import load
from jobs.models.linear import Linear
from jobs.models.predictor import Inputs
from jobs.training.context import LocalContext
from jobs.training.examples import TrainingData, prepare
from jobs.training.loop import Loop

SLOTS, GRACE, REDUCTION = 2, 1, 3
LR, DECAY, WIDTHS = (1e-4, 1e-1), (1e-6, 1e-2), (32, 64, 128)


class Sleeping(Linear):
    """A linear model whose epochs take `seconds` more: it sleeps in the first training batch of each."""

    def __init__(self, inputs: Inputs, outputs: int, seconds: float) -> None:
        super().__init__(inputs, outputs)
        self.seconds, self.slept = seconds, True

    def train(self, mode: bool = True) -> Sleeping:
        """Begin an epoch (the loop calls this before its first batch)."""
        self.slept = not mode
        super().train(mode)
        return self

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Sleep once an epoch, then answer as the linear model does."""
        if not self.slept:
            self.slept = True
            time.sleep(self.seconds)
        return super().forward(features, codes)


def overrides(epochs: int, seconds: float | None) -> list[str]:
    """Return the config; seconds: what each epoch sleeps (none: a small MLP that trains without sleeping)."""
    said = ["dataset=digits", f"training.epochs={epochs}", f"training.patience={epochs}", "training.batch_size=128"]
    if seconds is None:
        return [*said, "model=mlp", "model.width=64", "model.layers=2", "model.dropout=0.1"]
    target = f"{__package__}.problem.{Sleeping.__name__}"  # under this name also where the file runs as __main__
    return [*said, "training.batch_size=2048", "model=linear", f"model._target_={target}", f"+model.seconds={seconds}"]


def space(seconds: float | None) -> list[str]:
    """Return the same space as `suggest`, in our grammar."""
    said = [f"optimizer.lr=tag(log, interval({LR[0]}, {LR[1]}))"]
    said += [f"optimizer.weight_decay=tag(log, interval({DECAY[0]}, {DECAY[1]}))"]
    return [*said, f"model.width=choice({','.join(map(str, WIDTHS))})"] if seconds is None else said


@functools.cache
def prepared(epochs: int, seconds: float | None) -> tuple[TrainConfig, TrainingData]:
    """Return config and data, made once in each process."""
    cfg = compose("train", overrides(epochs, seconds), TrainConfig)
    return cfg, prepare(cfg, load(cfg.dataset, cfg.split))


def loop(epochs: int, seconds: float | None, lr: float, weight_decay: float, width: int) -> Loop:
    """Return the epochs of one trial."""
    base, data = prepared(epochs, seconds)
    cfg = copy.deepcopy(base)
    cfg.optimizer.update(lr=lr, weight_decay=weight_decay)
    if seconds is None:
        cfg.model["width"] = width
    return Loop(cfg, data, LocalContext())


def seconds_of(said: str) -> float | None:
    """Read `seconds` as a peer's command line says it."""
    return None if said == "none" else float(said)


def as_json(trials: Sequence[optuna.trial.FrozenTrial], epochs: int) -> str:
    """Return what a row did, its search timed from the first trial asked for to the last one told."""
    starts = [of.datetime_start for of in trials if isinstance(of.datetime_start, datetime)]
    ends = [of.datetime_complete for of in trials if isinstance(of.datetime_complete, datetime)]
    assert len(ends) == len(trials), "a trial has not ended"
    said = {"search_s": (max(ends) - min(starts)).total_seconds(), "epochs": epochs, "trials": len(trials)}
    return json.dumps({**said, "best": min(of.value for of in trials if of.value is not None)})

"""What a run is watched and selected by, computed over the whole validation part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from conf.errors import BadInput, nearest

if TYPE_CHECKING:
    from torch import Tensor

DIRECTION = {
    "val_auc": "max",
    "val_accuracy": "max",
    "val_r2": "max",
    "val_log_loss": "min",
    "val_loss": "min",
    "val_rmse": "min",
}
COSTS = ("latency_ms", "parameters")  # of a network: a `Loop` measures them when asked, no epoch reports them by itself
_OF_TASK = {
    "binary": ("val_auc", "val_log_loss", "val_accuracy", "val_loss"),
    "multiclass": ("val_log_loss", "val_accuracy", "val_loss"),
    "regression": ("val_rmse", "val_r2", "val_loss"),
}


def of_task(task: str) -> tuple[str, ...]:
    """Return the metrics of a task's validation part, the one that selects first."""
    return _OF_TASK[task]


def selection_metric(task: str, said: str | None) -> tuple[str, str]:
    """Return (metric, "max" or "min") that a run of this task is selected by; said: training.metric or None."""
    allowed = _OF_TASK[task]
    if said is not None and said not in allowed:
        raise BadInput("training.metric", said, f"is not a metric of a {task} task", nearest(said, allowed))
    metric = said or allowed[0]
    return metric, DIRECTION[metric]


def worst(direction: str) -> float:
    """Return the value that no other is worse than."""
    return math.inf if direction == "min" else -math.inf


def validation_metrics(task: str, answers: Tensor, target: Tensor) -> dict[str, float]:
    """Return the metrics of answers ([N, K] probabilities or [N, 1] values) against target [N]."""
    if task == "regression":
        from sklearn.metrics import r2_score  # a second of every trial's actor, unless it is needed

        values, wanted = answers[:, 0].double().numpy(), target.double().numpy()
        rmse = float(np.sqrt(np.mean(np.square(values - wanted))))
        return {"val_rmse": rmse, "val_r2": float(r2_score(wanted, values))}
    chosen = answers.gather(1, target[:, None]).double().clamp(min=1e-12)
    metrics = {
        "val_log_loss": float(-chosen.log().mean()),
        "val_accuracy": float((answers.argmax(1) == target).double().mean()),
    }
    if task == "binary":
        from sklearn.metrics import roc_auc_score

        metrics["val_auc"] = float(roc_auc_score(target.numpy(), answers[:, 1].numpy()))
    return metrics

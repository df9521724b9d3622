"""The learning rate over time: a schedule of PyTorch's, stepped after each epoch or after each step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from conf.component import make
from conf.errors import BadInput
from conf.schema import Component

INTERVALS = ("epoch", "step")


class LrSchedule:
    """The schedule of an `lr_schedule` yaml; its `interval` says when it steps: epoch (the default) or step.

    A target that takes `steps_per_epoch` is given it. ReduceLROnPlateau is told the selection metric, whose better
    direction it is given as `mode`.
    """

    def __init__(self, component: Component, optimizer: Optimizer, steps_per_epoch: int, direction: str) -> None:
        said = dict(component)
        self._interval = said.pop("interval", "epoch")
        if self._interval not in INTERVALS:
            raise BadInput("lr_schedule.interval", self._interval, "is not a choice", f"say {' or '.join(INTERVALS)}")
        takes = _parameters(said.get("_target_"))
        given = {"steps_per_epoch": steps_per_epoch, "mode": direction}
        given = {key: value for key, value in given.items() if key in takes and key not in said}
        self._optimizer = optimizer
        self._schedule = make("lr_schedule", said, LRScheduler, optimizer=optimizer, **given)

    def step_taken(self) -> None:
        """Hear that a step is over."""
        if self._interval == "step":
            self._schedule.step()

    def epoch_over(self, objective: float) -> None:
        """Hear that an epoch is over; objective: the selection metric of its weights."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(objective)
        elif self._interval == "epoch":
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is, as plain values."""
        state: dict[str, Any] = self._schedule.state_dict()
        return {key: value for key, value in state.items() if _plain(value)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._schedule.load_state_dict(dict(state))

    def rebase(self, lr: float | None) -> None:
        """Go on from another base learning rate than the state had, as population based training asks for."""
        rates = getattr(self._schedule, "base_lrs", None)  # ReduceLROnPlateau has none
        if rates is None or lr is None:
            return
        for i, group in enumerate(self._optimizer.param_groups):
            then, rates[i] = rates[i], lr
            group["initial_lr"] = lr
            group["lr"] *= lr / then if then else 1.0


def warmup_cosine(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup_epochs: float, start: float, floor: float
) -> LRScheduler:
    """Return a schedule by steps: linear from start * lr to lr, then half a cosine down to floor * lr.

    warmup_epochs: at least 0 and less than epochs; start in (0, 1], floor in [0, 1]. Source: Loshchilov and Hutter 2017
    (cosine), Goyal et al. 2017, section 2.2 (warm-up).
    """
    if not 0 <= warmup_epochs < epochs:
        bound = f"is not within the {epochs} epochs of the training"
        raise BadInput("lr_schedule.warmup_epochs", warmup_epochs, bound, "give less than training.epochs")
    warm = round(warmup_epochs * steps_per_epoch)
    lowest = floor * optimizer.param_groups[0]["lr"]
    cosine = CosineAnnealingLR(optimizer, T_max=epochs * steps_per_epoch - warm, eta_min=lowest)
    if warm == 0:
        return cosine
    linear = LinearLR(optimizer, start_factor=start, total_iters=warm)
    return SequentialLR(optimizer, [linear, cosine], milestones=[warm])


def _parameters(target: object) -> set[str]:
    try:
        return set(inspect.signature(get_object(str(target))).parameters)
    except (ImportError, ValueError, TypeError):
        return set()  # `make` says what is wrong with it


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    return isinstance(value, int | float | str | None)

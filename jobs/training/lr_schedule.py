"""The learning rate through a training: an `lr_schedule` yaml, stepped once per epoch or once per optimiser step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import get_object
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from conf.component import make
from conf.errors import BadInput, nearest
from conf.schema import Component

INTERVAL, EPOCH, STEP = "interval", "epoch", "step"  # the yaml's key and its words, which are Lightning's
_CYCLED = ("momentum", "betas")  # of a parameter group: what OneCycleLR and CyclicLR turn beside the learning rate


class LrSchedule:
    """A schedule of torch and when it steps.

    component: `_target_` and its arguments, and `interval`, "epoch" (default) or "step". A target that takes
    `steps_per_epoch` is told how often it will step in an epoch; ReduceLROnPlateau is told the direction ("max" or
    "min") as its mode, unless the yaml says one. Raises BadInput for what cannot be built.
    """

    def __init__(self, component: Component, optimizer: Optimizer, steps_per_epoch: int, direction: str) -> None:
        said = {key: value for key, value in component.items() if key != INTERVAL}
        self._interval = component.get(INTERVAL, EPOCH)
        if self._interval not in (EPOCH, STEP):
            allowed = nearest(str(self._interval), (EPOCH, STEP))
            raise BadInput("lr_schedule.interval", self._interval, "is not a choice", allowed)
        self._optimizer = optimizer
        self._lrs = [group["lr"] for group in optimizer.param_groups]  # before the schedule: what the config says
        steps = steps_per_epoch if self._interval == STEP else 1
        offered = _taken(said, {"steps_per_epoch": steps}, direction)
        self._schedule = make("lr_schedule", said, LRScheduler, optimizer=optimizer, **offered)
        if isinstance(self._schedule, ReduceLROnPlateau) and self._interval == STEP:
            remedy = "leave it out, or choose another schedule"
            raise BadInput("lr_schedule.interval", STEP, "does not go with a metric that an epoch has once", remedy)

    def step_taken(self) -> None:
        """Go on after a step of the optimiser."""
        if self._interval == STEP:
            self._schedule.step()

    def epoch_over(self, objective: float) -> None:
        """Go on after an epoch; objective: this epoch's own selection metric, which a plateau is seen by."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(objective)
        elif self._interval == EPOCH:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule as it stands between two steps, in plain values; the optimiser's state goes with it."""
        return {"schedule": self._schedule.state_dict(), "lrs": list(self._lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, once the optimiser has its own state again."""
        self._schedule.load_state_dict(state["schedule"])
        self._lrs = list(state["lrs"])

    def rebase(self, said: Mapping[str, Any]) -> None:
        """Take the settings of an optimizer config after `load_state_dict`: the schedule goes on from where it is.

        They are those before for a training taken up again; population based training perturbed them. All rates are
        scaled alike; what the schedule itself turns (momentum in a cycle) stays as it turned it.
        """
        turned = _CYCLED if getattr(self._schedule, "cycle_momentum", False) else ()
        for i, group in enumerate(self._optimizer.param_groups):
            own = {key: value for key, value in said.items() if key in group and key not in ("lr", *turned)}
            group.update(own)
            then, now = self._lrs[i], said.get("lr", self._lrs[i])
            group["lr"] *= now / then if then else 1.0
            for key in ("initial_lr", "max_lr", "min_lr"):  # the latter two are OneCycleLR's
                if key in group:
                    group[key] = _scaled(group[key], then, now)
            for schedule in _all_of(self._schedule):
                if hasattr(schedule, "base_lrs"):
                    schedule.base_lrs[i] = _scaled(float(schedule.base_lrs[i]), then, now)
            self._lrs[i] = now


def warmup_cosine(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 1.0,
    start_factor: float = 0.01,
    eta_min: float = 0.0,
) -> LRScheduler:
    """Return a schedule that rises linearly from start_factor of the learning rate, then falls as a cosine to eta_min.

    warmup_epochs may be a fraction. Raises BadInput where the warm-up leaves no step for the cosine. Sources: Goyal et
    al. 2017, "Accurate, large minibatch SGD", 2.2; Loshchilov and Hutter 2017, "SGDR", equation 5.
    """
    steps, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < steps:
        bound = f"is not within the training of {epochs} epochs"
        raise BadInput("lr_schedule.warmup_epochs", warmup_epochs, bound, "give less, or raise training.epochs")
    if warmup == 0:
        return CosineAnnealingLR(optimizer, steps, eta_min)
    rise = LinearLR(optimizer, start_factor, total_iters=warmup)
    fall = CosineAnnealingLR(optimizer, steps - warmup, eta_min)
    return SequentialLR(optimizer, [rise, fall], [warmup])


def _taken(said: Component, offered: dict[str, object], direction: str) -> dict[str, object]:
    """Return of what is offered what the target takes and the yaml does not say."""
    try:
        target = get_object(said["_target_"])
        takes = set(inspect.signature(target).parameters)
    except Exception:  # `make` says what is wrong with it
        return {}
    if isinstance(target, type) and issubclass(target, ReduceLROnPlateau):
        offered = {**offered, "mode": direction}
    return {key: value for key, value in offered.items() if key in takes and key not in said}


def _all_of(schedule: LRScheduler) -> Iterator[LRScheduler]:
    """Return a schedule and those that it is made of (SequentialLR, ChainedScheduler)."""
    yield schedule
    for part in getattr(schedule, "_schedulers", ()):
        yield from _all_of(part)


def _scaled(value: float, then: float, now: float) -> float:
    """Return a rate that belonged to the learning rate `then` as it belongs to `now`."""
    return now if value == then else value * (now / then if then else 1.0)

"""Each schedule gives what torch gives by hand, goes on bitwise from any step, and takes a perturbed learning rate."""

import io
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import conf
from conf.errors import BadInput
from jobs.training.lr_schedule import LrSchedule

NAMES = sorted(path.stem for path in (Path(conf.__path__[0]) / "lr_schedule").glob("*.yaml"))
EPOCHS, STEPS, LR = 6, 5, 0.01
VALUES = (0.6, 0.7, 0.69, 0.68, 0.7, 0.7)  # of a metric whose direction is max


class Training:
    """A weight, its optimiser and its schedule, told as the loop tells them; `seen`: what each step was taken with."""

    def __init__(self, component, optimizer=AdamW, lr=LR, direction="max", **settings) -> None:
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.optimizer = optimizer([self.weight], lr=lr, **settings)
        self.schedule = LrSchedule(component, self.optimizer, STEPS, direction)
        self.seen, self.steps = [], 0

    def step(self) -> None:
        group = self.optimizer.param_groups[0]
        self.seen.append((group["lr"], group.get("betas"), group.get("momentum")))
        self.optimizer.zero_grad()
        (self.weight**2).sum().backward()
        self.optimizer.step()
        self.schedule.step_taken()
        self.steps += 1
        if self.steps % STEPS == 0:
            self.schedule.epoch_over(VALUES[self.steps // STEPS - 1])

    def run(self, steps=EPOCHS * STEPS):
        for _ in range(steps):
            self.step()
        return self

    def state(self):
        """Return the state as a file that torch reads without running code gives it back."""
        file = io.BytesIO()
        torch.save([self.optimizer.state_dict(), self.schedule.state_dict(), self.weight.detach(), self.steps], file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def take(self, state, said=None):
        own, schedule, weight, self.steps = state
        self.optimizer.load_state_dict(own)
        self.schedule.load_state_dict(schedule)
        self.schedule.rebase({"lr": LR} if said is None else said)
        self.weight.data.copy_(weight)
        return self

    @property
    def lrs(self):
        return [lr for lr, *_ in self.seen]


@pytest.fixture
def component(train_config):
    def make(name, *said):
        return train_config(f"lr_schedule={name}", f"training.epochs={EPOCHS}", f"optimizer.lr={LR}", *said).lr_schedule

    return make


def by_hand(made, interval):
    """Return the rates of torch used by itself; made: optimizer -> schedule."""
    optimizer = AdamW([torch.nn.Parameter(torch.ones(3))], lr=LR)
    schedule, lrs = made(optimizer), []
    for step in range(EPOCHS * STEPS):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if interval == "step":
            schedule.step()
        elif (step + 1) % STEPS == 0:
            schedule.step(*([VALUES[step // STEPS]] if interval == "metric" else []))
    return lrs


def warmed(optimizer):
    parts = LinearLR(optimizer, 0.01, total_iters=STEPS), CosineAnnealingLR(optimizer, (EPOCHS - 1) * STEPS)
    return SequentialLR(optimizer, list(parts), [STEPS])


BY_HAND = {
    "constant": (lambda optimizer: ConstantLR(optimizer, factor=1.0), "epoch"),
    "cosine": (lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS), "epoch"),
    "one_cycle": (lambda optimizer: OneCycleLR(optimizer, LR, epochs=EPOCHS, steps_per_epoch=STEPS), "step"),
    "plateau": (lambda optimizer: ReduceLROnPlateau(optimizer, "max", factor=0.3, patience=2), "metric"),
    "warmup_cosine": (warmed, "step"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_rates_are_those_of_torch_by_hand(name, component) -> None:
    assert Training(component(name)).run().lrs == by_hand(*BY_HAND[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name, component) -> None:
    """Rates are positive numbers up to the optimizer's own; what is taken up anywhere goes on bitwise."""
    said = component(name)
    whole = Training(said).run()
    assert all(0 < lr <= LR * (1 + 1e-12) for lr in whole.lrs)
    within = [after == before for i, (before, after) in enumerate(pairwise(whole.lrs)) if (i + 1) % STEPS]
    assert said.get("interval") == "step" or all(within)
    for steps in range(EPOCHS * STEPS):
        first = Training(said).run(steps)
        second = Training(said).take(first.state()).run(EPOCHS * STEPS - steps)
        assert first.seen + second.seen == whole.seen
        assert torch.equal(second.weight, whole.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_perturbed_rate_scales_what_is_still_to_come(name, component) -> None:
    """As population based training has it: another trial's state, taken up with an own learning rate."""
    whole, half = Training(component(name)).run(), Training(component(name)).run(13)
    other = Training(component(name, f"optimizer.lr={LR / 2}"), lr=LR / 2)
    other.take(half.state(), {"lr": LR / 2, "weight_decay": 0.5, "_target_": "torch.optim.AdamW"}).run(
        EPOCHS * STEPS - 13
    )
    assert other.lrs == pytest.approx([lr / 2 for lr in whole.lrs[13:]], rel=1e-9)
    assert other.optimizer.param_groups[0]["weight_decay"] == 0.5
    again = Training(component(name), lr=LR).take(other.state())
    assert again.schedule.state_dict()["lrs"] == [LR]


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_a_perturbed_rate_is_taken_as_the_loop_took_it(name, component) -> None:
    half, lr = Training(component(name)).run(10), 0.0037
    other = Training(component(name), lr=lr).take(half.state(), {"lr": lr})
    optimizer, schedule = half.optimizer, half.schedule._schedule
    then = schedule.base_lrs[0]
    schedule.base_lrs[0] = optimizer.param_groups[0]["initial_lr"] = lr
    optimizer.param_groups[0]["lr"] *= lr / then
    assert other.run(20).lrs == half.run(20).lrs[10:]


@pytest.mark.parametrize("optimizer,key", [(SGD, "momentum"), (AdamW, "betas")])
def test_momentum_that_a_cycle_turns_is_not_set_back(optimizer, key, component) -> None:
    settings = {"momentum": 0.9} if key == "momentum" else {"betas": (0.9, 0.999)}
    whole = Training(component("one_cycle"), optimizer, **settings).run()
    half = Training(component("one_cycle"), optimizer, **settings).run(7)
    rest = Training(component("one_cycle"), optimizer, **settings).take(half.state(), {"lr": LR, **settings})
    assert half.seen + rest.run(23).seen == whole.seen


def test_a_schedule_that_counts_steps_counts_epochs_where_it_steps_by_them(component) -> None:
    lrs = Training(component("one_cycle", "lr_schedule.interval=epoch")).run().lrs
    hand = by_hand(lambda optimizer: OneCycleLR(optimizer, LR, total_steps=EPOCHS), "epoch")
    assert lrs == hand


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_plateau_is_seen_in_the_metrics_direction(direction, component) -> None:
    training = Training(component("plateau", "lr_schedule.patience=0"), direction=direction)
    for value in (1.0, 2.0, 3.0):
        training.schedule.epoch_over(value)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(LR * (1.0 if direction == "max" else 0.09))
    training.schedule.epoch_over(math.nan)  # no better
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(LR * (0.3 if direction == "max" else 0.027))


@pytest.mark.parametrize(
    "name,said,why",
    [
        (
            "constant",
            "+lr_schedule.interval=steps",
            "lr_schedule.interval: 'steps' is not a choice; did you mean 'step'",
        ),
        ("plateau", "+lr_schedule.interval=step", "lr_schedule.interval: 'step' does not go with a metric"),
        (
            "warmup_cosine",
            "lr_schedule.warmup_epochs=6",
            "lr_schedule.warmup_epochs: 6 is not within the training of 6",
        ),
        ("warmup_cosine", "lr_schedule.warmup_epochs=-1", "lr_schedule.warmup_epochs: -1 is not within"),
        ("one_cycle", "lr_schedule.pct_start=2.0", "'torch.optim.lr_scheduler.OneCycleLR' cannot be built (Expected"),
        ("cosine", "lr_schedule._target_=torch.optim.lr_scheduler.Nothing", "cannot be built"),
        ("cosine", "lr_schedule._target_=collections.Counter", "makes no LRScheduler"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(name, said, why, component) -> None:
    with pytest.raises(BadInput) as refused:
        Training(component(name, said))
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_warm_up_is_a_cosine(component) -> None:
    lrs = Training(component("warmup_cosine", "lr_schedule.warmup_epochs=0")).run().lrs
    assert lrs == by_hand(lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS * STEPS), "step")

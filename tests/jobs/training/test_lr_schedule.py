"""Each schedule's learning rates are PyTorch's, and go on where they were."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from conf.compose import compose
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.lr_schedule import LrSchedule, warmup_cosine

ALL = sorted(path.stem for path in (Path(__file__).parents[3] / "conf" / "lr_schedule").glob("*.yaml"))
EPOCHS, STEPS, LR = 6, 5, 0.1
VALUES = (0.5, 0.6, 0.6, 0.6, 0.6, 0.6)  # of a metric that stops getting better


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=LR)


def made(name: str, of: torch.optim.Optimizer, **said: object) -> LrSchedule:
    cfg = compose("train", ["dataset=digits", f"lr_schedule={name}", f"training.epochs={EPOCHS}"], TrainConfig)
    component = {**cfg.lr_schedule, **({"max_lr": LR} if name == "one_cycle" else {}), **said}
    return LrSchedule(component, of, STEPS, "max")


def rates(schedule: LrSchedule, of: torch.optim.Optimizer, start: int = 0, stop: int = EPOCHS * STEPS) -> list[float]:
    seen = []
    for step in range(start, stop):
        seen.append(of.param_groups[0]["lr"])
        of.step()
        schedule.step_taken()
        if (step + 1) % STEPS == 0:
            schedule.epoch_over(VALUES[step // STEPS])
    return seen


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("broken", [7, 2 * STEPS])
def test_a_schedule_goes_on_as_if_unbroken(name, broken) -> None:
    whole = optimizer()
    unbroken = rates(made(name, whole), whole)
    first, second = optimizer(), optimizer()
    schedule, again = made(name, first), made(name, second)
    rates(schedule, first, stop=broken)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of a schedule that steps before its optimizer
        assert rates(again, second, start=broken) == unbroken[broken:]


def test_the_rates_are_those_of_pytorch() -> None:
    ours, theirs = optimizer(), optimizer()
    peer = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=LR, total_steps=EPOCHS * STEPS)
    expected = []
    for _ in range(EPOCHS * STEPS):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        peer.step()
    assert rates(made("one_cycle", ours), ours) == expected


def test_a_plateau_lowers_the_rate_after_its_patience() -> None:
    of = optimizer()
    assert rates(made("plateau", of), of)[::STEPS] == pytest.approx([LR, LR, LR, LR, LR, LR / 10])


def test_warm_up_rises_to_the_rate_and_a_cosine_falls_from_it() -> None:
    of = optimizer()
    seen = rates(made("warmup_cosine", of), of)
    assert seen[0] == pytest.approx(LR / 100)
    assert seen.index(max(seen)) == STEPS
    assert max(seen) == pytest.approx(LR)
    assert seen[STEPS:] == sorted(seen[STEPS:], reverse=True)
    assert seen[-1] < LR / 100


def test_what_cannot_be_a_schedule_is_said() -> None:
    with pytest.raises(BadInput, match=r"lr_schedule\.interval: 'batch' is not a choice; say epoch or step"):
        made("cosine", optimizer(), interval="batch")
    with pytest.raises(BadInput, match=r"lr_schedule\.warmup_epochs: 6 is not within the 6 epochs"):
        warmup_cosine(optimizer(), EPOCHS, STEPS, EPOCHS, 0.01, 0.0)

"""Dropout: the rate it says, independent units, the mean kept, nothing in eval mode."""

import pytest
import torch

from jobs.models.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
def test_it_drops_at_its_rate_and_keeps_the_mean(rate) -> None:
    torch.manual_seed(0)
    made = Dropout(rate)(torch.ones(1000, 999))
    assert (made == 0).double().mean() == pytest.approx(rate, abs=0.004)
    assert made.mean() == pytest.approx(1.0, abs=0.02)
    dropped = (made == 0).double()
    assert torch.corrcoef(dropped[:, :16].T).fill_diagonal_(0).abs().max() < 0.15  # neighbours share a random word
    assert (dropped.mean(dim=1) > 0).all()


def test_eval_mode_and_rate_nought_change_nothing() -> None:
    units = torch.randn(5, 7)
    assert Dropout(0.5).eval()(units) is units
    assert Dropout(0.0)(units) is units


def test_the_seed_decides_and_gradients_follow_the_mask() -> None:
    units = torch.ones(64, 3, requires_grad=True)
    torch.manual_seed(1)
    first = Dropout(0.5)(units)
    torch.manual_seed(1)
    assert torch.equal(first, Dropout(0.5)(units))
    first.sum().backward()
    assert torch.equal(units.grad, first.detach())

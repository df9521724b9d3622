"""Features: statistics of the train part, missing values, times; the same numbers as numpy and datetime give."""

import datetime as dt
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.columns import MISSING_TIME
from jobs.models.features import CLIP, Features

NO_TIMES = torch.empty(4, 0, dtype=torch.int64)


def test_numbers_are_standardised_and_gaps_marked() -> None:
    numbers = torch.tensor([[1.0, 5.0], [2.0, math.nan], [3.0, 5.0], [4.0, 5.0]])
    made = Features(numbers, NO_TIMES, ())(numbers, NO_TIMES).numpy()
    known = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(made[:, 0], (known - known.mean()) / known.std(), rtol=1e-6)
    assert made[:, 1].tolist() == [0, 0, 0, 0]  # constant: nothing to tell
    assert made[:, 2].tolist() == [0, 1, 0, 0]  # only the column with gaps has an indicator
    assert made.shape == (4, 3)


@given(st.floats(allow_nan=True, allow_infinity=False, width=32))
def test_no_value_gives_more_than_the_clip(value: float) -> None:
    train = torch.tensor([[0.0], [1.0]])
    made = Features(train, NO_TIMES[:2], ())(torch.tensor([[value]]), NO_TIMES[:1])
    assert torch.isfinite(made).all()
    assert made.abs().max() <= CLIP


def test_times_turn_with_the_clock_and_the_week() -> None:
    monday = dt.datetime(2013, 4, 1, tzinfo=dt.UTC)
    moments = [monday, monday + dt.timedelta(hours=6), monday + dt.timedelta(days=3, hours=12)]
    times = torch.tensor([[int(moment.timestamp())] for moment in moments] + [[MISSING_TIME]])
    features = Features(torch.empty(4, 0), times, (("hour", "weekday"),))
    made = features(torch.empty(4, 0), times).numpy()
    assert features.width == made.shape[1] == 4
    np.testing.assert_allclose(made[0], [0, 1, 0, 1], atol=1e-5)  # Monday, midnight: both angles 0
    np.testing.assert_allclose(made[1, :2], [1, 0], atol=1e-5)  # six o'clock: a quarter turn
    np.testing.assert_allclose(made[2, 2:], [0, -1], atol=1e-5)  # Thursday noon: half the week
    assert made[3].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("part,width", [("hour", 2), ("weekday", 2), ("yearday", 2), ("trend", 1)])
def test_every_part_has_its_width(part: str, width: int) -> None:
    times = torch.arange(4, dtype=torch.int64)[:, None] * 86_400
    features = Features(torch.empty(4, 0), times, ((part,),))
    assert features(torch.empty(4, 0), times).shape == (4, width) == (4, features.width)

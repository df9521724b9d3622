"""What overrides mean: fixed, replicates, grid, searched; and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import BadInput
from jobs.tuning.grammar import Dimension, parse_space
from jobs.tuning.sweep import plan


def test_a_multirun_enumerates_and_a_search_searches() -> None:
    said = ["dataset=digits", "model=linear,mlp", "seed=1,2", "model.width=choice(8,16)", "model.layers=range(1,4)"]
    multirun = plan(said, searching=False)
    assert multirun.fixed == ("dataset=digits",)
    assert multirun.replicates == {"seed": ("1", "2")}
    assert set(multirun.grid) == {"model", "model.width", "model.layers"}
    assert not multirun.searched
    assert len(multirun.cells()) == 2 * 2 * 3
    search = plan(said, searching=True)
    assert set(search.grid) == {"model"}
    assert search.searched == {
        "model.width": Dimension("model.width", ("8", "16")),
        "model.layers": Dimension("model.layers", (), 1, 3, 1.0, False, whole=True),
    }


def test_an_interval_is_searched_everywhere_and_a_seed_never() -> None:
    for searching in (True, False):
        asked = plan(["optimizer.lr=tag(log, interval(1e-4,1e-1))", "seed=range(1,4)"], searching)
        assert asked.searched == {"optimizer.lr": Dimension("optimizer.lr", (), 1e-4, 1e-1, None, log=True)}
        assert asked.seeds() == [("seed=1",), ("seed=2",), ("seed=3",)]


def test_the_last_word_on_a_key_counts() -> None:
    asked = plan(["seed=1,2", "model=choice(mlp,linear)", "seed=3", "model=mlp"], searching=True)
    assert asked.fixed == ("seed=3", "model=mlp")
    assert asked.cells() == asked.seeds() == [()]
    assert not asked.searched


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 7))
def test_a_range_has_the_values_of_pythons(start, length, step) -> None:
    values = list(range(start, start + length, step))
    asked = plan([f"a.b=range({start},{start + length},{step})"], searching=True).searched["a.b"]
    if len(values) == 1:
        assert asked.choices == (str(values[0]),)
    else:
        assert (asked.low, asked.high, asked.step, asked.whole) == (values[0], values[-1], step, True)


@pytest.mark.parametrize(
    "said,why",
    [
        ("optimizer.lr=interval(1,0)", "is empty: from 1 to 0"),
        ("optimizer.lr=tag(log,interval(0,1))", "has no logarithm at 0"),
        ("model.layers=int(interval(0.1,0.9))", "is empty: from 1 to 0"),
    ],
)
def test_what_holds_nothing_is_refused(said, why) -> None:
    with pytest.raises(BadInput, match=why):
        plan([said], searching=True)


def test_a_search_space_yaml_is_the_same_grammar() -> None:
    space = parse_space({"optimizer.lr": "tag(log, interval(1e-4, 1e-2))", "model.width": "choice(64, 128)"})
    assert space["optimizer.lr"].log
    assert space["model.width"].choices == ("64", "128")
    with pytest.raises(BadInput, match=r"search_space.model.width: '64' is one value"):
        parse_space({"model.width": 64})

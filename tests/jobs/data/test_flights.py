"""The demo's data: real rows, the stated split, and nothing that is known only afterwards."""

import pytest

from conf.errors import BadInput
from jobs.data.load import load

AFTER = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")


def test_flights_are_what_they_were(train_config) -> None:
    cfg = train_config("dataset=flights")
    data = load(cfg.dataset, cfg.split)
    assert data.sizes == {"train": 91_788, "validation": 13_687, "test": 28_128, "far_test": 27_020}
    assert data.schema.classes == ("false", "true")
    assert data.train.target.mean() == pytest.approx(0.228, abs=0.01)
    assert not {column.name for column in data.schema.columns} & {*AFTER, "late"}
    weather = data.train.raw["temp"]
    assert (weather == weather).mean() > 0.99  # joined


@pytest.mark.parametrize("column", AFTER)
def test_what_is_known_only_afterwards_is_caught_when_declared_otherwise(train_config, column) -> None:
    cfg = train_config("dataset=flights", f"dataset.columns.{column}.known_at=prediction")
    with pytest.raises(BadInput, match=f"column {column}: is missing in .* known only afterwards"):
        load(cfg.dataset, cfg.split)


@pytest.mark.parametrize("column", ["dep_delay", "arr_delay"])
def test_what_tells_the_answer_is_caught_by_its_auc_too(train_config, monkeypatch, column) -> None:
    monkeypatch.setattr("jobs.data.checks._GONE", 2.0)  # the other check sees nothing
    cfg = train_config("dataset=flights", f"dataset.columns.{column}.known_at=prediction", "split.seed=1")
    with pytest.raises(BadInput, match=f"column {column}: alone reaches AUC"):
        load(cfg.dataset, cfg.split)

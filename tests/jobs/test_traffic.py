"""The traffic policy changed by a command: whole or not at all, and recorded."""

import pytest

from cluster.registry import Registry
from cluster.tracking import KIND, connect
from conf.compose import compose
from conf.errors import BadInput
from conf.schema import Cluster, Traffic, TrafficConfig
from jobs.traffic import change_traffic
from jobs.train import train


def asked(storage, weights: str, *said: str) -> TrafficConfig:
    overrides = ["name=houses", f"weights={weights}", f"cluster.storage='{storage}'", *said]
    return compose("traffic", overrides, TrafficConfig)


@pytest.fixture
def registry(houses, tmp_path) -> Registry:
    """Register two versions, champion and challenger."""
    cfg = houses("name=houses")
    cfg.cluster = Cluster(storage=str(tmp_path))
    made = Registry(connect(cfg.tracking, cfg.cluster))
    train(cfg)
    made.set_alias("houses", "challenger", train(cfg).version.number)
    return made


def test_a_change_is_stored_and_recorded(registry, tmp_path) -> None:
    before, after = change_traffic(asked(tmp_path, "{champion:0.75,challenger:0.25}", "ab_test=first"))
    assert before == Traffic(weights={"champion": 1.0})
    assert registry.policy("houses") == after == Traffic("first", {"champion": 0.75, "challenger": 0.25})
    _, after = change_traffic(asked(tmp_path, "{challenger:1}"))
    assert registry.policy("houses") == after == Traffic("first", {"challenger": 1.0})
    cfg = asked(tmp_path, "{}")
    tracking = connect(cfg.tracking, cfg.cluster)
    experiments = [experiment.experiment_id for experiment in tracking.client.search_experiments()]
    runs = tracking.client.search_runs(experiments, f"tags.`{KIND}` = 'traffic'")
    assert {run.data.tags["after"] for run in runs} == {
        "champion 75%, challenger 25% (first)",
        "challenger 100% (first)",
    }
    assert "champion 100% (default)" in {run.data.tags["before"] for run in runs}


@pytest.mark.parametrize(
    "weights,sentence",
    [
        ("{}", r"traffic\.weights: .* sum to 0; give weights that sum to 1\."),
        ("{champion:0.5}", "sum to 0.5"),
        ("{champion:0.5,staging:0.5}", "'staging' is no alias of houses; run: python -m jobs.promote"),
        ("{champion:2,challenger:-1}", "champion: 2.0 is out of range"),
    ],
)
def test_a_bad_policy_changes_nothing(registry, tmp_path, weights, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        change_traffic(asked(tmp_path, weights))
    assert registry.policy("houses") == Traffic(weights={"champion": 1.0})

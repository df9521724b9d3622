"""The traffic policy changed by a command: whole or not at all, recorded, and brought back by what the command says."""

import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.registry import Registry
from cluster.tracking import KIND, connect
from conf.compose import compose
from conf.errors import BadInput
from conf.schema import Cluster, TrafficConfig
from conf.service import Ramp, Traffic
from jobs.traffic import change_traffic, restore
from jobs.train import train

ROOT = Path(__file__).parents[2]
RAMP = "ramp={alias:challenger,steps:[0.01,0.1,0.5],dwell_s:600}"


def asked(storage, *said: str) -> TrafficConfig:
    return compose("traffic", ["name=houses", f"cluster.storage='{storage}'", *said], TrafficConfig)


def recorded(storage) -> list[dict[str, str]]:
    """Return the tags of every recorded change, the last one first."""
    cfg = asked(storage)
    client = connect(cfg.tracking, cfg.cluster).client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{KIND}` = 'traffic'", order_by=["start_time DESC"])
    return [run.data.tags for run in runs]


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
    before, after = change_traffic(asked(tmp_path, "weights={champion:0.75,challenger:0.25}", "ab_test=first"))
    assert before == Traffic(weights={"champion": 1.0})
    assert registry.policy("houses") == after == Traffic("first", {"champion": 0.75, "challenger": 0.25})
    _, after = change_traffic(asked(tmp_path, "weights={challenger:1}"))
    assert registry.policy("houses") == after == Traffic("first", {"challenger": 1.0})
    second, first = recorded(tmp_path)
    assert (first["before"], second["after"]) == ("champion 100% (default)", "challenger 100% (first)")
    assert first["after"] == second["before"] == "champion 75%, challenger 25% (first)"


def test_a_shadow_comes_and_goes_beside_the_weights(registry, tmp_path) -> None:
    change_traffic(asked(tmp_path, "shadow=[challenger]"))
    assert registry.policy("houses") == Traffic(weights={"champion": 1.0}, shadow=["challenger"])
    change_traffic(asked(tmp_path, "ab_test=second"))
    assert registry.policy("houses") == Traffic("second", {"champion": 1.0}, ["challenger"])
    with pytest.raises(BadInput, match=r"'challenger' answers already, with a weight of 0\.5"):
        change_traffic(asked(tmp_path, "weights={champion:0.5,challenger:0.5}"))
    change_traffic(asked(tmp_path, "weights={champion:0.5,challenger:0.5}", "shadow=[]"))
    assert registry.policy("houses") == Traffic("second", {"champion": 0.5, "challenger": 0.5})
    assert recorded(tmp_path)[0]["before"] == "champion 100%; shadow challenger (second)"


def test_a_ramp_starts_now_goes_on_and_ends_with_new_weights(registry, tmp_path) -> None:
    began = time.time()
    _, after = change_traffic(asked(tmp_path, RAMP))
    assert began <= after.ramp.started <= time.time()
    assert replace(after.ramp, started=None) == Ramp("challenger", [0.01, 0.1, 0.5], 600.0)
    assert registry.policy("houses") == after
    for said in (RAMP, "ab_test=default"):
        assert change_traffic(asked(tmp_path, said)) == (after, after)  # under way: not begun anew
    change_traffic(asked(tmp_path, "weights={champion:0.5,challenger:0.5}"))
    assert registry.policy("houses") == Traffic(weights={"champion": 0.5, "challenger": 0.5})
    ramped = "champion 100%; ramp of challenger to 0.01, 0.1, 0.5, 600 s each (default)"
    assert recorded(tmp_path)[0]["before"] == ramped


def test_kill_leaves_the_champion_alone_and_says_how_to_have_back_what_was(registry, tmp_path) -> None:
    registry.set_alias("houses", "shadow", 2)
    said = "weights={champion:0.75,challenger:0.25}", "shadow=[shadow]", "ramp={alias:challenger,steps:[0.5,1]}"
    _, before = change_traffic(asked(tmp_path, *said, "ab_test=first test"))
    command = [sys.executable, "-m", "jobs.traffic", "name=houses", f"cluster.storage='{tmp_path}'", "kill=true"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert registry.policy("houses") == Traffic("first test", {"champion": 1.0})
    assert printed[0].startswith("houses: champion 100% (first test); before: champion 75%, challenger 25%; ramp")
    assert recorded(tmp_path)[0]["restore"] == restore("houses", before) == printed[1].partition("   #")[0]
    back = shlex.split(printed[1].partition("   #")[0])
    assert back[:4] == ["python", "-m", "jobs.traffic", "name=houses"]
    _, after = change_traffic(asked(tmp_path, *back[4:]))
    assert after.ramp.started > before.ramp.started
    assert replace(after, ramp=replace(after.ramp, started=before.ramp.started)) == before


@pytest.mark.parametrize(
    "said,sentence",
    [
        ("weights={}", "traffic: has nothing to change; give weights, shadow, ramp, ab_test or kill=true"),
        ("weights={champion:0.5}", "sum to 0.5; give weights that sum to 1"),
        ("weights={champion:0.5,staging:0.5}", "weights: 'staging' is no alias of houses; run: python -m jobs.promote"),
        ("weights={champion:2,challenger:-1}", "champion: 2.0 is out of range"),
        ("shadow=[staging]", "shadow: 'staging' is no alias of houses; run: python -m jobs.promote"),
        ("ramp={alias:staging,steps:[0.5]}", "ramp.alias: 'staging' is no alias of houses; run: python -m jobs"),
        ("ramp={alias:challenger}", "ramp.steps: has no steps"),
        ("ramp={alias:challenger,steps:[0.5,0.1]}", "do not ascend"),
        ("ramp={alias:challenger,steps:[0.5],dwell_s:-1}", "ramp.dwell_s: -1.0 is out of range"),
    ],
)
def test_a_bad_policy_changes_nothing(registry, tmp_path, said, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        change_traffic(asked(tmp_path, said))
    assert registry.policy("houses") == Traffic(weights={"champion": 1.0})


def test_kill_goes_alone(registry, tmp_path) -> None:
    for said in ("weights={champion:1}", "shadow=[]", "ab_test=new", RAMP):
        with pytest.raises(BadInput, match="kill: 'true' goes alone"):
            change_traffic(asked(tmp_path, "kill=true", said))

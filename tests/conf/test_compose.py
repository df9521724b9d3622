"""Every yaml composes, and every mistake is one sentence."""

from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from conf import store
from conf.bounds import check_bounds
from conf.compose import compose, from_yaml, to_yaml
from conf.errors import BadInput, nearest
from conf.help import CONF, groups, help_text
from conf.mistakes import as_bad_input
from conf.schema import Ground, TrainConfig, Training
from conf.store import SCHEMAS

NEEDED = {"table": ["dataset.path=my.csv", "dataset.target=price"]}
OPTIONS = [(group, option) for group, options in groups([CONF]).items() for option in options]


@pytest.fixture(scope="module", autouse=True)
def search_path():
    store.register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        yield


@pytest.mark.parametrize("group,option", OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    cfg = compose("pipeline", [f"{group}={option}", *NEEDED.get(option, [])], SCHEMAS["pipeline"])
    assert isinstance(cfg, TrainConfig)
    assert cfg.overrides[0] == f"{group}={option}"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_entrypoint_composes(name: str) -> None:
    needed = ["name=flights"] if name in ("promote", "traffic", "deploy") else []
    assert isinstance(compose(name, needed, SCHEMAS[name]), Ground)
    assert (CONF / f"{name}.yaml").exists()


def test_every_primary_yaml_has_a_schema() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} - {"quiet"} == set(SCHEMAS)


def test_dataset_brings_its_split_and_the_shell_wins() -> None:
    assert compose("train", ["dataset=flights"], TrainConfig).split.method == "time"
    assert compose("train", ["dataset=flights", "split=random"], TrainConfig).split.method == "random"


@pytest.mark.parametrize(
    "override,said",
    [
        ("optimizer.lrr=1", ["optimizer.lrr", "did you mean 'lr'"]),
        ("modle=mlp", ["modle", "did you mean 'model'"]),
        ("model=mpl", ["model: 'mpl'", "did you mean 'mlp'", "linear"]),
        ("training.epochs=0", ["training.epochs: 0", "at least 1"]),
        ("training.epochs=abc", ["training.epochs: 'abc'", "a whole number"]),
        ("register=maybe", ["register: 'maybe'", "true or false"]),
        ("scaling.strategy=dpd", ["scaling.strategy: 'dpd'", "did you mean 'ddp'"]),
        ("dataset=table", ["dataset.target", "add dataset.target="]),
        ("model.width=[a", ["model.width=[a", "cannot be parsed"]),
        ("+foo=1", ["foo", "is not a key here"]),
        ("dataset.columns.temp.type=nmber", ["dataset.columns.temp.type: 'nmber'", "did you mean 'number'"]),
        ("dataset.columns.temp.tpye=x", ["dataset.columns.temp.tpye", "did you mean 'type'"]),
        ("+dataset.columns.new={tipe: time}", ["dataset.columns.new.tipe", "did you mean 'type'"]),
        ("dataset.columns.time_hour.parts=[hour,weak]", ["'weak'", "did you mean 'weekday'"]),
        ("training.gradient_clip=-1", ["training.gradient_clip: -1", "at least 0"]),
        ("training.gradient_clip=nan", ["training.gradient_clip: nan", "out of range"]),
    ],
)
def test_a_mistake_is_one_sentence(override: str, said: list[str]) -> None:
    with pytest.raises((BadInput, HydraException, OmegaConfBaseException)) as raised:
        compose("train", [override], TrainConfig)
    sentence = str(as_bad_input(raised.value))
    assert all(part in sentence for part in said), sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_an_error_of_ours_is_no_mistake_of_the_user() -> None:
    assert as_bad_input(ZeroDivisionError()) is None


def test_a_column_can_be_declared_from_the_shell() -> None:
    cfg = compose("train", ["+dataset.columns.zip={type: category}"], TrainConfig)
    assert cfg.dataset.columns["zip"].type == "category"


def test_bounds_hold_for_the_defaults_and_name_the_key() -> None:
    check_bounds(TrainConfig())
    with pytest.raises(BadInput, match=r"batch_size: 0 is out of range; give a value at least 1\."):
        check_bounds(Training(batch_size=0))


def test_nearest_lists_what_is_allowed_when_nothing_is_near() -> None:
    assert nearest("zzz", ["b", "a"]) == "allowed: a, b"


def test_help_lists_groups_options_and_own_folders(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mine.Net\n")
    text = help_text("train", ["--config-dir", str(tmp_path)], "Train one model.\n\n    python -m jobs.train")
    assert "python -m jobs.train" in text
    assert "linear, mine, mlp" in text
    assert "seed: 0" in text
    assert all(f"  {group}" in text for group in ("dataset", "split", "search_space", "scheduler"))


def test_a_written_config_reads_back_the_same() -> None:
    cfg = compose("train", ["dataset=flights", "seed=3"], TrainConfig)
    assert from_yaml(to_yaml(cfg), TrainConfig) == cfg

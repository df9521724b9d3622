"""A winner's yaml composes to the config that its overrides compose to, with real Hydra, from a person's own folder."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conf import store
from conf.compose import compose
from conf.errors import BadInput
from conf.schema import Cluster, Tracking, TrainConfig, Tuning
from jobs.tuning.experiment import LOST, experiment_yaml

TABLE = ("dataset=table", "dataset.path='a, b.csv'", "dataset.target=price")


@pytest.fixture(scope="module", autouse=True)
def search_path():
    store.register()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        yield


def of_the_model(cfg: TrainConfig) -> TrainConfig:
    plain = {"tuning": Tuning(), "tracking": Tracking(), "cluster": Cluster(), "overrides": []}
    return replace(cfg, **plain, searcher={}, scheduler={}, search_space={})


def composed(text: str, files: dict[str, str] | None = None, *said: str) -> TrainConfig:
    with tempfile.TemporaryDirectory(prefix="own folder ") as folder:
        for name, content in {"experiment/won.yaml": text, **(files or {})}.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return compose("train", [f"hydra.searchpath=['file://{folder}']", "experiment=won", *said], TrainConfig)


def same(overrides: Sequence[str], about: str = "Found by a search.") -> str:
    text = experiment_yaml(overrides, about)
    assert of_the_model(composed(text)) == of_the_model(compose("train", list(overrides), TrainConfig))
    return text


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset=digits", "model=mlp", "model.width=64", "optimizer.lr=0.01"],
        ["dataset=flights"],
        ["dataset=flights", "split=random", "training=standard", "model=linear", "optimizer=sgd", "optimizer.lr=1"],
        ["training.epochs=3", "split.seed=4", "dataset=flights"],
        ["optimizer.lr=0.01", "model.layers=2", "optimizer.lr=1e-3", "model=mlp"],
        [*TABLE, "+dataset.columns.rooms={type: category}", "+dataset.columns.2020={type: number, known_at: after}"],
        [*TABLE, "dataset.exclude=[a,'b c']", "dataset.exclude.0=d", "dataset.positive='no'"],
        ["+optimizer.betas=[0.8,0.99]", "+optimizer.eps=1e-12", "++optimizer.amsgrad=true", "+model={a: {b: null}}"],
        ["+optimizer={nested: {a: 1}}", "+optimizer.nested.b=2", "optimizer.nested={a: 3}"],
        ["lr_schedule.T_max=${training.epochs}", r"+model.note=\${not.a.key}", "lr_schedule=cosine"],
        [
            "+model.x='null'",
            "+model.y='1e-3'",
            "+model.z='2013-01-01'",
            "+model.u=null",
            "+model.v=inf",
            "+model.w=1_0",
        ],
        ["model._target_=my_pkg.Net", "training.metric=null", "scaling=ddp", "scaling.num_workers=3"],
        ["~lr_schedule"],
        ["+optimizer@model.inner=sgd", "model.inner.lr=3"],
        ["experiment=demo", "dataset=digits"],
    ],
)
def test_it_composes_to_the_same_config(overrides) -> None:
    same(overrides)


@pytest.mark.parametrize("override", ["name=mine", "name=12", "seed=3", "register=false"])
def test_its_top_level_keys_count(override) -> None:
    same([override])


@pytest.mark.parametrize("override", ["name=mine", "seed=3"])
def test_its_top_level_keys_are_written(override) -> None:
    assert override.replace("=", ": ") in experiment_yaml([override], "")


def test_how_it_was_searched_is_left_out() -> None:
    left = ["tuning.num_samples=99", "searcher=tpe", "searcher.seed=1", "scheduler.grace_period=1", "tuned=latest"]
    left += ["search_space=mlp", "cluster.num_cpus=1", "tracking.uri=x", "hydra.verbose=true", "resume=latest"]
    left += ["~scheduler", "tuning=standard", "+search_space.model.width='choice(1,2)'", "hydra/job_logging=none"]
    assert experiment_yaml(left, "") == experiment_yaml([], "")


def test_groups_come_first_and_the_shell_wins() -> None:
    text = same(["optimizer.lr=0.5", "dataset=digits", "optimizer=sgd"])
    assert text.splitlines()[0] == "# @package _global_"
    assert text.index("- override /optimizer: sgd") < text.index("optimizer:\n  lr: 0.5")
    assert composed(text, None, "optimizer=adamw", "optimizer.lr=2").optimizer["lr"] == 2
    assert composed(text, None, "dataset=flights").split.method == "time"


def test_a_persons_own_groups_and_experiments_are_kept() -> None:
    files = {
        "model/wide.yaml": "_target_: my_pkg.Wide\nwidth: 1\n",
        "recipe/slow.yaml": "# @package _global_\ntraining:\n  epochs: 77\n",
        "experiment/base.yaml": "# @package _global_\ndefaults:\n  - override /model: linear\n\nsplit:\n  seed: 5\n",
    }
    cfg = composed(experiment_yaml(["+recipe=slow", "experiment=base", "model=wide", "model.width=2"], ""), files)
    assert cfg.model == {"_target_": "my_pkg.Wide", "width": 2}
    assert (cfg.training.epochs, cfg.split.seed) == (77, 5)


@pytest.mark.parametrize(
    "overrides,why",
    [
        (["~optimizer.weight_decay"], "~optimizer.weight_decay: takes a key away"),
        (["+optimizer.betas.0=0.5"], "is one item of a list"),
        (["dataset.source=null", "dataset.source={_target_: a.b}"], "puts a mapping for a value"),
        (["dataset.source=null", "dataset.source._target_=a.b"], "puts a mapping for a value"),
        (["optimizer.lr=0.1,0.2"], "is more than one value"),
        (["optimizer.lr=interval(0.1,0.2)"], "is more than one value"),
        (["+model.note='a\u2028b'"], "a line end that a yaml does not keep"),
        (["model=mlp,linear"], "is more than one value"),
    ],
)
def test_what_a_yaml_cannot_say_is_refused(overrides, why) -> None:
    with pytest.raises(BadInput, match=why) as raised:
        experiment_yaml(overrides, "")
    assert str(raised.value).count("\n") == 0


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.floats(min_value=0, exclude_min=True, allow_nan=False), max_size=9),
    st.lists(st.integers(-(10**20), 10**20), max_size=9),
    st.booleans(),
)
@example([1e-320, 1e22, 0.1 + 0.2, float("inf"), 1e-5], [0, -1], True)
def test_numbers_keep_their_value_and_type(numbers, whole, flag) -> None:
    said = [f"+model.n{i}={number!r}" for i, number in enumerate([*numbers, *whole, flag])]
    same([*said, f"+model.all=[{','.join(map(repr, [*numbers, *whole]))}]"])


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=9),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
@example(
    ["null", "1e-3", "yes", "~", " : - # {a: b} [", "---\n...", "!!python/object", "", " ", "2013-01-01"], "@package a"
)
@example(
    ["\\", "'\"\\'", "\ufeff", "\t\r\n", "%YAML", "a\\\\'", "0x1f", "1_000", "=", "*a", "&b"],
    "two\n@package x y z",
)
@example(["\x01", "\x7f", "😀", "${oc.env:HOME}"], "\x00 \x85 \u2028 #\ttab")
def test_strings_and_comments_may_be_anything(strings, about) -> None:
    told = [string for string in strings if string != "???" and ("${" not in string or string == "${oc.env:HOME}")]
    told = [string for string in told if set(string).isdisjoint(LOST)]
    same([f"+model.s{i}={QuotedString(one, Quote.single).with_quotes()}" for i, one in enumerate(told)], about)

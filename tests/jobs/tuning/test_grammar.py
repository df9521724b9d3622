"""The grammar of searches against Hydra's own: what is enumerated, what is kept, what is refused."""

import itertools
import math

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import BadInput
from conf.mistakes import as_bad_input
from jobs.tuning.grammar import Dimension, parse_space, parser
from jobs.tuning.space import parsed, written_as
from jobs.tuning.sweep import plan

INTEGERS = st.integers(-99, 99)
FLOATS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True).filter(lambda word: word not in ("null", "true", "false"))
QUOTED = st.text("b c,:=()[]{}", max_size=8).map(  # Hydra's choice(...) drops quotes, and cannot say all without them
    lambda text: QuotedString(f"a{text}z", Quote.single).with_quotes()
)
LISTS = st.lists(INTEGERS, max_size=3).map(lambda items: f"[{','.join(map(str, items))}]")
ELEMENTS = st.one_of(INTEGERS.map(str), FLOATS.map(repr), WORDS, QUOTED, st.sampled_from(["[null]", "true"]), LISTS)
ENDS = st.tuples(INTEGERS, st.integers(1, 20), st.integers(1, 7))
TENTHS = st.tuples(st.integers(-50, 50), st.integers(1, 30), st.integers(1, 9))


def call(name, items):
    return f"{name}({','.join(items)})"


CHOICES = st.lists(ELEMENTS, min_size=1, max_size=5).map(lambda items: call("choice", items))
LISTED = st.lists(ELEMENTS, min_size=2, max_size=5).map(",".join)
NUMBERS = st.lists(st.one_of(INTEGERS.map(str), FLOATS.map(repr)), min_size=1, max_size=5)
RANGES = ENDS.map(lambda made: f"range({made[0]},{made[0] + made[1]},{made[2]})")
FALLING = ENDS.map(lambda made: f"range({made[0]},{made[0] - made[1]},-{made[2]})")
DECIMAL = TENTHS.map(lambda made: f"range({made[0] / 10},{(made[0] + made[1]) / 10},{made[2] / 10})")
DISCRETE = st.one_of(
    CHOICES,
    LISTED,
    RANGES,
    FALLING,
    DECIMAL,
    NUMBERS.map(lambda items: f"sort({call('choice', items)},reverse=true)"),
    NUMBERS.map(lambda items: f"int({call('choice', items)})"),
    NUMBERS.map(lambda items: f"tag(some,{call('choice', items)})"),
    NUMBERS.map(lambda items: f"float({','.join(items)},1)"),
    RANGES.map(lambda said: f"float({said})"),
    FALLING.map(lambda said: f"sort({said})"),
    RANGES.map(lambda said: f"shuffle({said})"),
    CHOICES.map(lambda said: f"shuffle({said})"),
)
INTERVALS = st.tuples(st.floats(1e-6, 1e3), st.floats(1e-3, 1e3)).map(lambda e: f"interval({e[0]!r},{e[0] + e[1]!r})")


def runs(cells):
    """Return runs as sets of (key, value), whatever their order."""
    read = OverridesParser.create()
    one = [[(o.get_key_element(), repr(o.value())) for o in read.parse_overrides(list(cell))] for cell in cells]
    return sorted(sorted(pairs) for pairs in one)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(["a.b", "c", "seed", "d/e@f", "+g"]), st.one_of(DISCRETE, ELEMENTS), min_size=1))
def test_a_multirun_makes_the_runs_that_hydras_own_sweeper_makes(said) -> None:
    arguments = [f"{key}={value}" for key, value in said.items()]
    (hydras,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), None)
    asked = plan(arguments, searching=False)
    ours = [(*asked.fixed, *cell, *seed) for cell, seed in itertools.product(asked.cells(), asked.seeds())]
    assert runs(ours) == runs(hydras)


@settings(deadline=None)
@given(DISCRETE)
def test_a_discrete_dimension_has_hydras_values(said) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"a.b={said}"])
    hydras = list(override.sweep_string_iterator())
    found = parse_space({"a.b": said})["a.b"]
    if found.choices or found.whole:
        assert set(hydras) == set(found.values())
    else:  # Hydra adds binary fractions, from above where the range falls
        assert sorted(map(float, hydras)) == pytest.approx(sorted(map(float, found.values())), abs=1e-9)
    assert len(found.values()) == len(set(found.values()))
    for written in found.values():
        assert parsed("a.b", written_as(parsed("a.b", written))) == parsed("a.b", written)


@settings(deadline=None)
@given(st.one_of(DISCRETE, INTERVALS), st.booleans())
def test_shell_yaml_and_python_say_the_same(said, tagged) -> None:
    said = f"tag(mine,{said})" if tagged and said.startswith(("choice(", "range(", "interval(", "shuffle(")) else said
    from_yaml = parse_space(yaml.safe_load(yaml.safe_dump({"a.b": said})))
    assert from_yaml == parse_space({"a.b": said})
    asked = plan([f"a.b={said}"], searching=True)
    if asked.searched:
        assert asked.searched == from_yaml
    else:  # a comma list is a grid
        assert set(asked.grid["a.b"]) == set(from_yaml["a.b"].choices)
    assert parse_space({"a.b": said}) == parse_space({"a.b": said})  # also where it is shuffled


@settings(deadline=None)
@given(INTERVALS)
def test_an_interval_keeps_its_bounds_and_tags_under_casts(said) -> None:
    low, high = map(float, said[len("interval(") : -1].split(","))
    assert parse_space({"k": said})["k"] == Dimension("k", (), low, high)
    assert parse_space({"k": f"tag(log,{said})"})["k"] == Dimension("k", (), low, high, log=True)
    assert parse_space({"k": f"float(tag(log,{said}))"})["k"] == Dimension("k", (), low, high, log=True)
    whole = Dimension("k", (), math.ceil(low), math.floor(high), None, log=True, whole=True)
    if whole.low <= whole.high:
        for written in (f"int(tag(log,{said}))", f"tag(log,int({said}))"):
            assert parse_space({"k": written})["k"] == whole
    else:
        with pytest.raises(BadInput, match="is empty: from"):
            parse_space({"k": f"int({said})"})


@settings(deadline=None)
@given(ENDS)
def test_a_whole_logarithmic_range_is_whole_and_logarithmic(made) -> None:
    start, length, _ = abs(made[0]) + 1, made[1] + 1, made[2]
    found = parse_space({"k": f"tag(log,range({start},{start + length}))"})["k"]
    assert found == Dimension("k", (), start, start + length - 1, 1.0, log=True, whole=True)
    assert found == parse_space({"k": f"int(tag(log,range({start},{start + length})))"})["k"]


def test_tenths_are_written_as_a_person_writes_them() -> None:
    found = parse_space({"k": "range(0.1,0.75,0.1)"})["k"]
    assert found.values() == ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7")
    falling = parse_space({"k": "range(0.7,0.05,-0.1)"})["k"]
    assert falling == found
    assert falling.values() == found.values()


@pytest.mark.parametrize(
    "said",
    [
        *("int()", "float()", "str()", "bool()", "choice()", "sort()", "int(choice())", "range()", "tag(log)"),
        *("int(choice(a))", "bool(interval(0,1))", "str(interval(0,1))", "choice(choice(1,2),choice(3))", "choice(1"),
        *("range(5,1)", "range(1,5,0)", "range(0.5,1,0)", "interval(1,1)", "interval(2,1)", "tag(log,interval(-1,1))"),
        *("tag(log,range(0,5))", "int(interval(0.2,0.8))", "shuffle(interval(0,1))", "1", "word", "[1,2]", "glob(zz*)"),
    ],
)
def test_what_holds_nothing_is_refused_in_a_sentence(said) -> None:
    with pytest.raises(BadInput, match=r"^[^\n]+; [^\n]+\.$"):
        parse_space({"k": said})
    if said in ("1", "word", "[1,2]"):
        assert plan([f"k={said}"], searching=True).fixed == (f"k={said}",)
        return
    with pytest.raises((BadInput, HydraException)) as refused:
        plan([f"k={said}"], searching=True)
    assert "\n" not in str(as_bad_input(refused.value))


def test_a_glob_is_all_options_of_a_group(train_config) -> None:
    assert set(parse_space({"model": "glob(*)"})["model"].choices) >= {"mlp", "linear"}
    assert parse_space({"optimizer": "glob([a*,s*],exclude=s*)"})["optimizer"].choices == ("adamw",)
    said = "lr_schedule=glob(co*)"
    assert set(plan([said], searching=False).grid["lr_schedule"]) == {"constant", "cosine"}
    assert set(plan([said], searching=True).searched["lr_schedule"].choices) == {"constant", "cosine"}


SGD = {"optimizer": "choice(adamw,sgd)", "optimizer.lr": "interval(0.1,0.2)", "model.layers": "range(1,4)"}


def test_a_condition_may_name_several_values() -> None:
    found = parse_space({**SGD, "when": {"model.layers=2, 3": {"model.width": "choice(8,16)"}}})
    assert found["model.width"].when == (("model.layers", ("2", "3")),)


@pytest.mark.parametrize(
    "when,why",
    [
        (["optimizer=sgd"], "is not a mapping of conditions to dimensions; write when: {"),
        ({"optimizer=sgd": "choice(1,2)"}, "is not a mapping of conditions to dimensions"),
        ({"momentum=1": {"k": "choice(1,2)"}}, "momentum is not searched; name one of optimizer"),
        ({"optimizer.lr=0.1": {"k": "choice(1,2)"}}, "optimizer.lr is an interval, which meets no single value"),
        ({"optimizer=sdg": {"k": "choice(1,2)"}}, "optimizer is never 'sdg'; it is one of adamw, sgd"),
        ({"model.layers=4": {"k": "choice(1,2)"}}, "model.layers is never '4'; it is one of 1, 2, 3"),
        ({"optimizer": {"k": "choice(1,2)"}}, "optimizer is never ''"),
        ({"optimizer=sgd": {"model.layers": "choice(1,2)"}}, "model.layers: is searched already; say it once"),
        ({"optimizer=sgd": {"k": 5}}, "'5' is one value, nothing to search"),
        ({"optimizer=sgd": {"k": "choice("}}, "cannot be read"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused_in_a_sentence(when, why) -> None:
    with pytest.raises(BadInput) as refused:
        parse_space({**SGD, "when": when})
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_parser_changes_nothing_of_hydras_own() -> None:
    ours, hydras = parser(), OverridesParser.create()
    for said in (
        "int(1.5,2.5)",
        "float(choice(1,2))",
        "str([1,2])",
        "bool(choice(true,false))",
        "int('3')",
        "int({a:1.5})",
    ):
        one, other = (made.parse_overrides([f"k={said}"])[0] for made in (ours, hydras))
        assert (one.value_type, one._value) == (other.value_type, other._value)

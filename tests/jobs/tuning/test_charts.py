"""The page of a search: it says what the study holds, escapes it, and no study is too small or too large."""

import math
import time
import xml.dom.minidom
from html.parser import HTMLParser

import numpy as np
import optuna
import pytest
from matplotlib import pyplot as plt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from jobs.tuning.charts import SearchFacts, page

FACTS = SearchFacts("Search of flights", "20 epochs", "val_log_loss", ("confirmed",), ("model=mlp",), (2, 6))
SECTIONS = ("Best config", "History", "Importance", "Configs", "Rungs", "Learning curves", "Budget")
ODD = "a <b>long</b> choice & $x$ of many words, 好 \n \x00"
HELD = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "model": CategoricalDistribution(("mlp", "linear", ODD)),
    "model.layers": IntDistribution(1, 4),
}


def made(lr=0.01, model="mlp", layers=2, curve=(0.5, 0.4), state=TrialState.COMPLETE, value=None, **attributes):
    params = {"optimizer.lr": lr, "model": model, "model.layers": layers}
    params = {name: of for name, of in params.items() if of is not None}
    over = state in (TrialState.COMPLETE, TrialState.PRUNED)
    return create_trial(
        state=state,
        value=(curve[-1] if value is None else value) if over else None,
        params=params,
        distributions={name: HELD[name] for name in params},
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={"overrides": [f"{name}={of}" for name, of in params.items()], **attributes},
    )


def study_of(*trials, directions=("minimize",)):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=list(directions))
    study.add_trials(trials)
    return study


def many(count):
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(count):
        lr, model = float(10 ** rng.uniform(-4, -1)), HELD["model"].choices[rng.integers(3)]
        final = 0.3 + 0.05 * (math.log10(lr) + 2.5) ** 2 + 0.1 * (model == "linear")
        length, state = (20, TrialState.COMPLETE) if rng.random() < 0.3 else (2, TrialState.PRUNED)
        curve = final + 0.3 / np.arange(1, length + 1) + rng.normal(0, 0.003, length)
        trials.append(made(lr, model, None if model == "linear" else int(rng.integers(1, 5)), curve.tolist(), state))
    return trials


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def titles(text):
    return [part.split("</h2>")[0] for part in text.split("<h2>")[1:]]


def charts(text):
    drawings = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in text.split("<svg")[1:]]
    for drawing in drawings:
        xml.dom.minidom.parseString(drawing)
    return len(drawings)


def tile(text, name):
    return text.split(f"</b>{name}</div>")[0].rpartition("<b>")[2]


def test_a_search_is_shown_whole() -> None:
    lost = [made(curve=(), state=TrialState.FAIL, error="out of memory"), made(curve=(0.9, math.inf))]
    text = page(study_of(*many(60), *lost, made(curve=(0.5,), state=TrialState.RUNNING)), FACTS)
    assert titles(text) == list(SECTIONS)
    assert charts(text) == 6
    assert tile(text, "trials") == "63"
    assert tile(text, "failed") == tile(text, "unfinished") == tile(text, "diverged") == "1"
    assert int(tile(text, "complete")) + int(tile(text, "pruned")) == 61
    assert int(tile(text, "epochs saved")) == 18 * int(tile(text, "pruned"))
    assert "1 failed: out of memory" in text
    assert "confirmed" in text
    assert "hence not weighed: model.layers" in text
    assert "python -m jobs.train \\\n    model=mlp" in text
    assert not plt.get_fignums()


def test_nothing_of_a_person_becomes_markup_or_reaches_out() -> None:
    hostile = "<script>alert(1)</script>"
    facts = SearchFacts(hostile, hostile, hostile, (hostile,), (f"model={ODD}",), (1,))
    trials = [*many(30), made(curve=(), state=TrialState.FAIL, error=hostile)]
    text = page(study_of(*trials), facts)
    assert "script" not in Tags(text).seen
    assert "<b>long" not in text
    assert "src=" not in text
    assert "url(http" not in text
    two = create_trial(values=[0.5, 2.0], params={}, distributions={}, user_attrs={"overrides": [hostile]})
    assert "script" not in Tags(page(study_of(two, directions=("maximize", "minimize")), facts)).seen


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [made()],
        [made(curve=(0.5,))],
        [made(curve=(), value=0.5)],
        [made(state=TrialState.PRUNED), made(state=TrialState.FAIL, curve=())],
        [made(state=TrialState.FAIL, curve=()), made(state=TrialState.FAIL, curve=())],
        [made(curve=(math.inf,)), made(curve=(-math.inf,))],
        [made(curve=(math.nan, 0.5)), made(curve=(1e300, 1e300)), made(curve=(0.1, -1e308))],
        [made() for _ in range(20)],
        [made(layers=None, model=ODD) for _ in range(3)],
        [create_trial(value=float(i), params={}, distributions={}) for i in range(20)],
    ],
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("rungs", [(), (1, 3)])
def test_no_study_is_too_small_or_strange(trials, direction, rungs) -> None:
    text = page(study_of(*trials, directions=(direction,)), SearchFacts("t", "s", "m", rungs=rungs))
    assert set(SECTIONS) - {"Rungs"} <= {*titles(text)}
    charts(text)


def test_the_best_is_what_was_told_and_else_what_keeps_its_bounds() -> None:
    trials = [made(0.01, curve=(0.2,)), made(0.02, curve=(0.3,)), made(0.03, curve=(0.4,))]
    assert "Trial 0: m 0.2" in page(study_of(*trials), SearchFacts("t", "s", "m"))
    told = ("dataset=flights", *trials[2].user_attrs["overrides"])
    assert "Trial 2: m 0.4" in page(study_of(*trials), SearchFacts("t", "s", "m", best=told))
    trials[0].set_constraint("latency_ms", 1.0)
    assert "Trial 1: m 0.3, lower is better" in page(study_of(*trials), SearchFacts("t", "s", "m"))


def test_a_trial_far_off_hides_neither_the_others_nor_their_importance() -> None:
    text = page(study_of(*many(60), made(curve=(1e9, 1e9))), FACTS)
    history, importance = (text.split(f"<h2>{name}</h2>")[1].split("<h2>")[0] for name in ("History", "Importance"))
    written = [said.split(" -->")[0] for said in history.split("<!-- ")[1:]]  # the letters are paths
    assert max(float(said) for said in written if said[0].isdigit() and "." in said) < 2
    shares = [int(said.split("%")[0]) for said in importance.split("<!-- ")[1:] if "% -->" in said]
    assert len(shares) == 2
    assert 98 <= sum(shares) <= 102


def test_several_objectives_are_a_pareto_set() -> None:
    rng = np.random.default_rng(1)
    held = {"model.layers": HELD["model.layers"], "optimizer.lr": HELD["optimizer.lr"]}
    trials = [
        create_trial(
            values=[float(value), float(10 * value**2 + rng.random())],
            params={"model.layers": int(rng.integers(1, 5)), "optimizer.lr": float(0.1 * value + 1e-4)},
            distributions=held,
            user_attrs={"overrides": [f"optimizer.lr={value}"]},
        )
        for value in rng.uniform(0, 0.9, 40)
    ]
    trials.append(create_trial(values=[math.inf, -math.inf], params={}, distributions={}))
    study = study_of(*trials[:-1], directions=("maximize", "minimize"))
    text = page(study, SearchFacts("t", "s", "val_auc, latency_ms"))
    assert titles(text) == ["Best config", "Pareto set", "Importance", "Configs"]
    assert f"these {len(study.best_trials)} (orange)" in text
    assert "<td>val_auc</td><td>latency_ms</td><td>overrides</td>" in text
    assert charts(text) == 3
    for odd in (study_of(*trials, directions=("maximize", "minimize")), study_of(directions=("maximize", "minimize"))):
        charts(page(odd, SearchFacts("t", "s", "val_auc")))


def test_it_is_the_same_page_each_time_and_soon_there_for_thousands() -> None:
    study = study_of(*many(2000))
    began = time.monotonic()
    text = page(study, FACTS)
    assert time.monotonic() - began < 30
    assert len(text) < 2_000_000
    assert page(study, FACTS) == text

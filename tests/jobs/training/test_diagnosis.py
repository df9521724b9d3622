"""What is said of curves: labelled ones, real trainings, noise, other units, and histories that make no sense."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conf.schema import TrainConfig
from jobs.training.context import LocalContext
from jobs.training.curve import noise, rise
from jobs.training.diagnosis import CODES, Curves, Diagnosis, diagnose
from jobs.training.loop import Diverged, Loop

FLAT = [0.5] * 20


def falling(epochs, pace, start=1.0, end=0.3):
    """Return an exponential; pace: its time constant in epochs."""
    return [end + (start - end) * math.exp(-i / pace) for i in range(epochs)]


def curves(train, val, metric=None, *, direction="max", noisy=0.0, seed=0, planned=None, **more):
    """Return a history of curves; metric: the selection metric's, else 1 - val_loss."""
    rng = random.Random(seed)
    aucs = metric if metric is not None else [1 - value for value in val]
    history = [
        {"train_loss": a, "val_loss": b * (1 + rng.gauss(0, noisy)), "val_auc": c * (1 + rng.gauss(0, noisy))}
        for a, b, c in zip(train, val, aucs, strict=True)
    ]
    return Curves(history, "val_auc", direction, planned or len(train), **more)


def with_norms(norms, layers=()):
    own = [{"gradient_norm": norm, **{f"gradient_norm/{k}": norm * v for k, v in layers}} for norm in norms]
    return Curves([{"train_loss": 1.0, "val_loss": 1.0, "val_auc": 0.5, **one} for one in own], "val_auc", "max", 9)


U = [0.6 - 0.02 * i for i in range(7)] + [0.48 + 0.012 * i for i in range(1, 14)]  # lowest in epoch 7

LABELLED = {
    "converged": (curves(falling(30, 4), falling(30, 4, end=0.35)), ("converged",)),
    "a plateau at once": (curves(FLAT, FLAT), ("converged",)),
    "noise on a plateau": (curves(falling(40, 4), falling(40, 4, end=0.35), noisy=0.004), ("converged",)),
    "a long way to go": (curves(falling(20, 12), falling(20, 12, end=0.35)), ("still_improving",)),
    "five epochs of it": (curves(falling(5, 6), falling(5, 6)), ("still_improving",)),
    "a straight line": (curves(falling(20, 9), FLAT, [0.7 + 0.002 * i for i in range(20)]), ("still_improving",)),
    "through zero": (curves(falling(9, 9), FLAT[:9], [-0.4 + 0.1 * i for i in range(9)]), ("still_improving",)),
    "from far below zero": (curves(FLAT, FLAT, [-1e3] + [0.001 * (1 - 0.5**i) for i in range(19)]), ("converged",)),
    "overfits": (curves(falling(20, 6), U), ("overfitting",)),
    "overfits noisily": (curves(falling(20, 6), U, noisy=0.01, seed=3), ("overfitting",)),
    "sure of itself": (
        curves(falling(20, 6), U, [0.7 + 0.005 * i for i in range(20)]),
        ("overfitting", "still_improving"),
    ),
    "not a number": (curves([0.5, 0.6, math.nan], [0.5, 0.6, 0.7]), ("diverged", "too_short")),
    "infinite": (curves(FLAT, [*FLAT[:-1], math.inf], FLAT), ("diverged",)),
    "rises": (curves([0.7, 0.5, 0.4, 0.5, 0.8, 1.2, 1.9, 3.0], [0.7, 0.5, 0.45, 0.6, 0.9, 1.4, 2, 3.1]), ("diverged",)),
    "a spike that is over": (curves([*falling(14, 3), 5.0, *falling(15, 3, 0.31)], falling(30, 4)), ("converged",)),
    "one epoch": (curves([0.5], [0.5]), ("too_short",)),
    "none": (curves([], []), ("too_short",)),
    "metric is nothing": (curves(FLAT, FLAT, [math.nan] * 20), ("undefined",)),
    "only noise": (curves(FLAT, FLAT, noisy=0.03, seed=2), ("noisy",)),
    "wild, then flat": (
        curves(FLAT, FLAT, [0.5 + 0.1 * (-1) ** i * (1 + i / 9) for i in range(9)] + [0.9] * 11),
        ("converged",),
    ),
    "falls": (curves(FLAT, FLAT, [0.8 - 0.01 * i for i in range(20)]), ("unstable",)),
    "explodes": (with_norms([1, 2, 1.5, 2, 1, 700]), ("exploding_gradients",)),
    "explodes by and by": (with_norms([3**i for i in range(12)]), ("exploding_gradients",)),
    "explodes at once": (with_norms([math.inf]), ("exploding_gradients", "too_short")),
    "vanishes": (with_norms([1.0] * 6, [("body.0", 1e-7), ("body.1", 1e-3)]), ("vanishing_gradients", "converged")),
    "has no gradient": (with_norms([0.0] * 6), ("vanishing_gradients", "converged")),
    "well apart": (curves(FLAT, FLAT, train_metric=0.79, val_metric=0.74), ("gap", "converged")),
    "close": (curves(FLAT, FLAT, train_metric=0.75, val_metric=0.74), ("converged",)),
    "better than on the train part": (curves(FLAT, FLAT, train_metric=0.7, val_metric=0.8), ("converged",)),
    "stopped early": (curves(falling(9, 2), FLAT[:9], planned=50, stopped_early=True), ("converged",)),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_curves(name) -> None:
    given_curves, codes = LABELLED[name]
    assert diagnose(given_curves).codes == codes, str(diagnose(given_curves))


@pytest.mark.parametrize(
    "name,said",
    [
        ("overfits", "overfitting from epoch 9: val_loss rose 27 % while train_loss fell 36 %"),
        ("a straight line", "still improving: val_auc gained 0.006 over the last 3 epochs; raise training.epochs"),
        ("well apart", "gap: val_auc 0.74 against 0.79 on the train part, 6.3 % apart, bound 5 %"),
        ("vanishes", "vanishing gradients: layer body.0 has 1e-07 of the total norm"),
        ("explodes", "exploding gradients: in epoch 6 their norm was 467 times that before; lower optimizer.lr"),
        ("not a number", "diverged: train_loss is nan in epoch 3; lower optimizer.lr"),
        ("rises", "diverged: train_loss rose 280 % above its lowest, about epoch 2; lower optimizer.lr"),
        ("stopped early", "stopped early, in epoch 9 of 50"),
    ],
)
def test_it_is_said_with_numbers(name, said) -> None:
    assert said in str(diagnose(LABELLED[name][0]))


def test_the_tags_are_short_words_and_numbers() -> None:
    both = curves(falling(20, 6), U, train_metric=0.79, val_metric=0.74, kept_epoch=7)
    found = diagnose(both)
    tags = found.tags()
    assert tags["diagnosis"] == "overfitting,gap"
    assert tags["diagnosis.gap"] == "0.06329"
    assert tags["diagnosis.overfitting_from_epoch"] == "9"
    assert "; the weights kept are of epoch 7; gap: " in tags["diagnosis.sentences"]
    assert not found.healthy
    assert diagnose(LABELLED["close"][0]).healthy
    assert diagnose(LABELLED["close"][0]).tags()["diagnosis.gap"] == "0.01333"


def test_a_rate_that_had_nearly_gone_is_said() -> None:
    given_curves = LABELLED["a straight line"][0]
    history = [{**epoch, "lr": 0.1 - 0.005 * i} for i, epoch in enumerate(given_curves.history)]
    assert "over the last 3 epochs (lr fell to 0.005)" in str(diagnose(Curves(history, "val_auc", "max", 20)))


def test_noise_alone_is_seldom_taken_for_more() -> None:
    """200 plateaus of several lengths and noises: hardly one is said to be more than flat or noisy."""
    said = []
    for seed in range(200):
        count = (6, 12, 30, 100)[seed % 4]
        level = [1.0] * count
        said += diagnose(curves([1 - 1e-6 * i for i in range(count)], level, level, noisy=0.03, seed=seed)).codes
    assert said.count("diverged") == 0
    assert said.count("overfitting") + said.count("unstable") <= 6
    assert said.count("still_improving") <= 16


def test_noise_is_measured_beside_a_trend() -> None:
    rng = random.Random(0)
    assert noise([i / 3 for i in range(50)]) == pytest.approx(0.0, abs=1e-12)
    assert noise([i / 3 + rng.gauss(0, 0.2) for i in range(2000)]) == pytest.approx(0.2, rel=0.1)
    assert rise([3, 2, 1, 1, 1, 2, 3, 3, 3, 3], 4.0).since == 4


ANY = st.floats(width=64)
NAMES = ("train_loss", "val_loss", "val_auc", "lr", "gradient_norm", "gradient_norm/body.0", "gradient_norm/head")
HISTORIES = st.lists(st.dictionaries(st.sampled_from(NAMES), ANY), max_size=40)
SANE = st.floats(1e-3, 1e3)
EPOCH = st.fixed_dictionaries(dict.fromkeys(NAMES, SANE))


@given(HISTORIES, st.sampled_from(["max", "min"]), st.booleans(), st.none() | ANY, st.none() | ANY)
@settings(max_examples=300, deadline=None)
def test_it_reads_any_history(history, direction, stopped, train, val) -> None:
    found = diagnose(Curves(history, "val_auc", direction, 10, 1, stopped, train, val))
    assert isinstance(found, Diagnosis)
    assert found.findings
    assert set(found.codes) <= set(CODES)
    assert len(set(found.codes)) == len(found.codes)
    assert all("\n" not in finding.sentence for finding in found.findings)
    assert all(isinstance(value, str) and len(value) < 5000 for value in found.tags().values())


@given(st.lists(EPOCH, min_size=1, max_size=30), st.integers(-20, 20), st.sampled_from(["max", "min"]))
@settings(max_examples=200, deadline=None)
def test_losses_in_other_units_give_the_same_findings(history, power, direction) -> None:
    scaled = [{key: v if key in ("val_auc", "lr") else v * 2.0**power for key, v in epoch.items()} for epoch in history]
    first, second = (diagnose(Curves(h, "val_auc", direction, 30)).tags() for h in (history, scaled))
    assert first == second
    as_metric = [diagnose(Curves(h, "val_loss", "min", 30)).codes for h in (history, scaled)]
    assert as_metric[0] == as_metric[1]


@given(st.lists(EPOCH, max_size=30), SANE, SANE, st.booleans())
@settings(max_examples=200, deadline=None)
def test_more_of_a_metric_is_less_of_its_negative(history, train, val, stopped) -> None:
    negative = [{**epoch, "val_auc": -epoch["val_auc"]} for epoch in history]
    up = diagnose(Curves(history, "val_auc", "max", 30, 1, stopped, train, val))
    down = diagnose(Curves(negative, "val_auc", "min", 30, 1, stopped, -train, -val))
    assert up.codes == down.codes
    assert up.gap == down.gap
    assert [one.numbers for one in up.findings] == [one.numbers for one in down.findings]


def trained(cfg: TrainConfig, data):
    """Return the curves of a real training; what it diverged with is its last epoch."""
    loop = Loop(cfg, data, LocalContext())
    try:
        history = [epoch.metrics for epoch in loop]
    except Diverged:
        history = [*loop.history, {"train_loss": math.nan}]
    stopped = len(history) < cfg.training.epochs
    return Curves(history, "val_auc", "max", cfg.training.epochs, loop.outcome().kept_epoch, stopped)


def test_a_real_training_that_converges(small_data, small_config) -> None:
    cfg = small_config(epochs=40, keep="last")
    cfg.model = {"_target_": "jobs.models.linear.Linear"}
    found = diagnose(trained(cfg, small_data("binary")))
    assert found.codes == ("converged",), str(found)


def test_a_real_training_that_is_cut_short(small_data, small_config) -> None:
    cfg = small_config(epochs=6, keep="last")
    cfg.optimizer["lr"] = 3e-4
    assert diagnose(trained(cfg, small_data("binary"))).codes == ("still_improving",)


def test_a_real_training_that_overfits(small_data, small_config) -> None:
    cfg = small_config(epochs=40, keep="last")
    cfg.model.update(width=128, dropout=0.0)
    found = diagnose(trained(cfg, small_data("binary")))
    assert "overfitting" in found.codes, str(found)
    assert float(found.tags()["diagnosis.overfitting_from_epoch"]) < 15


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_real_training_that_diverges(lr, small_data, small_config) -> None:
    cfg = small_config(epochs=12, keep="last", gradient_clip=0.0)
    cfg.optimizer = {"_target_": "torch.optim.SGD", "lr": lr, "momentum": 0.9}
    assert "diverged" in diagnose(trained(cfg, small_data("binary"))).codes


@pytest.mark.parametrize("activation,vanishes", [(nn.Sigmoid, True), (nn.ReLU, False)])
def test_the_first_layer_of_a_deep_sigmoid_network_gets_no_gradient(activation, vanishes) -> None:
    """After Glorot and Bengio 2010, figure 3; norms as the loop measures them."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), activation())]
    network = nn.Sequential(*layers, nn.Linear(16, 1))
    x = torch.randn(256, 16)
    optimizer, history = torch.optim.SGD(network.parameters(), lr=0.01), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), x[:, :1])
        loss.backward()
        own = {
            name: math.hypot(*(float(p.grad.norm()) for p in m.parameters()))
            for name, m in network.named_children()
            if [*m.parameters()]
        }
        norms = {f"gradient_norm/{name}": norm for name, norm in own.items()}
        history.append(
            {"train_loss": loss.item(), "val_loss": loss.item(), "gradient_norm": math.hypot(*own.values()), **norms}
        )
        optimizer.step()
    found = diagnose(Curves(history, "val_loss", "min", 6))
    assert ("vanishing_gradients" in found.codes) == vanishes, str(found)
    assert not vanishes or "layer 0 has" in str(found)

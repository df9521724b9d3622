"""Metrics against scikit-learn, intervals against what they promise."""

import numpy as np
import pytest
from sklearn import metrics as peer

from jobs.evaluation.metrics import evaluate, statistics

RNG = np.random.default_rng(0)
ROWS = 500
TRUTH = RNG.integers(0, 2, ROWS)
SCORE = np.round(np.clip(0.5 + 0.3 * (TRUTH - 0.5) + RNG.normal(0, 0.2, ROWS), 0.01, 0.99), 2)  # with ties


def test_two_classes_agree_with_scikit_learn_under_any_weights() -> None:
    answers = np.stack([1 - SCORE, SCORE], axis=1)
    weights = RNG.integers(0, 4, (3, ROWS))
    found = statistics("binary", answers, TRUTH)
    for row, weight in enumerate(weights):
        wanted = {
            "auc": peer.roc_auc_score(TRUTH, SCORE, sample_weight=weight),
            "log_loss": peer.log_loss(TRUTH, SCORE, sample_weight=weight),
            "brier": 2 * peer.brier_score_loss(TRUTH, SCORE, sample_weight=weight),
            "accuracy": peer.accuracy_score(TRUTH, SCORE > 0.5, sample_weight=weight),
        }
        for name, value in wanted.items():
            assert found[name](weights)[row] == pytest.approx(value, abs=2e-3 if name == "accuracy" else 1e-9)


def test_several_classes_and_numbers_agree_with_scikit_learn() -> None:
    truth, answers = RNG.integers(0, 3, ROWS), RNG.dirichlet(np.ones(3), ROWS)
    once = np.ones((1, ROWS))
    found = statistics("multiclass", answers, truth)
    assert found["log_loss"](once)[0] == pytest.approx(peer.log_loss(truth, answers))
    assert found["accuracy"](once)[0] == pytest.approx(peer.accuracy_score(truth, answers.argmax(1)))
    values, wanted = RNG.normal(5, 2, ROWS), RNG.normal(5, 2, ROWS)
    found = statistics("regression", values[:, None], wanted)
    weights = RNG.integers(0, 4, (1, ROWS))
    assert found["rmse"](weights)[0] ** 2 == pytest.approx(
        peer.mean_squared_error(wanted, values, sample_weight=weights[0])
    )
    assert found["mae"](weights)[0] == pytest.approx(peer.mean_absolute_error(wanted, values, sample_weight=weights[0]))
    assert found["r2"](weights)[0] == pytest.approx(peer.r2_score(wanted, values, sample_weight=weights[0]))


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(60):
        sample = np.random.default_rng(trial).normal(0, 1, 200)
        found = statistics("regression", sample[:, None], np.zeros(200))
        interval = evaluate({"rmse": found["rmse"]}, 200, 200, 0.9, seed=trial)["rmse"]
        assert interval.low <= interval.value <= interval.high
        held += interval.low <= 1.0 <= interval.high
    assert 46 <= held <= 60  # 54 expected; 46 is below the 0.1 % quantile of the binomial


def test_the_same_seed_gives_the_same_interval_and_one_class_gives_no_auc() -> None:
    found = statistics("binary", np.stack([1 - SCORE, SCORE], axis=1), np.zeros(ROWS, dtype=np.int64))
    assert np.isnan(found["auc"](np.ones((1, ROWS)))[0])
    twice = [evaluate({"brier": found["brier"]}, ROWS, 100, 0.95, seed=3) for _ in range(2)]
    assert twice[0] == twice[1]

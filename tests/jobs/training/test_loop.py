"""The loop learns, repeats itself bitwise, stops early, and says what is wrong in one sentence."""

import numpy as np
import pytest
import torch

from conf.errors import BadInput
from jobs.training.context import LocalContext
from jobs.training.loop import fit
from jobs.training.metrics import DIRECTION, selection_metric, validation_metrics


@pytest.mark.parametrize(
    "task,metric,bound",
    [("binary", "val_auc", 0.9), ("multiclass", "val_accuracy", 0.6), ("regression", "val_r2", 0.6)],
)
def test_it_learns_every_task(task, metric, bound, small_data, small_config) -> None:
    seen = []
    context = LocalContext(seen.append)
    outcome = fit(small_config(), small_data(task), context)
    assert outcome.metrics[metric] > bound
    assert [epoch.number for epoch in seen] == list(range(1, len(outcome.history) + 1))
    assert [epoch.last for epoch in seen] == [False] * (len(seen) - 1) + [True]
    assert outcome.metrics == outcome.history[outcome.kept_epoch - 1]


def test_the_same_seed_gives_bitwise_the_same_weights(small_data, small_config) -> None:
    first, second = (fit(small_config(), small_data("binary"), LocalContext()) for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    other = small_config()
    other.seed = 2
    assert fit(other, small_data("binary"), LocalContext()).weights_sha256 != first.weights_sha256


def test_it_stops_when_nothing_gets_better_and_keeps_the_kept_epoch(small_data, small_config) -> None:
    cfg = small_config(epochs=200, patience=2)
    cfg.model["width"] = 256
    outcome = fit(cfg, small_data("binary"), LocalContext())
    assert len(outcome.history) == outcome.kept_epoch + 2 < 200
    aucs = [metrics["val_auc"] for metrics in outcome.history]
    assert outcome.metrics["val_auc"] == max(aucs)


def test_the_linear_model_is_logistic_regression(small_data, small_config) -> None:
    from sklearn.linear_model import LogisticRegression

    data, cfg = small_data("binary"), small_config(epochs=60, patience=60)
    cfg.model = {"_target_": "jobs.models.linear.Linear"}
    outcome = fit(cfg, data, LocalContext())

    def dense(part):
        kinds = np.eye(5)[part.inputs.codes[:, 0], 1:]
        return np.hstack([np.nan_to_num(part.inputs.numbers), np.isnan(part.inputs.numbers), kinds])

    peer = LogisticRegression(C=1e3, max_iter=1000).fit(dense(data.train), data.train.target)
    answers = torch.from_numpy(peer.predict_proba(dense(data.validation)))
    theirs = validation_metrics("binary", answers, torch.from_numpy(data.validation.target))
    assert outcome.metrics["val_auc"] == pytest.approx(theirs["val_auc"], abs=0.02)


def test_a_diverging_run_ends_with_one_sentence(small_data, small_config) -> None:
    cfg = small_config()
    cfg.optimizer = {"_target_": "torch.optim.SGD", "lr": 1e30}
    cfg.training.gradient_clip = 0.0
    with pytest.raises(BadInput, match=r"optimizer\.lr: 1e\+30 made the loss"):
        fit(cfg, small_data("regression"), LocalContext())


@pytest.mark.parametrize(
    "group,component,said",
    [
        ("optimizer", {"_target_": "torch.optim.Adamw", "lr": 1e-3}, "optimizer: 'torch.optim.Adamw' cannot be built"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "lr": -1}, "Invalid learning rate"),
        ("model", {"_target_": "jobs.models.mlp.Mlp", "layers": 0}, "model"),
        ("model", {"_target_": "collections.UserDict"}, "makes no Module"),
    ],
)
def test_a_bad_component_is_named(group, component, said, small_data, small_config) -> None:
    cfg = small_config()
    setattr(cfg, group, component)
    with pytest.raises(BadInput) as raised:
        fit(cfg, small_data("binary"), LocalContext())
    assert said in str(raised.value)


def test_selection_metric_is_the_tasks_own_or_refused() -> None:
    assert selection_metric("binary", None) == ("val_auc", "max")
    assert selection_metric("multiclass", None) == ("val_log_loss", "min")
    assert selection_metric("regression", "val_r2") == ("val_r2", "max")
    assert set(DIRECTION.values()) == {"max", "min"}
    with pytest.raises(BadInput, match="not a metric of a regression task"):
        selection_metric("regression", "val_auc")

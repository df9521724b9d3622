"""What a finished run says of itself: is its curve healthy, and how far are validation and train part apart."""

from __future__ import annotations

import torch

from jobs.models.features import tensor
from jobs.training.diagnosis import Curves, Diagnosis, diagnose
from jobs.training.examples import Examples
from jobs.training.folder import RunFolder
from jobs.training.metrics import selection_metric, validation_metrics
from jobs.training.publish import Trained, restore

ROWS = 20_000  # of the train part, evenly spaced: enough for a metric to three digits


def findings(trained: Trained, folder: RunFolder) -> Diagnosis:
    """Return the diagnosis of a run that has ended, from its records and its kept weights."""
    training, data, outcome = trained.cfg.training, trained.training_data, trained.outcome
    metric, direction = selection_metric(data.schema.task, training.metric)
    return diagnose(
        Curves(
            history=folder.epochs() or outcome.history,
            metric=metric,
            direction=direction,
            planned_epochs=training.epochs,
            kept_epoch=outcome.kept_epoch,
            stopped_early=len(outcome.history) < training.epochs,
            train_metric=_train_metrics(trained, data.train).get(metric),
            val_metric=outcome.metrics.get(metric),
        )
    )


@torch.no_grad()
def _train_metrics(trained: Trained, train: Examples) -> dict[str, float]:
    """Return the kept weights' metrics on rows that they were trained on."""
    rows = slice(None, None, max(1, len(train.target) // ROWS))
    predictor, inputs = restore(trained), train.inputs
    given = (tensor(block[rows]) for block in inputs.blocks)
    target = tensor(train.target[rows])
    outputs = predictor.outputs(*given)
    loss = float(predictor.loss_sum(outputs, target)) / len(target)
    return {"val_loss": loss, **validation_metrics(predictor.task, predictor.answer(outputs), target)}

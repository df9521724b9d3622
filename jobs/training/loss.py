"""The loss that is trained on: the model's own, with smoothed labels or weighted classes where that is said."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from conf.errors import BadInput
from conf.schema import Training
from jobs.models.predictor import Predictor


class TrainingLoss:
    """Sums the loss over rows: (outputs [N, K], target [N]) -> scalar.

    label_smoothing: Szegedy et al. 2016, section 7. Balanced class weights are N / (K * rows of the class), whose mean
    over the train part is 1.
    """

    def __init__(self, training: Training, predictor: Predictor, target: Tensor) -> None:
        self._predictor, self._smoothing = predictor, training.label_smoothing
        self._weights: Tensor | None = None
        for key in ("label_smoothing", "class_weights"):
            said = getattr(training, key)
            if predictor.task == "regression" and said not in (0.0, "equal"):
                raise BadInput(f"training.{key}", said, "is for classes, not for values", "leave it out")
        if training.class_weights == "balanced":
            counts = torch.bincount(target).float()
            self._weights = len(target) / (len(counts) * counts.clamp(min=1))

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss."""
        if not self._smoothing and self._weights is None:
            return self._predictor.loss_sum(outputs, target)
        if self._weights is None:
            return functional.cross_entropy(outputs, target, reduction="sum", label_smoothing=self._smoothing)
        losses = functional.cross_entropy(outputs, target, reduction="none", label_smoothing=self._smoothing)
        return (losses * self._weights[target]).sum()

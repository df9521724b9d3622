"""The baseline: logistic, softmax or least-squares regression."""

from __future__ import annotations

from torch import Tensor, nn

from jobs.models.predictor import Inputs


class Linear(nn.Module):
    """One weight per feature and output, one per category value and output; all start at zero."""

    def __init__(self, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.features = nn.Linear(inputs.features, outputs)
        self.categories = nn.ModuleList(nn.Embedding(size, outputs, padding_idx=0) for size in inputs.categories)
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return [N, outputs]."""
        result: Tensor = self.features(features)
        for column, weights in enumerate(self.categories):
            result = result + weights(codes[:, column])
        return result

"""The baseline: logistic, softmax or least-squares regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.models.predictor import Inputs, refuse_texts


class Linear(nn.Module):
    """One weight per feature and output, one per category value and output; all start at zero."""

    def __init__(self, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        refuse_texts("linear", inputs)
        self.weight = nn.Parameter(torch.zeros(inputs.features, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.categories = nn.ModuleList(nn.Embedding(size, outputs, padding_idx=0) for size in inputs.categories)
        for weights in self.categories.parameters():
            nn.init.zeros_(weights)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return [N, outputs]."""
        result = features @ self.weight + self.bias
        for column, weights in enumerate(self.categories):
            result = result + weights(codes[:, column])
        return result

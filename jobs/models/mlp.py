"""A multi-layer perceptron with an embedding per category column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conf.errors import BadInput
from jobs.models.dropout import Dropout
from jobs.models.predictor import Inputs, refuse_texts


class Mlp(nn.Module):
    """`layers` x (linear, ReLU, dropout) of `width` units over the features and the categories' embeddings.

    An embedding is min(embedding, half of the vocabulary, rounded up) wide; "unknown" is the zero vector.
    """

    def __init__(self, inputs: Inputs, outputs: int, layers: int, width: int, dropout: float, embedding: int) -> None:
        super().__init__()
        refuse_texts("mlp", inputs)
        for key, value, lowest in (("layers", layers, 1), ("width", width, 1), ("embedding", embedding, 1)):
            if value < lowest:
                raise BadInput(f"model.{key}", value, "is out of range", f"give at least {lowest}")
        if not 0 <= dropout < 1:
            raise BadInput("model.dropout", dropout, "is out of range", "give at least 0 and less than 1")
        widths = [min(embedding, (size + 1) // 2) for size in inputs.categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, wide, padding_idx=0) for size, wide in zip(inputs.categories, widths, strict=True)
        )
        into = [inputs.features + sum(widths), *[width] * (layers - 1)]
        blocks = [nn.Sequential(nn.Linear(size, width), nn.ReLU(), Dropout(dropout)) for size in into]
        self.body = nn.Sequential(*blocks, nn.Linear(width, outputs))

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """Return [N, outputs]."""
        embedded = [table(codes[:, column]) for column, table in enumerate(self.embeddings)]
        result: Tensor = self.body(torch.cat([features, *embedded], dim=1))
        return result

"""A network that ONNX does not reproduce: it answers differently when it is traced."""

import torch
from torch import nn


class Strange(nn.Module):
    """Adds a constant that is only there outside of an export."""

    def __init__(self, inputs, outputs, **_) -> None:
        super().__init__()
        self.body = nn.Linear(inputs.features, outputs)

    def forward(self, features, codes):
        made = self.body(features)
        return made if torch.jit.is_tracing() else made + torch.arange(made.shape[1])

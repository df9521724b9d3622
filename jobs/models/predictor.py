"""The model as it is trained and exported: features, a network, and the head of its task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cluster.columns import Array, ModelSchema
from conf.component import make
from conf.errors import BadInput
from conf.schema import Component
from jobs.data.encode import Encoded
from jobs.models.features import Features, tensor


@dataclass(frozen=True)
class Inputs:
    """What a network is given: the width of its features, each category column's vocabulary, each text column's length.

    A network is any `nn.Module` built as `Net(inputs=Inputs, outputs=int, **its_yaml)` whose
    forward(features [N, inputs.features] float32, codes [N, len(inputs.categories)] int64) returns [N, outputs]:
    one logit per class, or one standardised value for regression. Code 0 is "unknown". Where there are text columns,
    forward takes each of them too, [N, L] uint8, L at most its length, zeros at the end.
    """

    features: int
    categories: tuple[int, ...]
    texts: tuple[int, ...] = ()


def refuse_texts(model: str, inputs: Inputs) -> None:
    """Raise BadInput for text columns, in a model that reads none."""
    if inputs.texts:
        remedy = "say model=text_transformer, or exclude them"
        raise BadInput("model", model, f"reads no text, and there are {len(inputs.texts)} text columns", remedy)


class Predictor(nn.Module):
    """Encoded columns in, probabilities (or a value in target units) out."""

    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, features: Features, network: nn.Module, task: str, target: Tensor) -> None:
        super().__init__()
        self.features, self.network, self.task = features, network, task
        regression = task == "regression"
        spread = float(target.double().std()) if regression and len(target) > 1 else 1.0
        self.register_buffer("target_mean", torch.tensor(float(target.double().mean()) if regression else 0.0))
        self.register_buffer("target_scale", torch.tensor(spread or 1.0))

    def forward(self, numbers: Tensor, codes: Tensor, times: Tensor, *texts: Tensor) -> Tensor:
        """Return [N, K] probabilities, or [N, 1] values in target units.

        numbers [N, a] float32 (NaN: missing), codes [N, b] int64 (0: unknown), times [N, c] int64 epoch seconds,
        texts [N, L] uint8 each.
        """
        return self.answer(self.outputs(numbers, codes, times, *texts))

    def outputs(self, numbers: Tensor, codes: Tensor, times: Tensor, *texts: Tensor) -> Tensor:
        """Return the network's [N, K] outputs for what `forward` takes."""
        made: Tensor = self.network(self.features(numbers, times), codes, *texts)
        return made

    def answer(self, outputs: Tensor) -> Tensor:
        """Return what a person reads from the network's [N, K] outputs."""
        if self.task == "regression":
            return outputs * self.target_scale + self.target_mean
        return torch.softmax(outputs, dim=1)

    def loss_sum(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss: cross-entropy in nats, or squared error of the standardised target."""
        if self.task == "regression":
            wanted = (target - self.target_mean) / self.target_scale
            return functional.mse_loss(outputs[:, 0], wanted, reduction="sum")
        return functional.cross_entropy(outputs, target, reduction="sum")


def build(model: Component, schema: ModelSchema, train: Encoded, target: Array) -> Predictor:
    """Build the predictor of a `model` yaml; statistics come from the train part. Raises BadInput for a bad yaml."""
    parts = tuple(column.parts for column in schema.columns if column.type == "time")
    features = Features(tensor(train.numbers), tensor(train.times), parts)
    inputs = Inputs(
        features=features.width,
        categories=tuple(len(c.categories) + 1 for c in schema.columns if c.type == "category"),
        texts=tuple(c.length for c in schema.columns if c.type == "text"),
    )
    outputs = len(schema.classes) if schema.classes else 1
    network = make("model", model, nn.Module, inputs=inputs, outputs=outputs)
    return Predictor(features, network, schema.task, tensor(target))

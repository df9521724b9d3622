"""The data of a run as tensors: made once, shared by all trials and workers through the object store."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.columns import ModelSchema
from jobs.data.encode import Encoded, encode
from jobs.data.load import Data, Part


@dataclass(frozen=True)
class Tensors:
    """One part: numbers [N, a] float32, codes [N, b] int64, times [N, c] int64, target [N] int64 or float32."""

    numbers: Tensor
    codes: Tensor
    times: Tensor
    target: Tensor

    def encoded(self) -> Encoded:
        """Return the inputs as numpy arrays (no copy)."""
        return Encoded(self.numbers.numpy(), self.codes.numpy(), self.times.numpy())


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is selected by; the sealed parts are not in it."""

    schema: ModelSchema
    train: Tensors
    validation: Tensors


def prepare(data: Data) -> TrainingData:
    """Encode both open parts of the data."""
    return TrainingData(data.schema, _tensors(data.train, data.schema), _tensors(data.validation, data.schema))


def _tensors(part: Part, schema: ModelSchema) -> Tensors:
    encoded = encode(part.raw, schema)
    numbers, codes, times = (torch.from_numpy(a) for a in (encoded.numbers, encoded.codes, encoded.times))
    return Tensors(numbers, codes, times, torch.from_numpy(part.target))

"""The data of a run as arrays: made once, shared by all trials and workers through the object store."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.columns import Array, ModelSchema
from jobs.data.encode import Encoded, encode
from jobs.data.load import Data, Part


@dataclass(frozen=True)
class Examples:
    """One part: its inputs, and its target [N] int64 or float32."""

    inputs: Encoded
    target: Array


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is selected by; the sealed parts are not in it."""

    schema: ModelSchema
    train: Examples
    validation: Examples


def prepare(data: Data) -> TrainingData:
    """Encode both open parts of the data."""
    return TrainingData(data.schema, _examples(data.train, data.schema), _examples(data.validation, data.schema))


def _examples(part: Part, schema: ModelSchema) -> Examples:
    return Examples(encode(part.raw, schema), part.target)

"""The data of a run as arrays: made once, shared by all trials and workers through the object store."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.columns import Array, ModelSchema
from conf.schema import TrainConfig
from jobs.data.encode import Encoded, encode
from jobs.data.load import Data
from jobs.data.stored import Stored
from jobs.data.stream import store


@dataclass(frozen=True)
class Examples:
    """One part: its inputs, and its target [N] int64 or float32.

    stored: where all rows of the part are, if these are a sample of them.
    """

    inputs: Encoded
    target: Array
    stored: Stored | None = None

    @property
    def rows(self) -> int:
        """Return how many rows the part has."""
        return self.stored.rows if self.stored else len(self.target)


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is selected by; the sealed parts are not in it."""

    schema: ModelSchema
    train: Examples
    validation: Examples


def prepare(cfg: TrainConfig, data: Data) -> TrainingData:
    """Encode both open parts of the data; with dataset.loading=stream store them, unless a run before has."""
    stored: dict[str, Stored] = {}
    if cfg.dataset.loading == "stream":
        stored = store(cfg.dataset, cfg.split, data, cfg.cluster)
    parts = {"train": data.train, "validation": data.validation}
    made = {
        name: Examples(encode(part.raw, data.schema), part.target, stored.get(name)) for name, part in parts.items()
    }
    return TrainingData(data.schema, **made)

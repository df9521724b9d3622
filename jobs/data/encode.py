"""From raw columns to arrays: categories become codes of the vocabulary; everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import Array, ModelSchema, Raw


@dataclass(frozen=True)
class Encoded:
    """numbers [N, a] float32 (NaN: missing), codes [N, b] int64 (0: unknown), times [N, c] int64 epoch seconds.

    texts: of each text column [N, L] uint8, UTF-8 padded with zeros.
    """

    numbers: Array
    codes: Array
    times: Array
    texts: tuple[Array, ...] = ()

    @property
    def blocks(self) -> tuple[Array, ...]:
        """Return all arrays in the order in which a predictor takes them."""
        return (self.numbers, self.codes, self.times, *self.texts)


def encode(raw: Raw, schema: ModelSchema) -> Encoded:
    """Stack the columns by kind, each kind in the schema's order."""
    rows = len(next(iter(raw.values()))) if raw else 0
    numbers = [raw[c.name] for c in schema.columns if c.type in ("number", "boolean")]
    codes = [_codes(raw[c.name], c.categories) for c in schema.columns if c.type == "category"]
    times = [raw[c.name] for c in schema.columns if c.type == "time"]
    return Encoded(
        np.concatenate(numbers, axis=1) if numbers else np.empty((rows, 0), np.float32),
        np.concatenate(codes, axis=1) if codes else np.empty((rows, 0), np.int64),
        np.concatenate(times, axis=1) if times else np.empty((rows, 0), np.int64),
        tuple(raw[c.name] for c in schema.columns if c.type == "text"),
    )


def _codes(values: Array, categories: tuple[str, ...]) -> Array:
    """Return position + 1 in the vocabulary, 0 for what is not in it; [N, 1]."""
    found = pc.index_in(pa.array(values[:, 0], pa.string()), pa.array(categories, pa.string()))
    return np.asarray(pc.fill_null(pc.add(pc.cast(found, pa.int64()), 1), 0).to_numpy(zero_copy_only=False))[:, None]

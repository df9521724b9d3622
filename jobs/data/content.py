"""Hashes of what a table says, whatever the files, chunks or types of whole numbers it came in."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import MISSING_TIME, Array, category_texts

Hashes = npt.NDArray[np.uint64]


def content_hash(table: pa.Table) -> str:
    """Return the sha256 of names, types and values in order, whatever the chunks or the file they came from."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{column.type};".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(pc.fill_null(column, 0).to_numpy().tobytes())
        else:
            encoded = category_texts(column).combine_chunks().dictionary_encode()
            encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
            digest.update("\x00".join(encoded.dictionary.to_pylist()).encode())
            digest.update(encoded.indices.to_numpy().tobytes())
    return digest.hexdigest()


def row_hashes(table: pa.Table) -> Hashes:
    """Return a hash of each row's values, [N] uint64; where the row and its columns stand does not matter."""
    columns = {name: _plain(table[name]) for name in sorted(table.column_names)}
    return np.asarray(pd.util.hash_pandas_object(pd.DataFrame(columns), index=False), np.uint64)


def mixed(hashes: Hashes, salt: int) -> Hashes:
    """Return other hashes for each salt (the finalizer of SplitMix64: Steele, Lea and Flood 2014, figure 17)."""
    z = hashes + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _plain(column: pa.ChunkedArray) -> Array:
    """Return values in one type per kind, so that a gap in a batch does not change how its other rows are hashed."""
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy())  # a missing one is NaN
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        seconds = pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())
        return np.asarray(pc.fill_null(seconds, MISSING_TIME).to_numpy())
    return np.asarray(category_texts(column).to_numpy(zero_copy_only=False))

"""Files larger than memory: Ray Data encodes their open parts once, and every epoch and run reads what is stored."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv

from cluster import session
from cluster.columns import Array, ModelSchema, raw_from_table
from cluster.progress import Step, step
from cluster.storage import storage_path
from conf.errors import BadInput
from conf.schema import Cluster, Dataset, Split
from jobs.data.checks import check_finite
from jobs.data.content import row_hashes
from jobs.data.encode import Encoded, encode
from jobs.data.load import Data
from jobs.data.source import BATCH_ROWS, Files, files
from jobs.data.split import OPEN, assign_alone, parts_of
from jobs.data.stored import Stored, Writer
from jobs.data.target import target_values

if TYPE_CHECKING:
    from ray.data import Dataset as RayDataset

_BLOCK_BYTES = 32 * 2**20  # of what Ray Data holds at once, for each task
_PART = "part"


def store(dataset: Dataset, split: Split, data: Data, cluster: Cluster) -> dict[str, Stored]:
    """Return the open parts, encoded in the files' order; what a run before has stored of the same rows is used again.

    Raises BadInput for rows that cannot be used and a full disk.
    """
    folder = storage_path(cluster) / "streams"
    said = json.dumps([data.data_hash, data.split_hash, data.schema.to_dict()])
    home = folder / hashlib.sha256(said.encode()).hexdigest()[:16]
    if not home.exists():
        half = home.with_name(f"{home.name}.half-{uuid.uuid4().hex}")
        try:
            rows = sum(data.sizes[part] for part in OPEN)
            with session.connect(cluster), step(f"store {rows:,} rows, encoded") as shown:
                _write(dataset, split, data.schema, half, shown)
            half.rename(home)
        except OSError as full:
            if not home.exists():  # else another run was first
                remedy = "make room there, or say another cluster.storage"
                raise BadInput("cluster.storage", str(folder), f"cannot be written ({full.strerror})", remedy) from full
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return {part: Stored.open(home / part) for part in OPEN}


def _write(dataset: Dataset, split: Split, schema: ModelSchema, folder: Path, shown: Step) -> None:
    shapes = row_shapes(schema)
    writers = {parts_of(split).index(part): Writer(folder / part, shapes) for part in OPEN}
    for block in _encoded_blocks(dataset, split, schema):
        for number, writer in writers.items():
            own = block[_PART] == number
            writer.append({name: block[name][own] for name in shapes if name in block})
        shown.update(f"{sum(writer.rows for writer in writers.values()):,} are written")
    for writer in writers.values():
        writer.close()


def row_shapes(schema: ModelSchema) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of a row of each array, as `Encoded` has them, and of the target."""
    kinds = [column.type for column in schema.columns]
    lengths = [column.length for column in schema.columns if column.type == "text"]
    return {
        "numbers": ("float32", (kinds.count("number") + kinds.count("boolean"),)),
        "codes": ("int64", (kinds.count("category"),)),
        "times": ("int64", (kinds.count("time"),)),
        **{f"text{i}": ("uint8", (length,)) for i, length in enumerate(lengths)},
        "target": ("int64" if schema.classes else "float32", ()),
    }


def _encoded_blocks(dataset: Dataset, split: Split, schema: ModelSchema) -> Iterator[dict[str, Array]]:
    """Yield all rows of the open parts in order, encoded by Ray's tasks."""
    from ray.data import DataContext
    from ray.exceptions import RayTaskError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_options.preserve_order = True
    source = files(dataset)
    with DataContext.current(context):
        encoded = _read(source).map_batches(
            partial(encode_rows, dataset, split, schema, source.schema), batch_format="pyarrow", batch_size=BATCH_ROWS
        )
        try:
            for block in encoded.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
                yield cast(dict[str, Array], block)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, BadInput) else error from None


def _read(source: Files) -> RayDataset:
    from ray import data

    if source.format == "parquet":
        return data.read_parquet(source.paths, filesystem=source.filesystem, partitioning=None)
    types = csv.ConvertOptions(
        strings_can_be_null=True, column_types=dict(zip(source.schema.names, source.schema.types, strict=True))
    )
    return data.read_csv(source.paths, filesystem=source.filesystem, partitioning=None, convert_options=types)  # type: ignore[arg-type]  # Ray annotates without the None that it takes


def encode_rows(
    dataset: Dataset, split: Split, schema: ModelSchema, said: pa.Schema, rows: pa.Table
) -> dict[str, Array]:
    """Return the rows that belong to an open part, encoded, and the number of their part.

    said: the schema of all files together; rows hash alike in whichever file they are.
    """
    table = pa.concat_tables([said.empty_table(), rows], promote_options="permissive").select(said.names).cast(said)
    part = assign_alone(split, table, row_hashes(table))
    wanted = [parts_of(split).index(name) for name in OPEN]
    kept = table[dataset.target].is_valid().to_numpy() & np.isin(part, wanted)
    table = table.filter(kept)
    check_finite(schema.columns, table)
    encoded = encode(raw_from_table(table, schema), schema)
    target = target_values(schema.target, schema.classes, table[schema.target])
    return {_PART: part[kept].astype(np.int8), **_named(encoded, row_shapes(schema)), "target": target}


def _named(encoded: Encoded, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Array]:
    """Return the arrays that have a column, texts padded to their whole length."""
    own = dict(zip(shapes, encoded.blocks, strict=False))
    padded = {}
    for name, array in own.items():
        (length,) = shapes[name][1]
        if length:
            padded[name] = np.pad(array, ((0, 0), (0, length - array.shape[1])))
    return padded

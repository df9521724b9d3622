"""Training on the benchmark's table as a file, in memory or streamed.

python -m tests.bench.peers.files write PATH ROWS
python -m tests.bench.peers.files memory|stream PATH EPOCHS STORAGE      the first stream of a file stores it

The second prints one line of JSON: samples a second of each epoch after the first, and the process's peak in MB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.load import load
from jobs.training.context import LocalContext
from jobs.training.examples import prepare
from jobs.training.loop import Loop
from tests.bench.peers.loops import COLUMNS, overrides

GROUP = 2**16  # rows written at a time


def write(path: str, rows: int) -> None:
    """Write the table, a piece at a time."""
    rng, writer = np.random.default_rng(0), None
    for first in range(0, rows, GROUP):
        numbers = rng.standard_normal((min(GROUP, rows - first), COLUMNS), dtype=np.float32)
        signal = numbers[:, :8].sum(1) + np.sin(3 * numbers[:, 8]) + rng.standard_normal(len(numbers), dtype=np.float32)
        table = pa.table({f"x{i}": numbers[:, i] for i in range(COLUMNS)} | {"y": (signal > 0).astype(np.int64)})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def train(loading: str, path: str, epochs: int, storage: str) -> dict[str, object]:
    """Train on the file."""
    said = ["dataset=table", f"dataset.path={path}", "dataset.target=y", f"dataset.loading={loading}"]
    said += ["dataset.sample_rows=20000"]  # fewer than the smallest part, so that every sample is as large
    split = ["split.fractions={train: 0.77, validation: 0.08}", f"cluster.storage={storage}"]
    cfg = compose("train", [*overrides(epochs), *said, *split], TrainConfig)
    rates, seen, loop = [], 0, Loop(cfg, prepare(cfg, load(cfg.dataset, cfg.split)), LocalContext())
    began = time.perf_counter()
    for epoch in loop:
        now = time.perf_counter()
        rates.append((epoch.samples - seen) / (now - began))
        seen, began = epoch.samples, now
    return {"rates": rates[1:], "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
        print(Path(sys.argv[2]).stat().st_size)
    else:
        print(json.dumps(train(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))

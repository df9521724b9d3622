"""Training on a GPU, one JSON line a figure: python -m tests.bench.gpu [--quick].

Figures: text_transformer (100 M weights, length 1,024, bf16: the share of the GPU's arithmetic that is used), table
(rates beside a loop by hand and Lightning's). Without a GPU each line says that it was skipped; --quick rehearses both
with small sizes on whatever there is, and its figures are not to be quoted.

Model FLOPs of a token, forward and backward: 6 per weight in matrices, and 12 * depth * width * positions of attention
(Chowdhery et al. 2022, PaLM, appendix B). Peaks: dense bf16 of NVIDIA's data sheets.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time

import numpy as np
import torch

from cluster.columns import ColumnSchema, ModelSchema
from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.encode import Encoded
from jobs.training.context import LocalContext
from jobs.training.examples import Examples, TrainingData
from jobs.training.loop import Loop
from tests.bench.train import LOOPS, call, compare, say

QUICK = "--quick" in sys.argv
WIDTH, DEPTH, LENGTH, BATCH, STEPS = (64, 2, 64, 8, 4) if QUICK else (1024, 8, 1024, 64, 40)
ROWS, EPOCHS, REPEATS = (20_000, 3, 1) if QUICK else (1_000_000, 6, 3)
PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}


def texts(rows: int) -> TrainingData:
    """Return random bytes as long as the network reads, and classes."""
    rng = np.random.default_rng(0)

    def part(count: int) -> Examples:
        nothing = np.empty((count, 0), np.int64)
        written = rng.integers(1, 256, (count, LENGTH)).astype(np.uint8)
        inputs = Encoded(nothing.astype(np.float32), nothing, nothing, (written,))
        return Examples(inputs, np.arange(count) % 2)

    columns = (ColumnSchema("text", "text", length=LENGTH),)
    return TrainingData(ModelSchema("y", "binary", ("no", "yes"), columns), part(rows), part(BATCH))


def text_transformer() -> None:
    """Measure the share of the GPU's arithmetic that training uses."""
    sizes = [f"model.width={WIDTH}", f"model.depth={DEPTH}", f"model.length={LENGTH}", "model.patch=1"]
    heads = [f"model.heads={WIDTH // 64}", "model.dropout=0"]
    training = ["training.precision=bf16", f"training.compile={not QUICK}", f"training.batch_size={BATCH}"]
    ends = ["training.epochs=4", "training.keep=last", "lr_schedule=constant"]
    cfg = compose(
        "train", ["dataset=bbc_news", "model=text_transformer", *sizes, *heads, *training, *ends], TrainConfig
    )
    loop = Loop(cfg, texts(STEPS * BATCH), LocalContext())
    took, weights = list[float](), loop.parameters()
    for _ in loop:  # each ends with its metrics on the CPU, so that all of it is done
        took.append(time.perf_counter())
    seconds = statistics.median(np.diff(took))
    tokens = STEPS * BATCH * LENGTH / seconds
    say("gpu.text_transformer", tokens, "tokens/s", weights=weights, steps=STEPS)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    if peak is not None:
        used = tokens * (6 * weights + 12 * DEPTH * WIDTH * LENGTH) / peak
        say("gpu.text_transformer.mfu", used, f"of the dense bf16 peak of {device}", goal=0.5, met=used >= 0.5)


def table() -> None:
    """Compare loops on the table of 1,000,000 x 32."""
    goals: dict[str, float | None] = {"plain": None}
    if importlib.util.find_spec("lightning"):
        goals["lightning"] = 5.0
    rates: dict[str, list[float]] = {row: [] for row in ("ours", *goals)}
    for _ in range(REPEATS):
        for row in rates:
            rates[row] += json.loads(call("-m", LOOPS, row, str(ROWS), str(EPOCHS)))
    compare("gpu.table", "ours", goals, rates)


if __name__ == "__main__":
    for figure in (text_transformer, table):
        if torch.cuda.is_available() or QUICK:
            figure()
        else:
            print(json.dumps({"name": f"gpu.{figure.__name__}", "skipped": "no GPU that PyTorch can use"}))

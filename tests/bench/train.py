"""Training against its peers, one JSON line a figure: python -m tests.bench.train [--quick] [FIGURE ...].

Figures: loop (in one process), workers (two), start (of Ray Train, and what a report and a checkpoint cost), stream
(a file that is not read whole, against itself in memory, and four times as long); all by default. --quick takes a tenth
of the rows and repeats nothing: to see that all runs, not to be quoted.

All rows train the same network on the same table with the same batches (tests/bench/peers/loops.py), one thread a
process, each in a process of its own, the rows of a figure in turn. Rates are samples a second from the second epoch
on (ours includes a validation of 1,000 rows); a ratio is that of the medians. Lightning is measured where it is
installed, and its row left out elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cluster
from tests.bench.peers.loops import BATCH, overrides

ROOT = Path(__file__).parents[2]
QUICK = "--quick" in sys.argv
ROWS, EPOCHS, REPEATS = (100_000, 3, 1) if QUICK else (1_000_000, 3, 3)
LOOPS, FILES = "tests.bench.peers.loops", "tests.bench.peers.files"
UNFUSED = "optimizer.fused=false"  # as the peers' optimizer is by default


def call(*said: str) -> str:
    """Run a command and return what it printed last."""
    inherited = {key: value for key, value in os.environ.items() if key not in {*cluster.ENVIRONMENT, "RAY_ADDRESS"}}
    path = os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])])
    own = {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *said], cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{said}: {ended.stderr[-3000:]}"
    return ended.stdout.splitlines()[-1]


def say(name: str, value: float, unit: str, **more: object) -> None:
    """Print a figure."""
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, **more}), flush=True)


def compare(name: str, mine: str, peers: dict[str, float | None], rates: dict[str, list[float]]) -> None:
    """Print our rate, and beside each peer the ratio and its goal."""
    middle = {row: statistics.median(values) for row, values in rates.items()}
    for row, value in middle.items():
        say(f"{name}.{row}", value, "samples/s", runs=REPEATS, epochs=len(rates[row]))
    for peer, goal in peers.items():
        ratio = middle[mine] / middle[peer]
        met = None if goal is None else ratio >= goal
        say(f"{name}.{mine}/{peer}", middle[mine], "samples/s", peer=peer, ratio=round(ratio, 3), goal=goal, met=met)


def loop() -> None:
    """Compare loops in one process."""
    peers: dict[str, float | None] = {"plain": 0.97, "dataloader": 1.8}
    if importlib.util.find_spec("lightning"):
        peers["lightning"] = 1.8
    rates: dict[str, list[float]] = {row: [] for row in ("ours", "ours unfused", *peers)}
    for _ in range(REPEATS):
        for row in rates:
            more = [UNFUSED] if row == "ours unfused" else []
            rates[row] += json.loads(call("-m", LOOPS, row.split()[0], str(ROWS), str(EPOCHS), *more))
    compare("loop", "ours", peers, rates)
    compare("loop", "ours unfused", peers, {row: rates[row] for row in rates if row != "ours"})


def workers() -> None:
    """Compare two workers of Ray Train with two processes of torchrun."""
    rates: dict[str, list[float]] = {"ours": [], "torchrun": []}
    for _ in range(REPEATS):
        rates["ours"] += fit(EPOCHS, f"training.batch_size={2 * BATCH}")["rates"]
        module = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", LOOPS]
        rates["torchrun"] += json.loads(call(*module, "ddp", str(ROWS), str(EPOCHS)))
    compare("workers", "ours", {"torchrun": 0.97}, rates)


def fit(epochs: int, *said: str, rows: int = ROWS, times: int = 1) -> dict[str, list[float]]:
    """Run fit_on_workers `times` times on one Ray; return rates, and seconds to the loop and of the whole."""
    given = json.dumps({"epochs": epochs, "said": said, "rows": rows, "times": times})
    found: dict[str, list[float]] = json.loads(call("-m", "tests.bench.train", "--fit", given))
    return found


def fitted(given: dict[str, object]) -> dict[str, list[float]]:
    """Do what `fit` asks for, in this process."""
    import ray

    from cluster import session
    from conf.compose import compose
    from conf.schema import Cluster, TrainConfig
    from jobs.training.workers import fit_on_workers
    from tests.bench.peers.loops import training_data

    epochs, said, rows, times = (given[key] for key in ("epochs", "said", "rows", "times"))
    workers = ["scaling=ddp", "scaling.num_workers=2", *said]
    cfg = compose("train", [*overrides(epochs), *workers], TrainConfig)
    found: dict[str, list[float]] = {"rates": [], "to_loop": [], "whole": []}
    with session.connect(Cluster(num_cpus=2)), tempfile.TemporaryDirectory() as folder:
        data = ray.put(training_data(rows))
        for i in range(times):
            path, began = Path(folder) / str(i), time.time()
            fit_on_workers(cfg, data, path)
            found["whole"].append(time.time() - began)
            records = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
            found["to_loop"].append(records[0]["started"] - began)
            found["rates"] += [r["metrics"]["samples_per_s"] for r in records if r.get("metrics")][1:]
    return found


def start() -> None:
    """Measure how long Ray Train takes to the loop, and what a checkpoint each epoch costs."""
    times = 2 if QUICK else 6
    for count, goal in ((2, 8.0), (1, 6.0)):
        took = fit(1, f"scaling.num_workers={count}", f"training.batch_size={BATCH}", rows=2000, times=times)
        for clock in ("to_loop", "whole"):
            seconds = statistics.median(took[clock][1:])
            said = {"goal": goal, "met": seconds <= goal} if clock == "whole" else {}
            say(f"start.{count}_workers.{clock}", seconds, "s", runs=times - 1, **said)
    epochs = 10 if QUICK else 60
    rows, one = 2000, [f"training.batch_size={BATCH}", "scaling.num_workers=1"]
    reported = statistics.median(fit(epochs, *one, rows=rows)["rates"])
    alone = statistics.median(json.loads(call("-m", LOOPS, "ours", str(rows), str(epochs))))
    report = 1000 * rows * (1 / reported - 1 / alone)
    say("start.report", report, "ms an epoch, its record included", goal=50, met=report <= 50, runs=epochs)
    rates: dict[str, list[float]] = {"none": [], "each_epoch": []}
    for _ in range(REPEATS):
        for row, every in (("none", 3600), ("each_epoch", 0)):
            rates[row] += fit(EPOCHS + 1, f"training.checkpoint_every_s={every}")["rates"]
    lost = 1 - statistics.median(rates["each_epoch"]) / statistics.median(rates["none"])
    say("start.checkpoint_stall", lost, "share of the time", goal=0.02, met=lost < 0.02, runs=REPEATS)


def stream() -> None:
    """Compare a streamed file with one in memory, and with one four times as long."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {factor: str(Path(folder) / f"{factor}.parquet") for factor in (1, 4)}
        found: dict[tuple[str, int], list[dict[str, Any]]] = {
            (row, n): [] for row in ("memory", "stream") for n in paths
        }
        for factor, path in paths.items():
            call("-m", FILES, "write", path, str(factor * ROWS))
            call("-m", FILES, "stream", path, "1", folder)  # the first stores it
        for _ in range(REPEATS):
            for (row, factor), runs in found.items():
                runs.append(json.loads(call("-m", FILES, row, paths[factor], str(EPOCHS), folder)))
    rates = {
        f"{row} x{factor}": [rate for run in runs for rate in run["rates"]] for (row, factor), runs in found.items()
    }
    compare("stream", "stream x1", {"memory x1": 0.7}, rates)
    peaks = {row: statistics.median(run["peak"] for run in runs) for row, runs in found.items()}
    for (row, factor), peak in peaks.items():
        say(f"stream.{row} x{factor}.peak", peak, "MB", runs=REPEATS)
    say("stream.peak x4/x1", peaks["stream", 4] / peaks["stream", 1], "ratio", goal=1.05)


FIGURES = {"loop": loop, "workers": workers, "start": start, "stream": stream}

if __name__ == "__main__":
    if "--fit" in sys.argv:
        print(json.dumps(fitted(json.loads(sys.argv[-1]))))
    else:
        for name in [word for word in sys.argv[1:] if word in FIGURES] or list(FIGURES):
            FIGURES[name]()

"""The search against its peers, one JSON line a figure: python -m tests.bench.tune [--quick] [FIGURE ...].

Figures: command (and search: the same runs by two clocks), long, thousand, scale, quality, startup; all by default.
--quick divides counts by ten and repeats nothing: to see that all runs, not to be quoted.

Every row trains the very same thing (tests/bench/peers/problem.py: our loop) on two slots, in a fresh folder, with its
own Ray; only what surrounds the loop differs. Two clocks, the same for all: `command`, the wall time of the
process; `search`, from the first trial asked for to the last one told, read from each row's own Optuna study. Ours logs
every trial and epoch to MLflow; of the peers only the documented one does. MLflow's tables are there before either
begins (`startup.fresh` says what the first search of a folder pays for them). Plain Optuna has no cluster at all, stops
by its own halving and so trains other epochs: `epochs` and `best` stand beside each time. A run that fails ends the
bench.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import cluster
from jobs.tuning.journal import read_study
from tests.bench.peers.problem import GRACE, REDUCTION, SLOTS, overrides, space

ROOT = Path(__file__).parents[2]
QUICK = "--quick" in sys.argv
Row = dict[str, float]
Samples = list[tuple[float, float]]  # seconds since 1970, resident MiB


def count(usual: int, least: int = 1) -> int:
    """Return how many of something."""
    return max(usual // 10, least) if QUICK else usual


def run(module: str, *said: str) -> tuple[float, str, Samples]:
    """Run a command; return its wall time in seconds, what it printed, and its own memory over time."""
    inherited = {key: value for key, value in os.environ.items() if key not in {*cluster.ENVIRONMENT, "RAY_ADDRESS"}}
    own, call = {**inherited, "PYTHONPATH": str(ROOT)}, [sys.executable, "-m", module, *said]
    memory: Samples = []
    with tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        process = subprocess.Popen(call, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=errors, text=True)
        watcher = threading.Thread(target=watch, args=(process, memory))
        watcher.start()
        printed, _ = process.communicate()
        took = time.monotonic() - started
        watcher.join()
        errors.seek(0)
        assert process.returncode == 0, (
            f"{module} ended with {process.returncode}: {errors.read()[-3000:]}{printed[-1000:]}"
        )
    return took, printed, memory


def watch(process: subprocess.Popen[str], memory: Samples) -> None:
    """Note the resident memory of a process (not of its children) while it runs."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        memory += [(time.time(), int(line.split()[1]) / 1024) for line in status.splitlines() if "VmRSS" in line]
        time.sleep(0.2)


@functools.cache
def tables() -> bytes:
    """Return a SQLite file with MLflow's tables and nothing in them."""
    with tempfile.TemporaryDirectory() as folder:
        made = f"import mlflow; mlflow.MlflowClient('sqlite:///{folder}/mlflow.db').search_experiments()"
        subprocess.run([sys.executable, "-c", made], check=True, capture_output=True)
        return (Path(folder) / "mlflow.db").read_bytes()


@contextmanager
def own_folder(fresh: bool = False) -> Iterator[str]:
    """Make a folder for one run."""
    with tempfile.TemporaryDirectory() as folder:
        if not fresh:
            (Path(folder) / "mlflow.db").write_bytes(tables())
        yield folder


def peer(module: str, *said: object) -> Row:
    """Run a peer in a folder of its own."""
    with own_folder() as folder:
        took, printed, _ = run(f"tests.bench.peers.{module}", *map(str, said), folder)
    return {"command_s": took, **json.loads(printed.splitlines()[-1])}


def ours(trials: int, epochs: int, seconds: float | None, *said: str, fresh: bool = False) -> Row:
    """Run our command in a folder of its own; its search is read from its journal."""
    asha = [f"scheduler.grace_period={GRACE}", f"scheduler.reduction_factor={REDUCTION}"]
    own = [*overrides(epochs, seconds), *space(seconds), *(said or asha)]
    with own_folder(fresh) as folder:
        began = time.time()
        amount = (f"tuning.num_samples={trials}", f"cluster.num_cpus={SLOTS}", f"cluster.storage={folder}")
        took, _, memory = run("jobs.tune", *own, *amount)
        (path,) = (Path(folder) / "tune").glob("*.journal")
        done = read_study(path).trials
        with closing(sqlite3.connect(Path(folder) / "mlflow.db")) as database:
            ((logged,),) = database.execute("select count(*) from tags where key = 'trial'").fetchall()
    assert len(done) == logged == trials, f"{trials} trials asked for, {len(done)} in the study, {logged} in MLflow"
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in done), "a trial failed"
    starts = sorted(trial.datetime_start.timestamp() for trial in done)
    ends = sorted(trial.datetime_complete.timestamp() for trial in done)
    row = {
        "command_s": took,
        "search_s": ends[-1] - starts[0],
        "asked_s": starts[0] - began,
        "first_s": ends[0] - began,
    }
    row |= {"end_s": took - (ends[-1] - began), "each_s": steady(ends)}
    row |= {"early_mib": resident(memory, ends[min(99, trials // 10)]), "late_mib": resident(memory, ends[-1])}
    epochs_done = sum(len(trial.intermediate_values) for trial in done)
    return {**row, "epochs": epochs_done, "best": min(trial.value for trial in done)}


def steady(ends: list[float]) -> float:
    """Return the seconds of a trial, from the 11th that ended to the last."""
    first = min(10, len(ends) - 2)
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def resident(memory: Samples, when: float) -> float:
    """Return the memory at a moment."""
    return min(memory, key=lambda sample: abs(sample[0] - when))[1]


def say(name: str, value: float, unit: str, of: str, ratio: float, goal: str, runs: int, **more: float) -> None:
    """Print one figure; goal: 'at least X' or 'at most X', of the ratio."""
    bound = float(goal.split()[2])
    met = ratio >= bound if goal.startswith("at least") else ratio <= bound
    figure = {"name": name, "value": round(value, 3), "unit": unit, "peer": of, "ratio": round(ratio, 3), "goal": goal}
    figure |= {"met": met, "runs": runs, **{key: round(number, 4) for key, number in more.items()}}
    print(json.dumps(figure | ({"quick": True} if QUICK else {})), flush=True)


def median(rows: list[Row], key: str) -> float:
    """Return the median of one number."""
    return statistics.median(row[key] for row in rows)


GOALS = (
    ("documented", "command_s", "at least 8 times faster"),
    ("documented", "search_s", "at least 15 times faster"),
    ("reused", "command_s", "at least 1 times as fast"),
    ("optuna", "command_s", "at most 1.3 of its time"),
)
LONG = (*((of, clock, "at least 1 times as fast") for of, clock, _ in GOALS[:3]), GOALS[3])  # nobody trains faster


def compare(name: str, trials: int, epochs: int, seconds: float | None, runs: int) -> None:
    """Compare with each peer by both clocks, all rows in turn."""
    said = (trials, epochs, "none" if seconds is None else seconds)
    rows: dict[str, list[Row]] = {"ours": [], "documented": [], "reused": [], "optuna": []}
    for i in range(runs):
        rows["ours"].append(ours(trials, epochs, seconds))
        rows["optuna"].append(peer("optuna_processes", *said))
        rows["reused"].append(peer("ray_tune", "reused", *said))
        if i == 0:  # by far the slowest
            rows["documented"].append(peer("ray_tune", "documented", *said))
    for of, clock, goal in GOALS if name == "command" else LONG:
        mine, theirs = median(rows["ours"], clock), median(rows[of], clock)
        both = {key: (median(rows["ours"], key), median(rows[of], key)) for key in ("search_s", "epochs", "best")}
        more = {key: numbers[0] for key, numbers in both.items()}
        more |= {f"peer_{key}": numbers[1] for key, numbers in both.items()}
        ratio = theirs / mine if goal.startswith("at least") else mine / theirs
        what = clock.removesuffix("_s")
        label = what if name == "command" else f"{name}.{what}"
        say(label, mine, "s", of, ratio, goal, runs, peer_value=theirs, peer_runs=len(rows[of]), **more)


def thousand(trials: int, seconds: float = 0.1) -> None:
    """Measure many short trials against the floor of two slots that never wait, and the driver's memory."""
    floor = trials * seconds / SLOTS
    for searcher, most in (("random", "1.10"), ("tpe", "1.20")):
        row = ours(trials, 1, seconds, f"searcher={searcher}", "scheduler=none")
        running = row["each_s"] / (seconds / SLOTS)
        ratio, goal = row["search_s"] / floor, f"at most {most} of the floor"
        say(f"thousand.{searcher}", row["search_s"], "s", "floor", ratio, goal, 1, trials=trials, ratio_running=running)
        of, late, goal = f"trial {min(100, trials // 10 + 1)}", row["late_mib"], "at most 1.2 of that"
        say(f"memory.{searcher}", late, "MiB", of, late / row["early_mib"], goal, 1, trials=trials)


def scale(*counts: int) -> None:
    """Measure a trial that does next to nothing, in searches of growing size."""
    each = {}
    for trials in counts:
        row = ours(trials, 1, 0.0, "searcher=random", "scheduler=none")
        each[trials] = row["each_s"] * 1000
    least, most = counts[0], counts[-1]
    ratio, more = each[most] / each[least], {f"ms_of_{trials}": value for trials, value in each.items()}
    say("scale", each[most], "ms a trial", f"{least} trials", ratio, "at most 1.1 of that", 1, **more)


def quality(seeds: int, spent: dict[str, int]) -> None:
    """Compare what searchers find for the same epochs: ours (tpe) with Ray's and with random draws, all under ASHA."""
    import numpy as np
    from scipy.stats import rankdata, wilcoxon

    gaps: dict[str, list[float]] = {}

    def searched(problem: str) -> str:
        return run("tests.bench.peers.searchers", problem, str(seeds), str(spent[problem]))[1]

    with ThreadPoolExecutor(SLOTS) as pool:  # nothing here is timed
        outcomes = list(pool.map(searched, spent))
    for problem, printed in zip(spent, outcomes, strict=True):
        lines = [json.loads(line) for line in printed.splitlines()]
        sign = 1 if lines[0]["mode"] == "min" else -1
        found = {line["searcher"]: np.array(line["best"]) for line in lines}  # [quarter, half, all] x seeds
        ranks = rankdata([sign * found[searcher][-1] for searcher in found], axis=0).mean(axis=1)
        rank = dict(zip(found, map(float, ranks), strict=True))
        for other in ("ray", "random"):
            mine, theirs = sign * found["ours"], sign * found[other]
            test = wilcoxon(mine[-1], theirs[-1]).pvalue if (mine[-1] != theirs[-1]).any() else 1.0
            worse = float(test < 0.05 and np.median(mine[-1] - theirs[-1]) > 0)
            more = {"p": float(test), "rank": rank["ours"], "peer_rank": rank[other], "epochs": float(spent[problem])}
            more |= {"better_seeds": float((mine[-1] < theirs[-1]).sum()), "best": float(found["ours"][-1].mean())}
            for at, part in enumerate(("quarter", "half")):
                more |= {part: float(found["ours"][at].mean()), f"peer_{part}": float(found[other][at].mean())}
            more["peer_best"] = float(found[other][-1].mean())
            goal = "at most 0 times significantly worse (Wilcoxon, p < .05)"
            say(f"quality.{problem}", more["best"], "objective", other, worse, goal, seeds, **more)
            gaps.setdefault(other, []).append(rank["ours"] - rank[other])
    for other, of_problems in gaps.items():
        mean = statistics.mean(of_problems)
        say("quality.rank", mean, "mean rank, ours minus its", other, mean, "at most 0 on average", seeds)


def startup(runs: int) -> None:
    """Measure the way from the command to the end of the first trial, which trains one epoch of some milliseconds."""
    for name, fresh in (("startup", False), ("startup.fresh", True)):
        rows = [ours(2, 1, None, fresh=fresh) for _ in range(runs)]
        took = median(rows, "first_s")
        more = {key: median(rows, key) for key in ("asked_s", "end_s", "command_s")}
        say(name, took, "s", "goal", took, "at most 6 s", runs, worst=max(row["first_s"] for row in rows), **more)


SPENT = {"flights": 300, "digits": 300, "branin": 1200, "hartmann6": 1200}  # epochs of a search; a trial has 27
FIGURES = {
    "command": lambda: compare("command", count(32, 4), count(27, 9), None, count(3)),
    "long": lambda: compare("long", count(8, 4), count(9, 3), 1.0, 1),
    "thousand": lambda: thousand(count(1000)),
    "scale": lambda: scale(*map(count, (100, 1000, 5000))),
    "quality": lambda: quality(count(10, 2), {problem: count(epochs, 60) for problem, epochs in SPENT.items()}),
    "startup": lambda: startup(count(5)),
}

if __name__ == "__main__":
    asked = [name for name in sys.argv[1:] if name != "--quick"] or [*FIGURES]
    for figure in dict.fromkeys("command" if name == "search" else name for name in asked):
        print(f"{figure} at {datetime.now():%H:%M:%S}", file=sys.stderr)
        FIGURES[figure]()

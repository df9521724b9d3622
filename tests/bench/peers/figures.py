"""Figures of the serving benchmark, printed as they are made."""

from __future__ import annotations

import json
import os
import statistics
import sys

from tests.bench.peers.load import Measured

QUICK = "--quick" in sys.argv
CORES = os.cpu_count() or 1


def say(name: str, value: float | None, unit: str, **more: object) -> None:
    """Print a figure."""
    shown = None if value is None else round(value, 4)
    figure = {"name": name, "value": shown, "unit": unit, **more, "cores": CORES}
    print(json.dumps(figure | ({"quick": True} if QUICK else {})), flush=True)


def left_out(name: str, why: str) -> None:
    """Print that a figure was not measured, and why."""
    print(json.dumps({"name": name, "value": None, "skipped": why, "cores": CORES}), flush=True)


class Runs(dict[str, list[Measured]]):
    """The runs of each row of a figure."""

    def add(self, name: str, measured: Measured) -> None:
        """Keep a run."""
        self.setdefault(name, []).append(measured)

    def failed(self, name: str) -> int:
        """Return the requests of a row without a good answer."""
        return sum(run.failed for run in self[name])

    def median(self, name: str, key: str = "rate") -> float:
        """Return the median of one number."""
        return statistics.median(getattr(run, key) for run in self[name])

    def say(self, figure: str, name: str, **more: object) -> None:
        """Print a row."""
        latency = {key: round(self.median(name, key), 3) for key in ("p50_ms", "p99_ms")}
        failed = self.failed(name)
        state = {"failed": failed} if failed else {}
        rate = self.median(name)
        say(f"{figure}.{name}", rate, "requests/s", runs=len(self[name]), **latency, **state, **more)

    def compare(self, figure: str, mine: str, peer: str, goal: float | None, **more: object) -> None:
        """Print a ratio of rates, none where a row failed."""
        failed = {name: count for name in (mine, peer) if (count := self.failed(name))}
        ratio = None if failed else self.median(mine) / self.median(peer)
        said = {"ratio": None if ratio is None else round(ratio, 3), "goal": goal}
        met = None if ratio is None or goal is None else ratio >= goal
        why = {"failed": failed} if failed else {}
        say(f"{figure}.{mine}/{peer}", self.median(mine), "requests/s", peer=peer, **said, met=met, **why, **more)

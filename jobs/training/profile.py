"""`profiler=true`: a trace of some steps for chrome://tracing or Perfetto, and a table of where the time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from jobs.training.epoch import Epoch
from jobs.training.folder import RunFolder

if TYPE_CHECKING:
    from cluster.tracking import Run
    from jobs.training.loop import Loop

WARM, STEPS = 3, 20
PARTS = ("forward", "backward", "optimizer")  # what `Update` names
TRACE, TABLE = "trace.json", "profile.txt"
_MOST = 8


class Profiler:
    """A watcher that records steps WARM + 1 to WARM + STEPS, or as many as the first epoch has."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._open = folder, True
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile = profile(activities=activities, schedule=schedule(wait=0, warmup=WARM, active=STEPS, repeat=1))

    def begin(self, loop: Loop) -> None:
        """Begin to warm up."""
        self._profile.start()

    def step_over(self, loop: Loop) -> None:
        """Record a step."""
        if not self._open:
            return
        self._profile.step()
        if self._profile.step_num >= WARM + STEPS:
            self._end()

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """End with the first epoch at the latest."""
        if self._open:
            self._end()

    def _end(self) -> None:
        self._open = False
        self._profile.stop()
        (self._folder.path / TABLE).write_text(_table(self._profile))
        self._profile.export_chrome_trace(str(self._folder.path / TRACE))


def keep_profile(folder: RunFolder, run: Run) -> str:
    """Keep trace and table with the run, and return the table."""
    for name in (TRACE, TABLE):
        run.file(folder.path / name)
    return (folder.path / TABLE).read_text()


def _table(recorded: profile) -> str:
    """Return the share of each part of a step, then the operations that take most by themselves."""
    rows = [row for row in recorded.key_averages() if not row.key.startswith("ProfilerStep")]
    where = "GPU" if torch.cuda.is_available() else "CPU"
    parts = {row.key: row.cpu_time_total for row in rows if row.key in PARTS}
    steps = max(1, next((row.count for row in rows if row.key == "optimizer"), 1))
    lines = [f"where the time goes, {steps} steps"]
    lines += [_line(part, parts.get(part, 0.0), steps, sum(parts.values())) for part in PARTS]
    lines += [f"operations by their own time on the {where}"]
    own = {row.key: row.self_device_time_total if where == "GPU" else row.self_cpu_time_total for row in rows}
    operations = sorted((key for key in own if key not in PARTS), key=lambda key: -own[key])
    lines += [_line(key, own[key], steps, sum(own.values())) for key in operations[:_MOST]]
    return "\n".join(lines) + "\n"


def _line(name: str, took_us: float, steps: int, whole_us: float) -> str:
    return f"  {name[:48]:<48}{took_us / steps / 1000:9.3f} ms a step {took_us / (whole_us or 1.0):5.0%}"

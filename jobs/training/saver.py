"""The watcher of a run: keeps its checkpoints, records its epochs, and ends it in order when asked to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from conf.schema import Training
from jobs.training.epoch import Epoch
from jobs.training.folder import RunFolder
from jobs.training.layers import gradient_norms
from jobs.training.loop import Loop
from jobs.training.meter import Meter

GRADIENT = "gradient_norm/"  # of an epoch's metrics: of each layer, in the first step, after clipping
AGREED_EVERY = 16  # steps between two questions to all workers; a process of its own asks itself at each
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to end; its state is saved."""


class Saver:
    """Watches one process's loop; of several workers each has one, and they do the same at the same step.

    asked_to_stop: looked at between two steps. agree: returns, for numbers of each worker, the largest of all.
    warned: whether this host is about to be taken away, which is a reason to save once.
    """

    def __init__(
        self,
        folder: RunFolder,
        training: Training,
        rank: int,
        asked_to_stop: Callable[[], bool],
        agree: Callable[[list[float]], list[float]] | None = None,
        warned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self._training, self._rank = folder, training, rank
        self._asked_to_stop, self._agree, self._warned = asked_to_stop, agree, warned
        self._heeded = False
        self._saved, self._steps = time.monotonic(), 0
        self._checkpoints: Any = None
        self._meter: Meter | None = None
        self._norms: dict[str, float] = {}

    def begin(self, loop: Loop) -> None:
        """Take up the latest whole checkpoint where there is one, and record the start."""
        latest = self._folder.latest()
        if latest is not None:
            from jobs.training.checkpoint import read

            loop.load_state(read(latest, loop.state(), loop.update.parameters))
        if self._rank == 0:
            epoch, step = loop.position
            started = {"started": time.time(), "workers": loop.context.world_size, "epoch": epoch, "step": step}
            self._folder.record({**started, "pid": os.getpid()})
        self._meter = Meter(loop.context.device, self._training.num_threads)
        self._meter.measure(loop.samples)

    def step_over(self, loop: Loop) -> None:
        """Save where it is time, and raise Stopped where the run is asked to end."""
        self._steps += 1
        if loop.position[1] == 1:
            self._norms = gradient_norms(loop.network, loop.context.whole)
        if self._agree is not None and self._steps % AGREED_EVERY:
            return
        every = self._training.checkpoint_every_s
        due = every > 0 and time.monotonic() - self._saved >= every
        self._save_where(loop, due)

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Record the epoch, and save likewise."""
        if self._rank == 0 and self._meter is not None:
            norms = {f"{GRADIENT}{name}": norm for name, norm in self._norms.items()}
            metrics = {**epoch.metrics, **self._meter.measure(loop.samples), **norms}
            self._folder.record({"epoch": epoch.number, "objective": epoch.objective, "metrics": metrics})
        due = not epoch.last and time.monotonic() - self._saved >= self._training.checkpoint_every_s
        self._save_where(loop, due)

    def end(self) -> None:
        """Wait for what is being written."""
        if self._checkpoints is not None:
            try:
                self._checkpoints.wait()
            except OSError as error:
                self._without(error)

    def _save_where(self, loop: Loop, due: bool) -> None:
        warned = not self._heeded and self._warned()
        self._heeded |= warned
        asked = [float(self._asked_to_stop()), float(due or warned)]
        stop, save = self._agree(asked) if self._agree is not None else asked
        if not (stop or save):
            return
        from jobs.training.checkpoint import Checkpoints

        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self._folder.checkpoints, self._rank)
        try:
            self._checkpoints.save(loop.state(), loop.steps_taken)
            self._saved = time.monotonic()
            if stop:
                self._checkpoints.wait()
        except OSError as error:
            if stop:
                raise
            self._without(error)
        if stop:
            raise Stopped

    def _without(self, error: OSError) -> None:
        self._saved = time.monotonic()
        if self._rank == 0:
            _log.warning("a checkpoint could not be written (%s); training goes on without it", error.strerror)

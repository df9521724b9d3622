"""What the command makes of a run's records: metrics and restarts in MLflow, and the live line."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.exceptions import MlflowException

from cluster.progress import Step
from cluster.tracking import Run
from conf.schema import Training
from jobs.training.folder import RunFolder

_log = logging.getLogger(__name__)
LOOK_S = 0.5
BATCH_S = 5.0  # between two batches of metrics


class Recorder:
    """Follows the records that the first worker (or this process) writes, in a thread of its own.

    An epoch that was trained again after a restart is logged once.
    """

    def __init__(self, folder: RunFolder, run: Run, shown: Step, training: Training, metric: str) -> None:
        self._folder, self._run, self._shown, self._training, self._metric = folder, run, shown, training, metric
        self._read = self._epoch = self._starts = self._steps = 0
        self._unsent: list[tuple[int, float, dict[str, float]]] = []
        self._sent = time.monotonic()
        self._first: tuple[float, int] | None = None  # when this start began, and with how many epochs

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow while the block runs, and to the end of the records."""
        over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(over,), name="recorder", daemon=True)
        self._catch_up()
        thread.start()
        well = False
        try:
            yield
            well = True
        finally:
            over.set()
            thread.join()
            self._take()
            self._send(last=well)  # after an error that one is raised, not that it could not be logged

    def _catch_up(self) -> None:
        """Pass over what an earlier command has logged, and take what it had no time to log."""
        before = self._new()
        logged = self._run.last_step(self._metric) if before else 0
        for record in before:
            self._starts += "started" in record
            if "metrics" in record and record["epoch"] > max(logged, self._epoch):
                self._unsent.append((record["epoch"], time.time(), record["metrics"]))
                self._epoch = record["epoch"]
        self._epoch = max(self._epoch, logged)

    def _follow(self, over: threading.Event) -> None:
        while not over.wait(LOOK_S):
            self._take()
            if time.monotonic() - self._sent >= BATCH_S:
                self._send()

    def _take(self) -> None:
        for record in self._new():
            if "started" in record:
                self._start(record)
            elif record["epoch"] > self._epoch:
                self._epoch = record["epoch"]
                self._unsent.append((record["epoch"], time.time(), record["metrics"]))
                self._show(record)

    def _start(self, record: dict[str, Any]) -> None:
        self._starts += 1
        self._first = (record["started"], record["epoch"])
        self._run.tag({"workers": record["workers"], "restarts": self._starts - 1})
        if self._starts > 1:
            where = f"in epoch {record['epoch'] + 1} after {record['step']} steps, on {record['workers']} workers"
            self._run.tag({f"restart.{self._starts - 1}": where})

    def _show(self, record: dict[str, Any]) -> None:
        epoch, epochs, metrics = record["epoch"], self._training.epochs, record["metrics"]
        left = ""
        if self._first is not None and epoch > self._first[1]:
            each = (time.time() - self._first[0]) / (epoch - self._first[1])
            left = f", at most {each * (epochs - epoch):.0f} s left"
        value, speed = metrics[self._metric], metrics["samples_per_s"]
        self._shown.update(f"epoch {epoch}/{epochs}, {self._metric} {value:.4f}, {speed:,.0f} rows/s{left}")

    def _new(self) -> list[dict[str, Any]]:
        """Return the records since the last look; a line that is being written waits for the next."""
        if not self._folder.records.exists():
            return []
        with self._folder.records.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._read += sum(map(len, whole))
        return [json.loads(line) for line in whole]

    def _send(self, last: bool = False) -> None:
        """Log what was not; where the tracking server is away, try again later, unless it is the last time."""
        self._sent = time.monotonic()
        if not self._unsent:
            return
        try:
            self._run.log(self._unsent)
        except (MlflowException, OSError) as error:
            if last:
                raise
            _log.warning("metrics wait: the tracking server does not take them (%s)", str(error).splitlines()[0])
            return
        self._unsent = []

"""A search's ended trials on their way to MLflow: in a file at once, sent by a thread, whatever the server does."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Event, Thread

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from cluster.progress import say
from cluster.tracking import KIND, NAME, PARENT, Tracking

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0  # between two attempts while the server is away
_SLOW_S = 0.05  # a request that took longer may have been repeated inside MLflow
_STRIKES = 5  # failures of one record while the server answers others
_HOPELESS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")

_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

for _noisy in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # a traceback or a line per attempt
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class TrialRecord:
    """One ended trial. number: unique in its search; state: complete, pruned or failed; times in ms since 1970.

    history[i] holds the metrics of step i + 1, reported at times[i].
    """

    number: int
    params: dict[str, str]
    history: list[dict[str, float]]
    times: list[int]
    state: str
    started: int
    ended: int
    error: str = ""

    def metrics(self) -> list[Metric]:
        """Return the history as MLflow takes it."""
        steps = enumerate(zip(self.history, self.times, strict=True), 1)
        return [Metric(key, float(value), at, step) for step, (of, at) in steps for key, value in of.items()]


@contextmanager
def impatient() -> Iterator[None]:
    """Let MLflow give up a request within seconds inside: the spool asks again, and nobody waits for it."""
    before = {key: os.environ.get(key) for key in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


class Spool:
    """The records of one search in an append-only file, and the thread that makes each a child run of `parent`.

    Beside the file, `<path>.sent` holds how many of its bytes are sent. Sending and noting are not atomic: what an
    earlier driver left is looked up before a run is created, and writing to the same run again changes nothing.
    unsent: how many records are on disk only; refused: how many of the others MLflow will never take.
    """

    def __init__(self, path: Path, tracking: Tracking, name: str, parent: str) -> None:
        self._path, self._client, self._name, self._parent = path, tracking.client, name, parent
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)  # each record goes to the operating system at once
        note = path.with_name(f"{path.name}.sent")
        note.touch()
        self._note = note.open("r+b", buffering=0)
        self._sent = self._noted()
        self._size, self.unsent = self._whole_lines()
        self._doubt = self._size  # of records that begin before this byte, a run may exist already
        self._experiment, self._away, self.refused = "", 0.0, 0
        self._changed, self._closing, self._stop = Condition(), False, Event()
        self._thread = Thread(target=self._send_all, name="spool", daemon=True)
        self._thread.start()

    def append(self, record: TrialRecord) -> None:
        """Keep a record: a killed process loses none. Never waits for MLflow; raises OSError on a full disk."""
        line = json.dumps(vars(record), separators=(",", ":")).encode() + b"\n"
        with self._changed:
            try:
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._size)
                raise
            self._size += len(line)
            self.unsent += 1
            self._changed.notify()

    def close(self, wait_s: float) -> int:
        """Wait at most so many seconds until all is sent; return how many records are on disk only."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        self._stop.set()  # a thread that is inside a request ends after it
        return self.unsent

    def _noted(self) -> int:
        """Return how many bytes are sent; 0, so that all is looked up, unless a record ends there."""
        with suppress(ValueError):
            sent = int(self._note.read())
            if sent and os.pread(self._file.fileno(), 1, sent - 1) == b"\n":
                return sent
        return 0

    def _whole_lines(self) -> tuple[int, int]:
        """Cut off a half-written last line; return the size, and how many records are not sent."""
        with self._path.open("rb") as file:
            file.seek(self._sent)
            whole = [len(line) for line in file if line.endswith(b"\n")]
        size = self._file.truncate(self._sent + sum(whole))
        return size, len(whole)

    def _send_all(self) -> None:
        with self._file, self._note:
            while (line := self._next()) and self._send(line):
                with self._changed:
                    self._sent += len(line)
                    self.unsent -= 1
                with suppress(OSError):  # what is not noted is looked up
                    os.pwrite(self._note.fileno(), b"%020d" % self._sent, 0)

    def _next(self) -> bytes:
        """Return the next record's line, once there is one; nothing when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent < self._size or self._closing)
            left, length = self._size - self._sent, 1 << 16
        while b"\n" not in (piece := os.pread(self._file.fileno(), min(length, left), self._sent)) and left:
            length *= 2
        return piece[: piece.find(b"\n") + 1]

    def _send(self, line: bytes) -> bool:
        """Send a record, however long the server is away; False when told to stop."""
        pause, strikes = FIRST_PAUSE_S, 0
        while not self._stop.is_set():
            try:
                self._apply(TrialRecord(**json.loads(line)))
            except Exception as error:
                self._doubt = max(self._doubt, self._sent + 1)
                strikes += self._at_fault(error)
                why = str(error).rpartition("prematurely)")[2].strip().partition("\n")[0][:200]  # SQLAlchemy's preface
                if strikes == _STRIKES or _hopeless(error):
                    self.refused += 1
                    if self.refused == 1:
                        say(f"MLflow refuses a trial ({why}); it and others like it stay in {self._path}")
                    return True
                if not self._away:
                    self._away = time.monotonic()
                    say(f"MLflow does not answer ({why}); the search goes on, its trials wait in {self._path}")
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if self._away:
                    say(f"MLflow answers again after {time.monotonic() - self._away:.0f} s; the trials follow in order")
                    self._away = 0.0
                return True
        return False

    def _apply(self, record: TrialRecord) -> None:
        self._experiment = self._experiment or self._client.get_run(self._parent).info.experiment_id
        found = self._find(record) if self._sent < self._doubt else []
        run_id, *surplus = found or self._create(record)
        for other in surplus:
            self._client.delete_run(other)
        params = [Param(key, value[:6000]) for key, value in record.params.items()]
        try:
            self._client.log_batch(run_id, metrics=record.metrics(), params=params)  # MLflow splits what is too long
        except Exception as error:
            if _hopeless(error):  # a run that stays without its numbers does not stay open as well
                self._client.set_terminated(run_id, "FAILED", record.ended)
            raise
        self._client.set_terminated(run_id, "FAILED" if record.state == "failed" else "FINISHED", record.ended)

    def _create(self, record: TrialRecord) -> list[str]:
        """Return the run that was created, and any that MLflow created beside it by asking twice."""
        tags = {KIND: "trial", NAME: self._name, PARENT: self._parent, "state": record.state}
        tags |= {"trial": str(record.number), "error": record.error[:5000]}
        run_name, began = f"{self._name}-trial-{record.number}", time.monotonic()
        run = self._client.create_run(self._experiment, start_time=record.started, tags=tags, run_name=run_name)
        again = self._find(record) if time.monotonic() - began > _SLOW_S else []
        return [str(run.info.run_id), *(other for other in again if other != run.info.run_id)]

    def _find(self, record: TrialRecord) -> list[str]:
        said = f"tags.`{PARENT}` = '{self._parent}' and tags.trial = '{record.number}'"
        return [str(run.info.run_id) for run in self._client.search_runs([self._experiment], said, max_results=10)]

    def _at_fault(self, error: Exception) -> bool:
        """Tell whether a record fails although the server answers."""
        if isinstance(error, MlflowException) and error.get_http_status_code() != 500:
            return False
        with suppress(Exception):
            return bool(self._client.get_run(self._parent))
        return False


def _hopeless(error: Exception) -> bool:
    """Tell an error that comes again whenever the record does."""
    return getattr(error, "error_code", "") in _HOPELESS or isinstance(error, TypeError | ValueError)

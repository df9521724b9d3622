"""What every replica says of itself each second, in a file that all hosts see: any of them can speak for all.

<storage>/serving/<model>/<replica>.json is replaced as a whole. A replica that has not renewed its own for GONE_S is
gone; what it counted is kept for KEPT_S, so that no total falls.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from cluster.storage import storage_path
from serve.counts import BOUNDS, Answered, Counts, Tally

if TYPE_CHECKING:  # `serve.status` reads snapshots without what predicts
    from cluster.records import Predictions
    from cluster.segments import SegmentWriter
    from conf.schema import DeployConfig
    from serve.variants import Variants

log = logging.getLogger("ray.serve")

EVERY_S, GONE_S, KEPT_S = 1.0, 10.0, 86_400.0
MOST = 100  # snapshots kept, those that live aside: a replica that fails at each start makes no endless list
_FOLDER, _SUFFIX, _UNFINISHED = "serving", ".json", ".unfinished"


@dataclass(frozen=True)
class Snapshot:
    """One replica at one moment. started, written: seconds since 1970; ended: it said so itself, by closing."""

    model: str
    replica: str
    host: str
    pid: int
    started: float
    written: float
    ended: bool
    ab_test: str
    weights: dict[str, float]
    versions: dict[str, int]  # alias -> version
    refused: str
    log_dropped: int
    failed_writes: int
    answered: list[Answered]
    tallies: list[Tally]
    bounds: tuple[float, ...] = BOUNDS

    def lives(self, now: float) -> bool:
        """Tell whether the replica still answers, for all that is known."""
        return not self.ended and now - self.written < GONE_S


class Snapshots:
    """Writes one replica's snapshots in a thread, whatever the disk does, and reads those of all."""

    def __init__(
        self, cfg: DeployConfig, counts: Counts, variants: Variants, records: SegmentWriter[Predictions]
    ) -> None:
        self._model, self._folder = cfg.name, folder(storage_path(cfg.cluster), cfg.name)
        self._counts, self._variants, self._records = counts, variants, records
        self._replica, self._host, self._started = _replica_id(), socket.gethostname(), time.time()
        self._failed_writes, self._failing = 0, False
        self._writing, self._stop = threading.Lock(), threading.Event()
        _tidy(self._folder, self._started)
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last one, and end the thread."""
        self._stop.set()
        self._thread.join()
        self._write(ended=True)

    def all(self) -> list[Snapshot]:
        """Return the snapshots of all replicas, this one's as it is now.

        It is written before: a total read here, and from another replica right after, does not fall.
        """
        own = self._write(ended=False)
        return [own, *(one for one in read(self._folder, own.written) if one.replica != own.replica)]

    def _run(self) -> None:
        while True:
            self._write(ended=False)
            if self._stop.wait(EVERY_S):
                return

    def _write(self, *, ended: bool) -> Snapshot:
        with self._writing:
            taken = self._take(ended)
            path = self._folder / f"{self._replica}{_SUFFIX}"
            unfinished = path.with_suffix(_UNFINISHED)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                unfinished.write_bytes(orjson.dumps(taken))
                unfinished.replace(path)
            except Exception as error:  # a full disk, whatever it is: answers go on, only the others see it gone
                self._failed_writes += 1
                if not self._failing:
                    log.warning("%s: its counts reach no other replica; %s", self._model, error)
                self._failing = True
            else:
                self._failing = False
        return taken

    def _take(self, ended: bool) -> Snapshot:
        live = self._variants.live
        return Snapshot(
            model=self._model,
            replica=self._replica,
            host=self._host,
            pid=os.getpid(),
            started=self._started,
            written=time.time(),
            ended=ended,
            ab_test=live.policy.ab_test,
            weights=dict(live.weights),
            versions={alias: variant.version.number for alias, variant in live.variants.items()},
            refused=self._variants.refused.encode(errors="replace").decode(),  # a path may be no UTF-8
            log_dropped=self._records.dropped,
            failed_writes=self._failed_writes,
            answered=self._counts.answered(),
            tallies=self._counts.tallies(),
        )


def _replica_id() -> str:
    """Return Serve's id of this replica, one of our own where the application runs without Serve."""
    from ray.serve import get_replica_context
    from ray.serve.exceptions import RayServeException

    try:
        return str(get_replica_context().replica_id.unique_id)
    except RayServeException:
        return uuid.uuid4().hex[:8]


def folder(storage: Path, model: str) -> Path:
    """Return where the snapshots of a model's replicas lie."""
    return storage / _FOLDER / model


def models(storage: Path) -> list[str]:
    """Return the models that have a folder of snapshots."""
    return sorted(path.name for path in (storage / _FOLDER).glob("*"))


def read(where: Path, now: float) -> list[Snapshot]:
    """Return the snapshots in a folder, by start, that are not older than KEPT_S at `now`, seconds since 1970."""
    found = [one for path in where.glob(f"*{_SUFFIX}") if (one := _parsed(path)) and now - one.written < KEPT_S]
    return sorted(found, key=lambda one: (one.started, one.replica))


def _parsed(path: Path) -> Snapshot | None:
    """Return what a file says; None where it was deleted meanwhile, or another release or a person wrote it."""
    try:
        said = orjson.loads(path.read_bytes())
        answered = [Answered(**item) for item in said.pop("answered")]
        tallies = [Tally(**item) for item in said.pop("tallies")]
        one = Snapshot(answered=answered, tallies=tallies, bounds=tuple(said.pop("bounds")), **said)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return one if one.bounds == BOUNDS else None


def forget(storage: Path, model: str) -> None:
    """Delete what the replicas of a model that is served no longer have left."""
    shutil.rmtree(folder(storage, model), ignore_errors=True)


def _tidy(where: Path, now: float) -> None:
    """Delete what replicas left that are gone: all that is older than KEPT_S, and all but the last MOST."""
    left = []
    for path in [*where.glob(f"*{_SUFFIX}"), *where.glob(f"*{_UNFINISHED}")]:
        with suppress(OSError):  # another replica that starts tidies too
            left.append((path.stat().st_mtime, path))
    left.sort(reverse=True)
    for i, (written, path) in enumerate(left):
        if now - written > KEPT_S or (i >= MOST and now - written > GONE_S):
            with suppress(OSError):
                path.unlink()

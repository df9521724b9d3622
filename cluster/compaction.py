"""Compaction: small segments become few, days that are over their retention go, while others write and read.

A merged segment is written whole beside its sources and says in its metadata which they are; GRACE_S later they are
deleted. So whoever lists a day at any moment finds each row at least once, also where a merge was killed half-way, and
readers count each once. One process at a time works on a model's folder, whichever gets its lock.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet

from cluster.segments import UNFINISHED, Segment, days, segments, whole

log = logging.getLogger("ray.serve")

MANY = 60  # segments of one level before they become one of the next
ENOUGH = 32_000_000  # bytes of a segment that is not merged any more: a merge is short
GRACE_S = 10.0  # far longer than a listing of a day takes
ABANDONED_S = 3600.0  # an unfinished file so old has no writer any more
ROWS = 65_536  # of a row group, and held in memory
HOUR_NS = 3_600 * 10**9
SLACK_NS = 60 * 10**9  # after the end of an hour or a day, until it is taken for closed
REPLACES = b"rungway.replaces"


def replaced(segment: Path) -> frozenset[str]:
    """Return the names of the segments that a merged one is made of; raises FileNotFoundError where it is gone."""
    if Segment.of(segment).level == 0:
        return frozenset()
    metadata = parquet.read_metadata(segment).metadata or {}
    return frozenset(json.loads(metadata.get(REPLACES, b"[]")))


def merge(day: Path, sources: list[Path]) -> Path:
    """Write a segment with the rows of segments of one shape, and return it; they stay. Holds ROWS rows in memory."""
    named = [Segment.of(path) for path in sources]
    schema = parquet.read_schema(sources[0]).remove_metadata()
    path = day / Segment.merged(named).name
    said = {REPLACES: json.dumps([source.name for source in sources]).encode()}
    with whole(path) as output, parquet.ParquetWriter(output, schema) as writer:
        held: list[pa.RecordBatch] = []
        for source in sources:
            with parquet.ParquetFile(source) as file:
                for batch in file.iter_batches(ROWS, use_threads=False):
                    held.append(batch)
                    if sum(one.num_rows for one in held) >= ROWS:
                        writer.write_table(pa.Table.from_batches(held, schema))
                        held = []
        if held:
            writer.write_table(pa.Table.from_batches(held, schema))
        writer.add_key_value_metadata(said)
    return path


def due(paths: list[Path], closed: bool, now_ns: int) -> list[Path]:
    """Return which of a day's segments are to be merged into one now, or none.

    In the hour that goes on: MANY of a level. In an hour that is closed, or in a closed day as a whole: any two.
    """
    open_hour = (now_ns - SLACK_NS) // HOUR_NS
    groups: dict[tuple[str, int, int], list[Path]] = defaultdict(list)
    for path in paths:
        if (size := _size(path)) is None or size >= ENOUGH:
            continue
        one = Segment.of(path)
        if not one.shape:
            continue
        hour = one.written // HOUR_NS
        level = -1 if closed or hour < open_hour else one.level
        groups[one.shape, 0 if closed else hour, level].append(path)
    for (_, _, level), group in groups.items():
        if len(group) >= (MANY if level >= 0 else 2):
            chosen, total = [], 0
            for path in group:
                chosen.append(path)
                total += _size(path) or 0
                if total >= ENOUGH and len(chosen) > 1:
                    break
            return chosen
    return []


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


class Compactor:
    """A thread that merges and expires the segments under some folders, every `every_s`.

    retention_days: a day's folder goes when so many whole days lie between it and today; None: never.
    """

    def __init__(
        self, tops: list[Path], retention_days: int | None, every_s: float = 1.0, grace_s: float = GRACE_S
    ) -> None:
        self._tops, self._retention_days, self._every_s, self._grace_s = tops, retention_days, every_s, grace_s
        self._replaced: dict[Path, frozenset[str]] = {}
        self._over: set[Path] = set()  # closed days with nothing left to do
        self._stop = threading.Event()
        self._why = ""
        self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the merge that it is at."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for top in self._tops:
                try:
                    self.look(top)
                    self._why = ""
                except Exception as error:  # a full disk, say: nothing is lost, it is tried again
                    if str(error) != self._why:
                        log.warning("segments under %s are not merged; %s", top, error)
                    self._why = str(error)
            if self._stop.wait(self._every_s):
                return

    def look(self, top: Path) -> None:
        """Do what is due under a folder, unless another process is at it."""
        if not top.is_dir():
            return
        try:
            with FileLock(top / "compaction.lock", timeout=0):
                self._expire(top)
                self._over = {day for day in self._over if day.is_dir()}
                today = f"day={datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%d}"
                for day in days(top):
                    if day not in self._over and not self._stop.is_set():
                        self._tend(day, closed=day.name < today)
        except Timeout:
            return

    def _expire(self, top: Path) -> None:
        if self._retention_days is None:
            return
        oldest = f"day={datetime.now(UTC) - timedelta(days=self._retention_days):%Y-%m-%d}"
        for day in days(top):
            if day.name < oldest:
                shutil.rmtree(day)
                log.info("%s is over its retention: deleted", day)

    def _tend(self, day: Path, closed: bool) -> None:
        """Delete what is replaced, then merge until nothing is due."""
        while not self._stop.is_set():
            known = segments(day)
            self._replaced = {path: of for path, of in self._replaced.items() if path.parent != day or path.exists()}
            for path in known:
                if path not in self._replaced:
                    self._replaced[path] = replaced(path)
            left = self._delete_replaced(known)
            gone = {name for path in left for name in self._replaced[path]}
            chosen = due([path for path in left if path.name not in gone], closed, time.time_ns())
            if not chosen:
                unfinished = self._delete_abandoned(day)
                if closed and not gone & {path.name for path in left} and not unfinished:
                    self._over.add(day)
                    self._replaced = {path: of for path, of in self._replaced.items() if path.parent != day}
                return
            merge(day, chosen)

    def _delete_replaced(self, known: list[Path]) -> list[Path]:
        """Delete the sources of those merged long enough ago; return what is left of `known`."""
        there, now = {path.name: path for path in known}, time.time()
        for path in sorted(known, key=lambda one: Segment.of(one).level):  # a source's own sources first
            if path.name in there and now - path.stat().st_mtime >= self._grace_s:
                for name in self._replaced[path] & set(there):
                    there.pop(name).unlink(missing_ok=True)
        return list(there.values())

    def _delete_abandoned(self, day: Path) -> int:
        """Delete what killed writers left unfinished; return how many files may still be written to."""
        young = 0
        for path in day.glob(f"*{UNFINISHED}"):
            if (size := _size(path)) is not None and time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)
                log.info("%s: %d bytes of a writer that was killed, deleted", path, size)
            else:
                young += 1
        return young

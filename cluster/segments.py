"""Segments: the files that records are appended to, each written whole, on disk, and only then given its name."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

import pyarrow as pa
from pyarrow import parquet

SUFFIX, UNFINISHED = ".parquet", ".unfinished"
_NAME = re.compile(r"(?:\d{20}-\d+-[0-9a-f]{8}-)?[0-9a-f]{32}\.parquet")  # once they had but their own name


class Record(Protocol):
    """What is appended: some rows at once."""

    @property
    def rows(self) -> int:
        """Return how many rows it comes to."""


T = TypeVar("T", bound=Record)


@dataclass(frozen=True, order=True)
class Segment:
    """What a segment's name says of it.

    written: when its newest row was, ns since 1970; level: 0 as appended, 1 merged of those, and so on;
    shape: which Arrow schema it has, so that only like is merged with like.
    """

    written: int
    level: int
    shape: str
    own: str

    @classmethod
    def new(cls, schema: pa.Schema) -> Segment:
        """Return a name that nobody has, for what is appended now."""
        shape = hashlib.blake2b(schema.remove_metadata().serialize(), digest_size=4).hexdigest()
        return cls(time.time_ns(), 0, shape, uuid.uuid4().hex)

    @classmethod
    def merged(cls, sources: list[Segment]) -> Segment:
        """Return a name that nobody has, for what segments of one shape are merged into."""
        newest = max(sources)
        return cls(newest.written, max(one.level for one in sources) + 1, newest.shape, uuid.uuid4().hex)

    @classmethod
    def of(cls, path: Path) -> Segment:
        """Read the name of a segment's file; of the oldest, which say no more, the shape is not known: ""."""
        if "-" not in path.stem:
            return cls(0, 0, "", path.stem)
        written, level, shape, own = path.stem.split("-")
        return cls(int(written), int(level), shape, own)

    @property
    def name(self) -> str:
        """Return the file's name; names sort by time."""
        return f"{self.written:020d}-{self.level}-{self.shape}-{self.own}{SUFFIX}"


def days(top: Path) -> list[Path]:
    """Return the folders of the days that have records, the oldest first."""
    return sorted(path for path in top.glob("day=*") if path.is_dir())


def segments(day: Path) -> list[Path]:
    """Return a day's finished segments, the oldest first; none where the day has been deleted.

    A file of any other name is left alone.
    """
    try:
        return sorted(path for path in day.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when all of it is on disk; leaves nothing where that fails."""
    _make_folder(path.parent)
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with unfinished.open("wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it so that a loss of power does not undo it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def append_segment(top: Path, table: pa.Table) -> None:
    """Write rows as a segment of today; they are on disk when this returns."""
    name = Segment.new(table.schema).name
    with whole(top / f"day={datetime.now(UTC):%Y-%m-%d}" / name) as output:
        parquet.write_table(table, output)


class SegmentWriter(Generic[T]):
    """Appends records from any thread; a thread of its own writes them as segments, many at once.

    `append` never waits: where `limit` rows wait already the record is dropped and its rows are counted; what waits
    is written every `flush_s`. `append_durably` gives a future that is done when the record is on disk: it is written
    at once, together with all that came while the write before it went on (group commit).
    dropped: rows that are not kept, whatever kept them from it; failure: why the last write failed, "" if it did not.
    """

    def __init__(
        self, into: Path, make_tables: Callable[[list[T]], list[pa.Table]], flush_s: float, limit: int
    ) -> None:
        self._into, self._make_tables, self._flush_s, self._limit = into, make_tables, flush_s, limit
        self._ready = threading.Condition()
        self._queue: list[tuple[T, Future[None] | None]] = []
        self._waiting = 0  # rows
        self._hurry = self._ending = False
        self.dropped = 0
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name=f"records-{into.name}", daemon=True)
        self._thread.start()

    def append(self, record: T) -> None:
        """Add a record without waiting for it."""
        with self._ready:
            if not self._put(record, None):
                self.dropped += record.rows
            elif self._waiting * 2 > self._limit:
                self._hurry_up()

    def append_durably(self, record: T) -> Future[None]:
        """Add a record; the future is done when it is on disk, or has the error that kept it from there."""
        future: Future[None] = Future()
        with self._ready:
            if self._put(record, future):
                self._hurry_up()
                return future
        future.set_exception(OSError("too many records wait to be written"))
        return future

    def close(self) -> None:
        """Write what is left and end the thread."""
        with self._ready:
            self._ending = True
            self._ready.notify()
        self._thread.join()

    def _put(self, record: T, future: Future[None] | None) -> bool:
        if self._ending or (self._queue and self._waiting + record.rows > self._limit):
            return False
        self._queue.append((record, future))
        self._waiting += record.rows
        return True

    def _hurry_up(self) -> None:
        if not self._hurry:
            self._hurry = True
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._hurry or self._ending, self._flush_s)
                taken, self._queue, self._waiting, self._hurry = self._queue, [], 0, False
                ending = self._ending
            if taken:
                self._write([(record, _still_wanted(future)) for record, future in taken])
            elif ending:
                return

    def _write(self, taken: list[tuple[T, Future[None] | None]]) -> None:
        """Write records and tell who waits for them; one that cannot be written takes no other along."""
        try:
            for table in self._make_tables([record for record, _ in taken]):
                append_segment(self._into, table)
        except Exception as error:  # whatever it is, the thread goes on
            if len(taken) > 1 and not isinstance(error, OSError):
                half = len(taken) // 2
                self._write(taken[:half])
                self._write(taken[half:])
                return
            self.failure = str(error) or repr(error)
            with self._ready:
                self.dropped += sum(record.rows for record, _ in taken)
            for _, future in taken:
                if future is not None:
                    future.set_exception(error)
            return
        self.failure = ""
        for _, future in taken:
            if future is not None:
                future.set_result(None)


def _still_wanted(future: Future[None] | None) -> Future[None] | None:
    """Return a future that cannot be cancelled any more, None where nobody waits: the record is kept all the same."""
    return future if future is not None and future.set_running_or_notify_cancel() else None

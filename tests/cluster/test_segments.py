"""Segments: on disk when that is said, whole or not there, whatever is killed or full."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import records
from cluster.reading import read
from cluster.records import FEEDBACK, Feedback, feedback_tables
from cluster.segments import UNFINISHED, SegmentWriter
from tests.cluster.appending import feedback, feedback_writer

ROOT = Path(__file__).parents[2]


def kept(storage: Path) -> list[str]:
    """Return the request ids of all feedback."""
    return [one for table in read(storage, FEEDBACK, "m") for one in table["request_id"].to_pylist()]


@pytest.fixture
def top(tmp_path) -> Path:
    return records.folder(tmp_path, FEEDBACK, "m")


def test_acknowledged_means_on_disk_and_that_is_not_waited_for(tmp_path, top) -> None:
    writer = feedback_writer(top, flush_s=3600)
    for i in range(3):
        writer.append_durably(feedback(str(i))).result(timeout=10)
        assert sorted(kept(tmp_path)) == [str(j) for j in range(i + 1)]
    writer.close()
    assert not list(top.rglob(f"*{UNFINISHED}"))


def held() -> tuple[threading.Event, threading.Event, Callable[[list[Feedback]], list[pa.Table]]]:
    """Return what makes tables once it may: an event when a write has begun, and one that lets it go on."""
    entered, go_on = threading.Event(), threading.Event()

    def tables(batch: list[Feedback]) -> list[pa.Table]:
        entered.set()
        assert go_on.wait(10)
        return feedback_tables(batch)

    return entered, go_on, tables


def test_what_comes_while_a_write_goes_on_shares_the_next_one(top) -> None:
    entered, go_on = threading.Event(), threading.Event()
    sizes = []

    def tables(batch) -> list[pa.Table]:
        sizes.append(len(batch))
        entered.set()
        assert go_on.wait(10)
        return feedback_tables(batch)

    writer = SegmentWriter(top, tables, 3600, 1000)
    futures = [writer.append_durably(feedback("first"))]
    assert entered.wait(10)
    futures += [writer.append_durably(feedback(str(i))) for i in range(100)]
    go_on.set()
    for future in futures:
        future.result(timeout=10)
    writer.close()
    assert sizes == [1, 100]
    assert len(list(top.rglob("*.parquet"))) == 2


def test_what_nobody_waits_for_any_more_is_kept_all_the_same(tmp_path, top) -> None:
    entered, go_on, tables = held()
    writer = SegmentWriter(top, tables, 3600, 1000)
    first = writer.append_durably(feedback("first"))
    assert entered.wait(10)
    second, third = (writer.append_durably(feedback(name)) for name in ("second", "third"))
    assert not first.cancel()  # it is being written
    assert second.cancel()
    go_on.set()
    third.result(timeout=10)
    writer.close()
    assert sorted(kept(tmp_path)) == ["first", "second", "third"]


def test_where_the_queue_is_full_rows_are_dropped_and_counted(tmp_path, top) -> None:
    entered, go_on, tables = held()
    writer = SegmentWriter(top, tables, 3600, 4)
    writer.append_durably(feedback("first"))
    assert entered.wait(10)
    for i in range(7):
        writer.append(feedback(str(i)))
    assert writer.dropped == 3
    with pytest.raises(OSError, match="too many records wait"):
        writer.append_durably(feedback("more")).result(timeout=10)
    go_on.set()
    writer.close()
    assert sorted(kept(tmp_path)) == ["0", "1", "2", "3", "first"]
    with pytest.raises(OSError, match="too many records wait"):
        writer.append_durably(feedback("after its end")).result(timeout=10)


def test_a_full_queue_does_not_wait_for_its_time(tmp_path, top) -> None:
    writer = feedback_writer(top, flush_s=3600, limit=10)
    for i in range(6):
        writer.append(feedback(str(i)))
    writer.append_durably(feedback("last")).result(timeout=10)
    assert len(kept(tmp_path)) == 7
    assert writer.dropped == 0
    writer.close()


def test_a_record_that_cannot_be_written_takes_no_other_along(tmp_path, top) -> None:
    writer = feedback_writer(top)
    futures: list[Future[None]] = []
    with writer._ready:  # all in one batch
        futures = [writer.append_durably(feedback(str(i) if i != 5 else "half a pair: \ud800")) for i in range(9)]
    with pytest.raises(UnicodeEncodeError):
        futures.pop(5).result(timeout=10)
    for future in futures:
        future.result(timeout=10)
    assert (writer.dropped, sorted(kept(tmp_path))) == (1, ["0", "1", "2", "3", "4", "6", "7", "8"])
    writer.close()


FULL = """
import resource, sys
from pathlib import Path
from cluster.reading import read
from cluster.records import folder
from tests.cluster.appending import feedback, feedback_writer

storage = Path(sys.argv[1])
top = folder(storage, "feedback", "m")
writer = feedback_writer(top)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for round in range(3):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # no file grows beyond 100 bytes
    for i in range(5):
        try:
            writer.append_durably(feedback(f"lost {round} {i}")).result(timeout=10)
        except OSError as error:
            assert writer.failure == str(error), writer.failure
        else:
            raise AssertionError("acknowledged without room")
    assert writer.dropped == 5 * (round + 1), writer.dropped
    assert not list(top.rglob("*.unfinished"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    writer.append_durably(feedback(f"kept {round}")).result(timeout=10)
    assert writer.failure == ""
writer.close()
print(sorted(one for table in read(storage, "feedback", "m") for one in table["request_id"].to_pylist()))
"""


def test_a_full_disk_acknowledges_nothing_and_room_is_used_again(tmp_path) -> None:
    said = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "['kept 0', 'kept 1', 'kept 2']"


KILLED = """
import sys, threading
from pathlib import Path
from cluster import compaction
from cluster.records import folder
from tests.cluster.appending import feedback, feedback_writer

top = folder(Path(sys.argv[1]), "feedback", "m")
compaction.MANY = 3
compactor = compaction.Compactor([top], None, every_s=0.01, grace_s=0.1)
writer = feedback_writer(top)

def told(thread):
    for i in range(10**9):
        request_id = f"{sys.argv[2]}-{thread}-{i}"
        writer.append_durably(feedback(request_id)).result()
        sys.stdout.write(request_id + "\\n")
        sys.stdout.flush()

for thread in range(4):
    threading.Thread(target=told, args=[thread]).start()
"""


def test_what_was_acknowledged_outlives_kill_9_and_is_read_once(tmp_path) -> None:
    acknowledged: list[str] = []
    for number in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path, str(number)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged += [child.stdout.readline().strip() for _ in range(200 + 37 * number)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        found = kept(tmp_path)
        assert len(found) == len(set(found))
        assert set(acknowledged) <= set(found)
        assert len(found) - len(acknowledged) <= 4 * (number + 1)  # written, and killed before that was said

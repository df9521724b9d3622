"""Compaction: many segments become few and old days go, and who reads meanwhile sees each record once."""

import multiprocessing
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cluster import compaction, reading, records
from cluster.compaction import HOUR_NS, SLACK_NS, Compactor, due, merge, replaced
from cluster.privacy import Privacy
from cluster.reading import read, read_joined
from cluster.records import FEEDBACK, PREDICTIONS, prediction_tables
from cluster.segments import Segment, append_segment, days, segments
from tests.cluster.appending import feedback, feedback_writer, predict, prediction, tell


@pytest.fixture
def top(tmp_path) -> Path:
    return records.folder(tmp_path, FEEDBACK, "m")


def look(top: Path, retention_days: int | None = None, grace_s: float = 0.0) -> None:
    """Do what is due once, in this thread."""
    compactor = Compactor([], retention_days, grace_s=grace_s)
    compactor.look(top)
    compactor.close()


def kept(top: Path) -> list[str]:
    ids = [one for table in read(top.parents[2], FEEDBACK, "m") for one in table["request_id"].to_pylist()]
    assert len(ids) == len(set(ids))
    return sorted(ids)


def on(day: Path, back: timedelta) -> Path:
    """Make a day one of the past, with all of its segments."""
    moment = datetime.now(UTC) - back
    past = day.with_name(f"day={moment:%Y-%m-%d}")
    past.mkdir(exist_ok=True)
    for path in segments(day):
        one = Segment.of(path)
        moved = Segment(one.written - int(back.total_seconds() * 1e9), one.level, one.shape, one.own)
        path.rename(past / moved.name)
    return past


def test_many_of_a_level_become_one_of_the_next(top, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "MANY", 4)
    for i in range(3):
        tell(top, feedback(str(i)))
    look(top)
    (day,) = days(top)
    assert [Segment.of(path).level for path in segments(day)] == [0, 0, 0]  # too few
    for i in range(3, 18):
        tell(top, feedback(str(i)))
        look(top)
    look(top)
    assert sorted(Segment.of(path).level for path in segments(day)) == [0, 0, 2]
    assert kept(top) == sorted(map(str, range(18)))
    (whole,) = [path for path in segments(day) if Segment.of(path).level == 2]
    assert parquet.read_metadata(whole).num_row_groups == 1


def test_a_closed_day_becomes_one_segment_for_each_shape(tmp_path) -> None:
    top = records.folder(tmp_path, PREDICTIONS, "m")
    for i in range(5):
        predict(top, prediction(f"a{i}"))
        append_segment(top, prediction_tables([prediction(f"b{i}")], Privacy(hash=frozenset("n"), key=b"k"))[0])
    (today,) = days(top)
    past = on(today, timedelta(days=2))
    look(top)
    look(top)
    assert len(segments(past)) == 2
    ids = [one for table in read(tmp_path, PREDICTIONS, "m") for one in table["request_id"].to_pylist()]
    assert sorted(ids) == [f"{kind}{i}" for kind in "ab" for i in range(5)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from("xy")), max_size=200),
    st.booleans(),
    st.integers(0, 5 * HOUR_NS),
)
def test_only_like_is_merged_with_like_and_what_is_closed_at_once(tmp_path_factory, made, closed, now) -> None:
    folder = tmp_path_factory.mktemp("day")
    paths = []
    for i, (hour, level, shape) in enumerate(made):
        path = folder / Segment(hour * HOUR_NS + i, level, shape, str(i)).name
        path.touch()
        paths.append(path)
    chosen = [Segment.of(path) for path in due(sorted(paths), closed, now)]
    shutil.rmtree(folder)
    groups: dict[tuple[object, ...], int] = {}
    for hour, level, shape in made:
        over = hour < (now - SLACK_NS) // HOUR_NS
        key = (shape,) if closed else (shape, hour) if over else (shape, hour, level)
        groups[key] = groups.get(key, 0) + 1
    wanted = [count for key, count in groups.items() if count >= (2 if len(key) < 3 else compaction.MANY)]
    assert bool(chosen) == bool(wanted)
    assert len({one.shape for one in chosen}) <= 1
    if not closed:
        assert len({one.written // HOUR_NS for one in chosen}) <= 1
    assert not chosen or len(chosen) in wanted


def test_a_segment_that_is_large_enough_is_left_alone(top, monkeypatch) -> None:
    for i in range(4):
        tell(top, feedback(str(i)))
    (today,) = days(top)
    past = on(today, timedelta(days=2))
    monkeypatch.setattr(compaction, "ENOUGH", segments(past)[0].stat().st_size)
    before = segments(past)
    look(top)
    assert segments(past) == before


def test_a_merge_that_was_killed_half_way_doubles_and_loses_nothing(top) -> None:
    for i in range(6):
        tell(top, feedback(str(i)))
    (day,) = days(top)
    sources = segments(day)
    merged = merge(day, sources)  # killed here: the sources are still there
    assert kept(top) == list("012345")
    assert replaced(merged) == {path.name for path in sources}
    sources[2].unlink()  # or there: some are
    assert kept(top) == list("012345")
    look(top, grace_s=60)
    assert segments(day) == sorted({merged, *sources} - {sources[2]})  # who lists the day now may yet open them
    look(top)
    assert segments(day) == [merged]
    assert kept(top) == list("012345")


def test_what_is_merged_and_deleted_between_a_look_and_the_reading_is_found(top, monkeypatch) -> None:
    for i in range(6):
        tell(top, feedback(str(i)))
    (day,) = days(top)
    really = reading._deal_segment

    def then_merge(path, buckets) -> None:
        really(path, buckets)
        if Segment.of(path).level < 2:  # after the first, twice: what the second look finds is gone too
            sources = segments(day)
            merge(day, sources)
            for source in sources:
                source.unlink()

    monkeypatch.setattr(reading, "_deal_segment", then_merge)
    assert kept(top) == list("012345")
    assert [Segment.of(path).level for path in segments(day)] == [2]


def test_what_a_killed_writer_left_unfinished_goes_in_the_end(top) -> None:
    tell(top, feedback("a"))
    (day,) = days(top)
    for name, age in (("old", 7200), ("new", 0)):
        (day / f"{name}.unfinished").write_bytes(b"PAR1 and no more")
        os.utime(day / f"{name}.unfinished", (time.time() - age, time.time() - age))
    look(top)
    assert sorted(path.name for path in day.glob("*.unfinished")) == ["new.unfinished"]
    assert kept(top) == ["a"]


def test_days_over_their_retention_go_whole(top) -> None:
    for back in (0, 1, 3, 4, 10):
        tell(top, feedback(f"{back} days ago"))
        if back:
            (today,) = [day for day in days(top) if day.name == f"day={datetime.now(UTC):%Y-%m-%d}"]
            mine = max(segments(today))
            others = [path for path in segments(today) if path != mine]
            for path in others:
                path.rename(path.with_suffix(".aside"))
            on(today, timedelta(days=back))
            for path in others:
                path.with_suffix(".aside").rename(path)
    look(top)
    assert len(days(top)) == 5
    look(top, retention_days=3)
    assert kept(top) == ["0 days ago", "1 days ago", "3 days ago"]


def test_one_process_at_a_time_compacts(top, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "MANY", 2)
    for i in range(2):
        tell(top, feedback(str(i)))
    (day,) = days(top)
    with FileLock(top / "compaction.lock"):
        look(top)
        assert [Segment.of(path).level for path in segments(day)] == [0, 0]
    look(top)
    assert [Segment.of(path).level for path in segments(day)] == [1]


def _write(storage: Path, number: int, until: int) -> None:
    """A process that tells, predicts and compacts."""
    compaction.MANY = 3
    tops = [records.folder(storage, kind, "m") for kind in (PREDICTIONS, FEEDBACK)]
    compactor = Compactor(tops, 3, every_s=0.01, grace_s=0.2)
    writer = feedback_writer(tops[1])
    done = storage / f"done-{number}"
    with done.open("a") as said:
        for i in range(until):
            predict(tops[0], prediction(f"{number}-{i}"))
            writer.append_durably(feedback(f"{number}-{i}")).result(timeout=30)
            said.write(f"{number}-{i}\n")
            said.flush()
    writer.close()
    compactor.close()


def test_it_can_be_read_while_processes_write_merge_and_expire(tmp_path) -> None:
    expired = records.folder(tmp_path, FEEDBACK, "m")
    tell(expired, feedback("expired"))
    on(days(expired)[0], timedelta(days=9))
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(tmp_path, number, 150)) for number in range(2)]
    for writer in writers:
        writer.start()
    looks = 0
    while any(writer.is_alive() for writer in writers) or not looks:
        acknowledged = {line.strip() for path in tmp_path.glob("done-*") for line in path.open() if line.endswith("\n")}
        found = set(kept(expired))
        assert acknowledged <= found
        rows = [row for table in read_joined(tmp_path, "m") for row in table.to_pylist()]
        ids = [row["request_id"] for row in rows]
        assert len(ids) == len(set(ids))
        assert acknowledged <= set(ids)
        assert {row["request_id"] for row in rows if row["label"] == "yes"} >= acknowledged
        looks += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert looks > 2
    assert kept(expired) == sorted(f"{number}-{i}" for number in range(2) for i in range(150))
    levels = [Segment.of(path).level for day in days(expired) for path in segments(day)]
    assert max(levels) > 1
    assert len(days(expired)) == 1


def test_what_cannot_be_done_now_is_tried_again(top, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "MANY", 2)
    for i in range(2):
        tell(top, feedback(str(i)))
    (day,) = days(top)
    (top / "compaction.lock").mkdir()  # what no lock can be made of
    compactor = Compactor([top], None, every_s=0.01)
    try:
        deadline = time.monotonic() + 10
        while not compactor._why:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (top / "compaction.lock").rmdir()
        while len(segments(day)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        compactor.close()
    assert kept(top) == ["0", "1"]

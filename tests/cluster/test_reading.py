"""Records as they are read: each once, however often sent, joined with the first label told, in bounded memory."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import buckets, records
from cluster.buckets import Buckets, buckets_for
from cluster.privacy import Privacy
from cluster.reading import read, read_joined
from cluster.records import FEEDBACK, PREDICTIONS, prediction_tables
from cluster.segments import append_segment
from tests.cluster.appending import feedback, predict, prediction, tell


def joined(storage, name="m") -> dict[tuple[str, int, str], str | None]:
    """Return the label of each prediction, which may come only once."""
    rows = [row for table in read_joined(storage, name) for row in table.to_pylist()]
    labels = {(row["request_id"], row["row"], row["variant"]): row["label"] for row in rows}
    assert len(labels) == len(rows)
    return labels


@pytest.fixture
def tops(tmp_path):
    return records.folder(tmp_path, PREDICTIONS, "m"), records.folder(tmp_path, FEEDBACK, "m")


def test_where_nothing_is_recorded_there_is_nothing_to_read(tmp_path, tops) -> None:
    assert list(read(tmp_path, PREDICTIONS, "m")) == list(read_joined(tmp_path, "m")) == []
    tell(tops[1], feedback("a"))
    assert list(read_joined(tmp_path, "m")) == []


def test_the_first_label_told_counts_however_late_and_out_of_order(tmp_path, tops) -> None:
    tell(tops[1], feedback("b", "no", 9.0))
    predict(tops[0], prediction("a", 2), prediction("b"), prediction("c"))
    tell(tops[1], feedback("b", "yes", 1.0), feedback("zzz", "no", 0.0))
    tell(tops[1], feedback("a", "no", 2.0, row=1))
    found = {(request_id, row): label for (request_id, row, _), label in joined(tmp_path).items()}
    assert found == {("a", 0): None, ("a", 1): "no", ("b", 0): "yes", ("c", 0): None}


def test_a_request_sent_again_is_read_once_and_each_variant_of_it(tmp_path, tops) -> None:
    predict(tops[0], prediction("a", 2, moment=2.0), prediction("a", 2, variant="shadow", moment=3.0))
    predict(tops[0], prediction("a", 2, moment=1.0))
    tell(tops[1], feedback("a", row=1))
    tell(tops[1], feedback("a", row=1))
    rows = [row for table in read(tmp_path, PREDICTIONS, "m") for row in table.to_pylist()]
    assert [(row["time"].timestamp(), row["variant"], row["row"]) for row in rows] == [
        (1.0, "champion", 0),
        (1.0, "champion", 1),
        (3.0, "shadow", 0),
        (3.0, "shadow", 1),
    ]
    assert sum(len(table) for table in read(tmp_path, FEEDBACK, "m")) == 1
    assert list(joined(tmp_path).values()).count("yes") == 2  # of the champion and of the shadow


def test_what_was_recorded_under_other_settings_is_read_too(tmp_path, tops) -> None:
    (hashed,) = prediction_tables([prediction("a"), prediction("b")], Privacy(hash=frozenset("n"), key=b"k"))
    append_segment(tops[0], hashed)
    predict(tops[0], prediction("a"), prediction("c"))
    tell(tops[1], feedback("c"))
    assert joined(tmp_path) == {("a", 0, "champion"): None, ("b", 0, "champion"): None, ("c", 0, "champion"): "yes"}
    kinds = [table.schema.field("inputs").type.field("n").type for table in read_joined(tmp_path, "m")]
    assert sorted(map(str, kinds)) == ["float", "string"]


SENT = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["champion", "shadow"]), st.integers(1, 2)))
TOLD = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["no", "yes"]), st.integers(0, 1)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(SENT, max_size=4), st.lists(TOLD, max_size=4), st.integers(1, 5))
def test_many_buckets_read_what_one_does(tmp_path_factory, sent, told, count) -> None:
    storage = tmp_path_factory.mktemp("storage")
    moments = iter(range(10**6))
    wanted, first = {}, {}
    for batch in filter(None, sent):
        made = [prediction(one, rows, variant, next(moments)) for one, variant, rows in batch]
        predict(records.folder(storage, PREDICTIONS, "m"), *made)
        wanted |= {(one, row, variant): None for one, variant, rows in batch for row in range(rows)}
    for items in filter(None, told):
        said = [feedback(one, label, next(moments), row) for one, label, row in items]
        tell(records.folder(storage, FEEDBACK, "m"), *said)
        for one, label, row in items:
            first.setdefault((one, row), label)
    wanted = {key: first.get(key[:2]) for key in wanted}
    before = buckets.BUCKET_BYTES
    try:
        for buckets.BUCKET_BYTES in (before, 3000 // count):
            assert joined(storage) == wanted
    finally:
        buckets.BUCKET_BYTES = before


def test_buckets_hold_each_request_whole_and_bounded() -> None:
    assert (buckets_for(0), buckets_for(16_000_000), buckets_for(16_000_001), buckets_for(10**12)) == (1, 1, 2, 128)
    ids = [f"r{i % 2000}" for i in range(20_000)]
    with Buckets(8) as dealt:
        for start in range(0, len(ids), 999):
            dealt.add(
                pa.table({"request_id": ids[start : start + 999], "at": range(start, min(start + 999, len(ids)))})
            )
        dealt.close()
        folder = dealt._top
        found = [table for number in range(8) for table in dealt.bucket(number)]
        assert len(found) == 8 == len(list(folder.iterdir()))
    assert not folder.exists()
    assert sorted(at for table in found for at in table["at"].to_pylist()) == list(range(len(ids)))
    for table in found:
        assert len(table) < 4000
        assert len(table) == 10 * len(set(table["request_id"].to_pylist()))
        assert table["at"].to_pylist() == sorted(table["at"].to_pylist())

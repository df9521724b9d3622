"""Shadows: they predict copies, are recorded and compared, and whatever happens to them no answer knows of it."""

import os
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bundle import Bundle
from cluster.columns import ModelSchema, raw_from_rows
from cluster.reading import read_joined
from cluster.records import Predictions
from cluster.registry import Registry
from cluster.segments import SegmentWriter
from cluster.tracking import connect
from conf.schema import Cluster, DeployConfig
from conf.service import Serving, Traffic
from jobs.train import train
from serve.app import Application
from serve.shadow import MOST_ROWS, NICE, Compared, Shadow, batches
from serve.traffic import assign
from serve.variants import Variants
from tests.serve.conftest import Served, until

SHADOWED = Traffic("ab", {"champion": 1.0}, ["challenger"])


@pytest.fixture
def shadowed(served: Served) -> Served:
    """Serve version 1, with version 2 as its shadow."""
    served.registry.write_policy("houses", SHADOWED)
    until(lambda: "challenger" in counts(served))
    return served


def counts(served: Served) -> dict[str, dict[str, object]]:
    said: dict[str, dict[str, object]] = served.ask("GET", "/healthz").json()["shadow"]
    return said


def third(served: Served, houses, *overrides: str) -> int:
    """Train one version more."""
    cfg = houses("name=houses", *overrides)
    cfg.cluster = served.cfg.cluster
    return train(cfg).version.number


def test_copies_are_predicted_recorded_and_compared(shadowed, tmp_path) -> None:
    rows = [*shadowed.rows, *shadowed.rows]
    asked = {f"r{i}": rows[i : i + 1 + i % 3] for i in range(len(shadowed.rows))}
    for i, (request_id, own) in enumerate(asked.items()):
        body = {"rows": own, "request_id": request_id, "unit": f"u{i}"}
        assert shadowed.ask("POST", "/predict", json=body).json()["version"] == 1
    total = sum(map(len, asked.values()))
    until(lambda: counts(shadowed)["challenger"]["rows"] == total)
    first, second = (Bundle.load(shadowed.registry.resolve("houses", number).folder) for number in "12")
    raw = raw_from_rows([row for own in asked.values() for row in own], first.schema)
    answered, copied = first.predict(raw), second.predict(raw)
    said = counts(shadowed)["challenger"]
    assert said.pop("mean_difference") == pytest.approx(np.abs(answered - copied).mean(), rel=1e-4)
    agree = int((answered.argmax(1) == copied.argmax(1)).sum())
    assert said == {"version": 2, "rows": total, "agree": agree, "dropped": 0, "failed": 0, "why": ""}

    told = [{"request_id": request_id, "label": "yes"} for request_id in asked]
    shadowed.ask("POST", "/feedback", json={"feedback": told})
    shadowed.application.close()
    read = [row for table in read_joined(tmp_path, "houses") for row in table.to_pylist()]
    for version, variant, outputs in ((1, "champion", answered), (2, "challenger", copied)):
        own = sorted((row for row in read if row["version"] == version), key=lambda row: (row["unit"], row["row"]))
        assert {row["variant"] for row in own} == {variant}
        assert [(row["request_id"], row["row"]) for row in own] == [(r, i) for r in asked for i in range(len(asked[r]))]
        np.testing.assert_allclose([row["outputs"] for row in own], outputs, atol=1e-6)
        assert [row["label"] for row in own] == ["yes" if row["row"] == 0 else None for row in own]
        assert [row["inputs"]["kind"] for row in own] == [row["kind"] for r in asked.values() for row in r]
    assert len(read) == 2 * total


def test_a_full_queue_drops_and_counts_and_answers_go_on(served, tmp_path) -> None:
    served.registry.write_policy("houses", SHADOWED)
    cfg = DeployConfig(cluster=served.cfg.cluster, name="houses", serving=Serving(shadow_queue=4, poll_s=0.05))
    variants = Variants(cfg)
    log = SegmentWriter[Predictions](tmp_path / "log", lambda _: pytest.fail("nothing is recorded"), 60.0, 10)
    cfg.serving.records.predictions = False
    shadow, schema = Shadow(cfg, variants, log), variants.live.schema
    raw = raw_from_rows(served.rows[:5], schema)
    outputs = variants.live.variants["champion"].bundle.predict(raw)

    def answered(*counts: int) -> Predictions:
        """Return as many requests with so many rows."""
        rows, requests = sum(counts), [str(i) for i in range(len(counts))]
        own = {name: values[:rows] for name, values in raw.items()}
        times = [1.0] * len(counts)
        return Predictions(requests, requests, list(counts), 0.0, 1, "champion", own, outputs[:rows], times, schema)

    shadow.offer(answered(5))
    assert shadow.counts()["challenger"]["dropped"] == 5
    for _ in range(3):
        shadow.offer(answered(1, 3))  # the first fills it, the others are dropped
    until(lambda: shadow.counts()["challenger"]["rows"] == 4)
    assert shadow.counts()["challenger"]["dropped"] == 5 + 8
    shadow.offer(answered(4))
    until(lambda: shadow.counts()["challenger"]["rows"] == 8)
    for end in (shadow, variants, log):
        end.close()


def test_what_fails_in_a_shadow_is_counted_and_met_by_no_client(served, houses, caplog) -> None:
    number = third(served, houses, "dataset.exclude=[price,band,rooms]")
    served.registry.set_alias("houses", "staging", number)
    half = {"champion": 0.5, "staging": 0.5}
    served.registry.write_policy("houses", Traffic("ab", half, ["challenger"]))
    until(lambda: "challenger" in counts(served))
    units = {alias: next(f"u{i}" for i in range(99) if assign("ab", f"u{i}", half) == alias) for alias in half}
    without = [{name: value for name, value in row.items() if name != "rooms"} for row in served.rows]
    for more in (2, 4):  # the shadow of the champion's columns cannot take what staging answered
        answer = served.ask("POST", "/predict", json={"rows": without[:2], "unit": units["staging"]})
        assert (answer.status_code, answer.json()["version"]) == (200, number)
        until(lambda more=more: counts(served)["challenger"]["failed"] == more)
    assert "rooms" in str(counts(served)["challenger"]["why"])
    assert len([record for record in caplog.records if "shadow challenger failed" in record.message]) == 1
    served.ask("POST", "/predict", json={"rows": served.rows[:3], "unit": units["champion"]})
    until(lambda: counts(served)["challenger"]["rows"] == 3)
    assert counts(served)["challenger"]["failed"] == 4


def test_a_shadow_that_takes_something_else_is_refused_with_the_reason(served, houses) -> None:
    served.registry.set_alias("houses", "shadow", third(served, houses, "dataset.exclude=[price,band,rooms]"))
    served.registry.write_policy("houses", Traffic("new", {"champion": 1.0}, ["shadow"]))
    until(lambda: "'shadow' is version 3, which takes or gives something else" in refused(served))
    assert served.ask("GET", "/healthz").json()["ab_test"] == "new"  # the rest of the policy is followed
    assert served.ask("POST", "/predict", json={"rows": served.rows[:1]}).json()["version"] == 1
    served.registry.set_alias("houses", "shadow", 2)
    until(lambda: counts(served).get("shadow", {}).get("version") == 2)
    until(lambda: refused(served) == "")


def test_a_shadow_that_cannot_be_trusted_keeps_no_champion_from_its_place(shadowed, houses) -> None:
    spoilt = shadowed.registry.resolve("houses", str(third(shadowed, houses)))
    (spoilt.folder / "weights.safetensors").write_bytes(b"")
    shadowed.registry.set_alias("houses", "challenger", spoilt.number)
    until(lambda: "weights.safetensors was changed" in refused(shadowed))
    shadowed.registry.set_alias("houses", "champion", 2)
    until(lambda: shadowed.ask("GET", "/healthz").json()["variants"] == {"champion": 2})
    assert "weights.safetensors was changed" in refused(shadowed)
    assert counts(shadowed) == {}
    shadowed.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}))
    until(lambda: refused(shadowed) == "")


def test_without_shadows_nothing_is_copied(shadowed) -> None:
    shadowed.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}))
    until(lambda: counts(shadowed) == {})
    shadowed.ask("POST", "/predict", json={"rows": shadowed.rows[:5]})
    shadowed.registry.write_policy("houses", SHADOWED)
    until(lambda: "challenger" in counts(shadowed))
    shadowed.ask("POST", "/predict", json={"rows": shadowed.rows[:2]})
    until(lambda: counts(shadowed)["challenger"]["rows"])
    assert counts(shadowed)["challenger"]["rows"] == 2


def test_numbers_are_compared_by_a_tolerance() -> None:
    found = Compared(1)
    answered = np.array([[100.0], [100.0], [0.0], [-2.0]], np.float32)
    found.add(answered, np.array([[100.9], [101.2], [0.0], [2.0]], np.float32), classes=False, tolerance=0.01)
    assert (found.rows, found.agree) == (4, 2)
    assert found.difference == pytest.approx(0.9 + 1.2 + 4.0, rel=1e-5)
    for outputs, why in ((answered * np.nan, "no number"), (np.ones((4, 2)), "gives 2 outputs for a row")):
        with pytest.raises(ValueError, match=why):
            found.add(answered, outputs, classes=False, tolerance=0.01)
    assert (found.rows, found.failed) == (4, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_shadows_come_last_in_the_line_for_a_core(shadowed) -> None:
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "shadow")
    wanted = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    until(lambda: os.getpriority(os.PRIO_PROCESS, thread.native_id) == wanted)


def offered(version: int, rows: int, i: int) -> Predictions:
    schema = ModelSchema("y", "regression", (), ())
    return Predictions([str(i)], ["u"], [rows], 0.0, version, "champion", {}, np.zeros((rows, 1)), [1.0], schema)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 300)), max_size=30))
def test_batches_hold_everything_once_in_order_and_one_version_each(sizes) -> None:
    waiting = [offered(version, rows, i) for i, (version, rows) in enumerate(sizes)]
    made = list(batches(waiting))
    found = [request for batch in made for request in batch]
    assert sorted(int(request.request_ids[0]) for request in found) == list(range(len(sizes)))
    for batch in made:
        assert len({request.version for request in batch}) == 1
        assert len(batch) == 1 or sum(len(request.outputs) for request in batch) <= MOST_ROWS
    for version in {version for version, _ in sizes}:
        order = [int(request.request_ids[0]) for request in found if request.version == version]
        assert all(earlier < later for earlier, later in pairwise(order))


@pytest.mark.parametrize("target", ["price", "band"])
def test_other_tasks_are_shadowed_too(houses, tmp_path, target) -> None:
    cfg = houses("name=houses", target=target)
    cfg.cluster = Cluster(storage=str(tmp_path))
    version = train(cfg).version
    registry = Registry(connect(cfg.tracking, cfg.cluster))
    registry.set_alias("houses", "shadow", version.number)
    registry.write_policy("houses", Traffic("ab", {"champion": 1.0}, ["shadow"]))
    deploy = DeployConfig(cluster=cfg.cluster, name="houses", serving=Serving(poll_s=0.05))
    served = Served(deploy, Application(deploy), registry, Bundle.load(version.folder).example())
    served.ask("POST", "/predict", json={"rows": served.rows})
    until(lambda: counts(served)["shadow"]["rows"] == len(served.rows))
    assert counts(served)["shadow"]["agree"] == len(served.rows)  # itself
    assert counts(served)["shadow"]["mean_difference"] == pytest.approx(0.0, abs=1e-5)
    served.application.close()


def refused(served: Served) -> str:
    return str(served.ask("GET", "/healthz").json()["refused"])

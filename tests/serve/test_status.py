"""What replicas say of themselves, and what is made of it: /metrics for all of them, and `serve.status`."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson

from conf.schema import StatusConfig
from conf.service import Traffic
from serve.app import Application
from serve.snapshots import KEPT_S, MOST, folder, models, read
from serve.status import status
from tests.serve.conftest import Served, figures, total, until

ROOT = Path(__file__).parents[2]


def test_a_refused_change_is_a_metric_and_a_word_in_the_status(served) -> None:
    assert total(figures(served.ask("GET", "/metrics")), "rungway_swap_refused") == 0
    served.registry._client.set_registered_model_tag("houses", "traffic", "not JSON")
    until(lambda: total(figures(served.ask("GET", "/metrics")), "rungway_swap_refused") == 1)
    one = status(StatusConfig(cluster=served.cfg.cluster))["houses"]
    assert "is no traffic policy" in one.replicas[0].refused
    assert "is no traffic policy" in one.lines("houses")[-1]
    served.registry.write_policy("houses", Traffic("mended", {"champion": 1.0}))
    until(lambda: total(figures(served.ask("GET", "/metrics")), "rungway_swap_refused") == 0)
    one = status(StatusConfig(cluster=served.cfg.cluster))["houses"]
    assert (one.ab_test, [(row.variant, row.weight) for row in one.versions if row.variant]) == (
        "mended",
        [("champion", 1.0)],
    )


def folder_of(served: Served) -> Path:
    """Return where the snapshots lie, once the first is there."""
    where = folder(Path(served.cfg.cluster.storage), "houses")
    until(lambda: list(where.glob("*.json")))
    return where


def left_by_another(served: Served, replica: str, age_s: float) -> Path:
    """Leave what a replica wrote that died so long ago."""
    first = next(folder_of(served).glob("*.json"))
    path = first.with_name(f"{replica}.json")
    said = orjson.loads(first.read_bytes())
    then = time.time() - age_s
    path.write_bytes(orjson.dumps({**said, "replica": replica, "pid": 1, "written": then}))
    os.utime(path, (then, then))
    return path


def test_what_a_replica_counted_that_is_gone_stays(served) -> None:
    served.ask("POST", "/predict", json={"rows": served.rows[:3]})
    served.ask("GET", "/metrics")
    left_by_another(served, "dead", 11)
    left_by_another(served, "older", KEPT_S + 1)
    found = figures(served.ask("GET", "/metrics"))
    assert total(found, "rungway_replicas") == 1
    assert total(found, "rungway_rows_total", replica="dead") == 3
    assert total(found, "rungway_rows_total") == 6
    assert total(found, "rungway_variant_info", replica="dead") == 0
    one = status(StatusConfig(cluster=served.cfg.cluster, name="houses"))["houses"]
    assert {replica.replica: replica.gone for replica in one.replicas}["dead"] is True
    assert [replica.gone for replica in one.replicas].count(False) == 1
    assert sum(row.rows for row in one.versions) == 6
    assert "gone for 11 s" in "\n".join(one.lines("houses"))
    assert one.lines("houses")[0] == "houses: 1 replica, ab_test ab"


def test_a_replica_that_was_closed_is_not_missed_and_its_counts_stay(served, second) -> None:
    second.ask("POST", "/predict", json={"rows": served.rows[:2]})
    second.application.close()
    assert total(figures(served.ask("GET", "/metrics")), "rungway_rows_total") == 2
    one = status(StatusConfig(cluster=served.cfg.cluster))["houses"]
    assert [replica.gone for replica in one.replicas] == [False]
    assert sum(row.rows for row in one.versions) == 2
    served.application.close()
    assert status(StatusConfig(cluster=served.cfg.cluster)) == {}


def test_a_replica_that_starts_deletes_what_is_old_and_what_is_too_much(served) -> None:
    old = left_by_another(served, "old", KEPT_S + 1)
    many = [left_by_another(served, f"gone{i}", 60 + i) for i in range(MOST + 1)]
    fresh = [left_by_another(served, f"fresh{i}", 1) for i in range(3)]
    Application(served.cfg).close()
    assert not old.exists()
    assert all(path.exists() for path in fresh)
    kept = [path.exists() for path in many]
    assert kept == sorted(kept, reverse=True), "the last ones"
    assert sum(kept) == MOST - 4, "beside those that live"


def test_a_spoilt_snapshot_is_nobodys(served) -> None:
    whole = orjson.loads(next(folder_of(served).glob("*.json")).read_bytes())
    other_bounds = orjson.dumps({**whole, "replica": "other", "bounds": [0.5, 1.0]})
    spoilt = [b"", b"{", b"[]", b"{}", b"\xff", b'{"answered": [1], "tallies": [], "bounds": []}', other_bounds]
    for i, said in enumerate(spoilt):
        (folder_of(served) / f"spoilt{i}.json").write_bytes(said)
    assert total(figures(served.ask("GET", "/metrics")), "rungway_replicas") == 1
    assert len(status(StatusConfig(cluster=served.cfg.cluster))["houses"].replicas) == 1


def test_a_full_disk_costs_no_answer_and_is_said_once(served, caplog) -> None:
    snapshots = served.application._snapshots
    (path,) = folder_of(served).glob("*.json")
    full = path.with_suffix(".unfinished")
    with caplog.at_level(logging.WARNING, "ray.serve"):
        with snapshots._writing:
            full.symlink_to("/dev/full")  # every write to it is refused as on a full disk
        assert served.ask("POST", "/predict", json={"rows": served.rows[:2]}).status_code == 200
        found = figures(served.ask("GET", "/metrics"))
        assert total(found, "rungway_rows_total") == 2
        found = figures(served.ask("GET", "/metrics"))
        assert total(found, "rungway_snapshot_failures_total") >= 1
    assert ["No space left" in record.getMessage() for record in caplog.records] == [True]
    with snapshots._writing:
        full.unlink()
    snapshots.all()
    (one,) = read(path.parent, time.time())
    assert sum(tally.rows for tally in one.tallies) == 2


def command(storage: Path, *said: str, entrypoint: str = "status") -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", f"serve.{entrypoint}", f"cluster.storage='{storage}'", *said]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_shows_it_as_tables_and_as_json(served, second) -> None:
    storage = Path(served.cfg.cluster.storage)
    for i in range(6):
        served.ask("POST", "/predict", json={"rows": served.rows[:2], "unit": f"u{i}"})
    second.ask("POST", "/predict", json={"rows": [{}]})
    for replica in (served, second):
        replica.ask("GET", "/metrics")
    said = command(storage, "format=json")
    assert (said.returncode, said.stderr) == (0, "")
    one = json.loads(said.stdout)["houses"]
    rows = {row["variant"]: row for row in one["versions"]}
    assert sum(row["rows"] for row in rows.values()) == 12
    assert sum(row["errors_4xx"] for row in rows.values()) == 1
    assert all(rows[alias]["weight"] == 0.5 for alias in ("champion", "challenger"))
    answered = [row for row in rows.values() if row["rows"]]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in answered)
    assert [(replica["pid"], replica["gone"]) for replica in one["replicas"]] == 2 * [(os.getpid(), False)]
    assert all(replica["versions"] == {"champion": 1, "challenger": 2} for replica in one["replicas"])
    shown = command(storage, "name=houses").stdout.splitlines()
    assert shown[0] == "houses: 2 replicas, ab_test ab"
    assert shown[1].split() == [
        "variant",
        "version",
        "weight",
        "requests",
        "rows",
        "4xx",
        "5xx",
        "p50",
        "ms",
        "p99",
        "ms",
    ]
    assert shown[2].split()[:3] == ["champion", "1", "0.5"]
    assert all("champion=1 challenger=2" in line for line in shown[-2:])


def test_nothing_is_served_is_no_error_and_a_wrong_name_is_one(served, tmp_path_factory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    said = command(empty)
    assert (said.returncode, said.stdout) == (0, "nothing is served\n")
    assert command(empty, "format=json").stdout == "{}\n"
    served.ask("GET", "/metrics")
    wrong = command(Path(served.cfg.cluster.storage), "name=hoses")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "name: 'hoses' is not served; did you mean 'houses'? Allowed: houses.\n"
    wrong = command(empty, "format=tables")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "format: 'tables' is not a choice; did you mean 'table'? Allowed: json, table.\n",
    )


def test_what_is_served_no_longer_leaves_nothing(served) -> None:
    storage = Path(served.cfg.cluster.storage)
    for said in ([], ["name=houses"]):
        last = Application(served.cfg)
        assert folder_of(served).name == "houses"
        for application in (last, served.application):
            application.close()
        ended = command(storage, "name=digits", entrypoint="stop")  # another
        assert (ended.returncode, models(storage)) == (0, ["houses"])
        ended = command(storage, *said, entrypoint="stop")
        assert (ended.returncode, ended.stdout) == (0, "nothing was running\n")
        assert models(storage) == []

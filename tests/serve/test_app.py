"""The application: answers, sticky variants, feedback on disk, hot changes, and one shape for every mistake."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from cluster import reading, records
from cluster.bundle import Bundle
from cluster.columns import raw_from_rows
from cluster.registry import Registry
from cluster.tracking import connect
from conf.schema import Cluster, DeployConfig
from conf.service import Traffic
from jobs.train import train
from serve.app import Application
from serve.native import ARROW
from tests.serve.conftest import Served, until

JSON = {"content-type": "application/json"}


def test_it_answers_what_the_bundle_predicts(served) -> None:
    answer = served.ask("POST", "/predict", json={"rows": served.rows[:3], "unit": "u", "request_id": "r1"})
    assert answer.status_code == 200
    said = answer.json()
    version = served.registry.resolve("houses", said["variant"])
    assert (said["model"], said["version"], said["request_id"]) == ("houses", version.number, "r1")
    bundle = Bundle.load(version.folder)
    wanted = bundle.predict(raw_from_rows(served.rows[:3], bundle.schema))
    found = [list(prediction["probabilities"].values()) for prediction in said["predictions"]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [p["label"] for p in said["predictions"]] == [bundle.schema.classes[i] for i in wanted.argmax(1)]
    columns = {name: [row[name] for row in served.rows[:3]] for name in served.rows[0]}
    again = served.ask("POST", "/predict", json={"columns": columns, "unit": "u"})
    assert again.json()["predictions"] == said["predictions"]


def test_a_unit_stays_with_its_variant(served) -> None:
    variants = {}
    for i in range(40):
        body = {"rows": served.rows[:1]}
        by_header = served.ask("POST", "/predict", json=body, headers={"x-unit-id": f"u{i}"}).json()["variant"]
        assert served.ask("POST", "/predict", json={**body, "unit": f"u{i}"}).json()["variant"] == by_header
        variants[i] = by_header
    assert set(variants.values()) == {"champion", "challenger"}


def test_the_request_id_is_echoed_and_begins_no_header(served) -> None:
    body, of_proxy = {"rows": served.rows[:1]}, {"x-request-id": "of the proxy"}
    for own, wanted in (({}, "of the proxy"), ({"request_id": "my own"}, "my own")):
        answer = served.ask("POST", "/predict", json={**body, **own}, headers=of_proxy)
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == wanted
    assert len({served.ask("POST", "/predict", json=body).json()["request_id"] for _ in range(3)} - {""}) == 3
    answer = served.ask("POST", "/predict", json={**body, "request_id": "a\r\nx-more: ü€"})
    assert answer.headers.raw[2] == (b"x-request-id", b"a??x-more: \xfc?")
    assert answer.json()["request_id"] == "a\r\nx-more: ü€"


def test_a_spoilt_policy_is_refused_and_a_mended_one_followed(served) -> None:
    client = connect(served.cfg.tracking, served.cfg.cluster).client
    for i, spoilt in enumerate(("not JSON", "[1]", '{"weight": 1}', '{"weights": []}', '{"weights": {}}')):
        client.set_registered_model_tag("houses", "traffic", spoilt)
        until(lambda: served.ask("GET", "/healthz").json()["refused"])
        assert served.ask("POST", "/predict", json={"rows": served.rows[:1]}).status_code == 200
        served.registry.write_policy("houses", Traffic(f"mended {i}", {"champion": 1.0}))
        until(lambda name=f"mended {i}": served.ask("GET", "/healthz").json()["ab_test"] == name)


def test_a_version_that_cannot_be_loaded_does_not_end_the_following(served) -> None:
    served.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}))
    until(lambda: served.ask("GET", "/healthz").json()["variants"] == {"champion": 1})
    manifest = served.registry.resolve("houses", "2").folder / "manifest.json"
    manifest.with_name("schema.json").write_text("{}")  # whole by its manifest, yet of no use
    hashes = json.loads(manifest.read_text())["sha256"] | {"schema.json": hashlib.sha256(b"{}").hexdigest()}
    manifest.write_text(json.dumps({"sha256": hashes}))
    served.registry.set_alias("houses", "champion", 2)
    until(lambda: served.ask("GET", "/healthz").json()["refused"])
    assert served.ask("POST", "/predict", json={"rows": served.rows[:1]}).json()["version"] == 1
    served.registry.set_alias("houses", "champion", 1)
    until(lambda: not served.ask("GET", "/healthz").json()["refused"])


def test_predictions_and_feedback_are_recorded_and_joined(served, tmp_path) -> None:
    for i in range(4):
        served.ask("POST", "/predict", json={"rows": served.rows[:2], "request_id": f"r{i}"})
    told = [{"request_id": "r1", "row": 1, "label": "yes"}, {"request_id": "r2", "label": "no"}]
    assert served.ask("POST", "/feedback", json={"feedback": told}).json() == {"accepted": 2}
    kept = list(reading.read(tmp_path, records.FEEDBACK, "houses"))
    assert sum(map(len, kept)) == 2  # at once: acknowledged is on disk
    served.application.close()
    rows = [row for table in reading.read_joined(tmp_path, "houses") for row in table.to_pylist()]
    assert len(rows) == 8
    labels = {(row["request_id"], row["row"]): row["label"] for row in rows if row["label"]}
    assert labels == {("r1", 1): "yes", ("r2", 0): "no"}


def test_it_follows_the_registry_and_refuses_a_bundle_that_was_changed(served, houses) -> None:
    served.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}))
    until(lambda: served.ask("GET", "/healthz").json()["weights"] == {"champion": 1.0})
    cfg = houses("name=houses", "seed=9")
    cfg.cluster = served.cfg.cluster
    third = train(cfg).version
    weights = third.folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    served.registry.set_alias("houses", "champion", third.number)
    until(lambda: "weights.safetensors was changed" in served.ask("GET", "/healthz").json()["refused"])
    assert served.ask("POST", "/predict", json={"rows": served.rows[:1]}).json()["version"] == 1
    weights.write_bytes(whole)
    until(lambda: served.ask("GET", "/healthz").json()["variants"] == {"champion": third.number})
    assert served.ask("POST", "/predict", json={"rows": served.rows[:1]}).json()["version"] == third.number
    assert served.ask("GET", "/healthz").json()["refused"] == ""


HALF = b'{"instances":[{"a":NaN,"b":"\\ud800"}]}'  # of a surrogate pair


def nulls(row) -> bytes:
    """Return a stream of a million rows of nulls, which takes no more bytes than one row."""
    table = pa.table({name: pa.nulls(2**20) for name in row})
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def mistakes(row):
    return [
        (400, "POST", "/predict", {"content": b"{", "headers": JSON}, "is not JSON"),
        (400, "POST", "/predict", {"json": [1]}, "is not a JSON object"),
        (415, "POST", "/predict", {"content": b"a=1", "headers": {"content-type": "text/csv"}}, "send content-type"),
        (413, "POST", "/predict", {"json": {"rows": [row] * 6}}, "serving.max_rows=5"),
        (413, "POST", "/predict", {"json": {"rows": [], "x": "y" * 20_000}}, "larger than 10,000 bytes"),
        (405, "GET", "/predict", {}, "use POST"),
        (404, "GET", "/nothing", {}, "is not here"),
        (422, "POST", "/predict", {"json": {}}, "rows and columns"),
        (422, "POST", "/predict", {"json": {"rows": []}}, "rows: is empty"),
        (422, "POST", "/predict", {"json": {"rows": [1]}}, "is not an object"),
        (422, "POST", "/predict", {"json": {"rows": [{**row, "size": "big"}]}}, "rows[0].size"),
        (422, "POST", "/predict", {"json": {"rows": [{**row, "colour": 1}]}}, "unknown columns colour"),
        (422, "POST", "/predict", {"json": {"rows": [{}]}}, "lacks size"),
        (422, "POST", "/predict", {"json": {"rows": [{**row, "garden": "yes"}]}}, "rows[0].garden"),
        (422, "POST", "/predict", {"json": {"rows": [{**row, "kind": []}]}}, "rows[0].kind"),
        (422, "POST", "/predict", {"json": {"rows": [{**row, "sold": "in May"}]}}, "rows[0].sold"),
        (422, "POST", "/predict", {"json": {"columns": dict.fromkeys(row, 1)}}, "columns.size: '1' is not a list"),
        (422, "POST", "/predict", {"json": {"rows": [row], "columns": {}}}, "not exactly one of rows and columns"),
        (400, "POST", "/predict", {"content": b""}, "is not JSON"),
        (422, "POST", "/predict", {"json": {"rows": [row], "unit": 7}}, "unit"),
        (422, "POST", "/predict", {"json": {"rows": [row], "weight": 7}}, "is not a field of a request"),
        (422, "POST", "/predict", {"json": {"rows": [row], "request_id": "r" * 300}}, "longer than 256 characters"),
        (422, "POST", "/predict", {"json": {"rows": [row]}, "headers": {"x-unit-id": "u" * 300}}, "longer than 256"),
        (422, "POST", "/invocations", {"json": {"inputs": {name: [] for name in row}}}, "rows: 0 are none"),
        (
            422,
            "POST",
            "/invocations",
            {"json": {"dataframe_split": {"columns": [[1]], "data": [[1]]}}},
            "has not columns",
        ),
        (400, "POST", "/invocations", {"content": HALF, "headers": JSON}, "is not JSON"),
        (413, "POST", "/predict", {"content": nulls(row), "headers": {"content-type": ARROW}}, "serving.max_rows=5"),
        (422, "POST", "/feedback", {"json": {"request_id": "r", "label": "perhaps"}}, "allowed: no, yes"),
        (422, "POST", "/feedback", {"json": {"label": "yes"}}, "has not the fields request_id"),
        (422, "POST", "/feedback", {"json": {"feedback": []}}, "is not a list"),
        (422, "POST", "/feedback", {"json": {"feedback": [{}], "row": 1}}, "row: is not a field beside feedback"),
    ]


def test_every_mistake_has_its_status_and_the_one_shape(served) -> None:
    for status, method, path, said, sentence in mistakes(served.rows[0]):
        answer = served.ask(method, path, **said)
        assert answer.status_code == status, (sentence, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"key", "value", "bound", "remedy", "message"}
        assert sentence in error["message"]
        assert error["message"].endswith(".")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_no_body_makes_it_fail(served) -> None:
    names = list(served.rows[0])

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["/predict", "/feedback"]),
        st.fixed_dictionaries({"rows": st.lists(st.fixed_dictionaries(dict.fromkeys(names, ANYTHING)))})
        | st.fixed_dictionaries({"columns": st.fixed_dictionaries(dict.fromkeys(names, ANYTHING))})
        | st.fixed_dictionaries({"feedback": ANYTHING, "request_id": ANYTHING})
        | ANYTHING,
    )
    def check(path, body) -> None:
        answer = served.ask("POST", path, content=json.dumps(body).encode(), headers=JSON)
        assert answer.status_code in (200, 400, 413, 422), answer.text
        assert ("error" in answer.json()) == (answer.status_code != 200)

    check()


@pytest.mark.parametrize("target", ["price", "band"])
def test_other_tasks_are_served_too(houses, tmp_path, target) -> None:
    cfg = houses("name=houses", target=target)
    cfg.cluster = Cluster(storage=str(tmp_path))
    version = train(cfg).version
    deploy = DeployConfig(cluster=cfg.cluster, name="houses")
    rows = Bundle.load(version.folder).example()
    served = Served(deploy, Application(deploy), Registry(connect(cfg.tracking, cfg.cluster)), rows)
    (first, *_) = served.ask("POST", "/predict", json={"rows": rows}).json()["predictions"]
    label = 12.5 if target == "price" else 1
    assert set(first) == ({"value"} if target == "price" else {"label", "probabilities"})
    assert served.ask("POST", "/feedback", json={"request_id": "r", "label": label}).status_code == 200
    served.application.close()

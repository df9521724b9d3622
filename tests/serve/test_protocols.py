"""The protocols that clients of others speak: those clients, unmodified, and what their own servers would answer."""

import json
import threading
from collections.abc import Iterator

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.pyfunc.scoring_server import init as stock_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from pyarrow import ipc
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from cluster.ports import free_port
from conf.service import Traffic
from serve.inference import BINARY_LENGTH
from serve.native import ARROW
from tests.serve.conftest import Served, ask, until

FORCED = {"x-unit-id": "u1"}


@pytest.fixture
def port(served: Served) -> Iterator[int]:
    """Serve the application over HTTP."""
    number = free_port()
    server = uvicorn.Server(uvicorn.Config(served.application, port=number, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield number
    server.should_exit = True
    thread.join()


def tensors(rows: list[dict[str, object]], *, binary: bool) -> list[InferInput]:
    """Return the rows of the houses as a client of Triton's would say them."""
    kinds = {"size": "FP32", "rooms": "INT32", "kind": "BYTES", "garden": "BOOL", "sold": "BYTES"}
    dtypes = {"FP32": np.float32, "INT32": np.int32, "BYTES": object, "BOOL": bool}
    made = []
    for name, kind in kinds.items():
        values = [np.nan if row[name] is None and kind == "FP32" else row[name] or "" for row in rows]
        array = np.array(values, dtype=dtypes[kind])[:, None]
        tensor = InferInput(name, [len(rows), 1], kind)
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_what_predict_answers(served, port, binary) -> None:
    rows = [{**row, "kind": row["kind"] or "flat"} for row in served.rows[:3]]
    client = InferenceServerClient(f"127.0.0.1:{port}/houses")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("houses")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("houses")
    assert described["versions"] == ["1", "2"]
    assert [tensor["name"] for tensor in described["inputs"]] == list(rows[0])
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
    made = client.infer("houses", tensors(rows, binary=binary), request_id="r9", outputs=wanted, headers=dict(FORCED))
    said = served.ask("POST", "/predict", json={"rows": rows}, headers=FORCED).json()
    probabilities = [list(row["probabilities"].values()) for row in said["predictions"]]
    np.testing.assert_allclose(made.as_numpy("probabilities"), probabilities, rtol=1e-6)
    labels = [label.decode() if isinstance(label, bytes) else label for label in made.as_numpy("label")]
    assert labels == [row["label"] for row in said["predictions"]]
    response = made.get_response()
    assert (response["model_version"], response["id"]) == (str(said["version"]), "r9")
    client.close()


def test_a_version_in_the_path_answers_and_another_is_refused(served, port) -> None:
    client = InferenceServerClient(f"127.0.0.1:{port}/houses")
    for version in ("1", "2"):
        made = client.infer("houses", tensors(served.rows[:1], binary=True), model_version=version)
        assert made.get_response()["model_version"] == version
    with pytest.raises(InferenceServerException, match=r"version: 9 is not served; ask for 1, 2, or for none\."):
        client.infer("houses", tensors(served.rows[:1], binary=True), model_version="9")
    assert client.is_model_ready("houses", "2")
    assert not client.is_model_ready("houses", "9")
    assert not client.is_model_ready("flats")
    client.close()


FORMS = {
    "dataframe_split": lambda rows: {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]},
    "dataframe_records": lambda rows: rows,
    "instances": lambda rows: rows,
    "inputs": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
}


@pytest.mark.parametrize("form", FORMS)
def test_mlflows_payloads_are_answered_as_its_own_server_does(served, form) -> None:
    champion = served.registry.resolve("houses", "champion")
    stock = stock_server(mlflow.pyfunc.load_model(str(champion.folder)))
    body = {form: FORMS[form](served.rows[:3])}
    served.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}))
    until(lambda: served.ask("GET", "/healthz").json()["weights"] == {"champion": 1.0})
    ours, theirs = served.ask("POST", "/invocations", json=body), ask(stock, "POST", "/invocations", json=body)
    assert (ours.status_code, theirs.status_code) == (200, 200), (ours.text, theirs.text)
    for mine, its in zip(ours.json()["predictions"], theirs.json()["predictions"], strict=True):
        assert mine == pytest.approx(its, rel=1e-6)


def test_mlflows_client_is_answered(served, port) -> None:
    client = ScoringServerClient("127.0.0.1", f"{port}/houses")
    client.ping()
    rows = [{**served.rows[0], "size": None}, *served.rows[1:3]]  # which it sends as NaN
    said = served.ask("POST", "/predict", json={"rows": rows}).json()
    made = client.invoke(pd.DataFrame(rows)).get_predictions()
    assert len(made) == len(said["predictions"]) == 3


def test_csv_is_taken_like_json(served) -> None:
    rows = [{**row, "kind": row["kind"] or "flat", "size": row["size"] or 50.0} for row in served.rows[:3]]
    body = pd.DataFrame(rows).to_csv(index=False)
    by_csv = served.ask("POST", "/invocations", content=body, headers={"content-type": "text/csv", **FORCED})
    by_json = served.ask("POST", "/invocations", json={"dataframe_records": rows}, headers=FORCED)
    assert by_csv.status_code == 200, by_csv.text
    assert by_csv.json() == by_json.json()


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as written:
        written.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_streams_are_answered_in_kind(served) -> None:
    table = pa.Table.from_pylist(served.rows[:4])
    answer = served.ask("POST", "/predict", content=stream(table), headers={"content-type": ARROW, **FORCED})
    assert answer.status_code == 200, answer.text
    made = ipc.open_stream(answer.content).read_all()
    said = served.ask("POST", "/predict", json={"rows": served.rows[:4]}, headers=FORCED).json()
    assert made["label"].to_pylist() == [row["label"] for row in said["predictions"]]
    for name in said["predictions"][0]["probabilities"]:
        wanted = [row["probabilities"][name] for row in said["predictions"]]
        np.testing.assert_allclose(made[f"probability:{name}"], wanted, rtol=1e-6)
    assert made.schema.metadata[b"variant"].decode() == said["variant"] == answer.headers["x-variant"]


def test_what_the_model_was_not_trained_on_is_answered_with_a_word(served) -> None:
    odd = {**served.rows[0], "size": 1e6, "kind": "castle"}
    answer = served.ask("POST", "/predict", json={"rows": [served.rows[0], odd]})
    assert answer.status_code == 200
    said = {(warning["row"], warning["column"]): warning["message"] for warning in answer.json()["warnings"]}
    assert set(said) == {(1, "size"), (1, "kind")}
    assert "1e+06 is outside the trained range [" in said[1, "size"]
    assert said[1, "kind"] == "'castle' was not seen in training"
    assert "warnings" not in served.ask("POST", "/predict", json={"rows": [served.rows[0]]}).json()


def infer(**said: object) -> dict[str, object]:
    tensor = {"name": "size", "datatype": "FP32", "shape": [1], "data": [1.0]}
    return {"json": {"inputs": [{**tensor, **said}]}}


MISTAKES = [
    ("/v2/models/houses/infer", {"content": b"{"}, 400, "is not JSON"),
    ("/v2/models/houses/infer", {"json": {"inputs": 1}}, 422, "is not a list of tensors"),
    ("/v2/models/houses/infer", infer(datatype="FP31"), 422, "did you mean 'FP"),
    ("/v2/models/houses/infer", infer(shape=[2]), 422, "has 1 values, its shape says 2"),
    ("/v2/models/houses/infer", infer(shape=[1, 2]), 422, "is not [N] or [N, 1]"),
    ("/v2/models/houses/infer", infer(), 422, "lacks rooms, kind, garden, sold"),
    ("/v2/models/houses/infer", infer(parameters={"binary_data_size": 9}), 422, "is no binary_data_size within"),
    ("/v2/models/houses/infer", {"content": b"{}", "headers": {BINARY_LENGTH: "9"}}, 400, "is no length within"),
    ("/v2/models/flats/infer", infer(), 404, "did you mean '/v2/models/houses/infer'"),
    ("/invocations", {"json": {"instances": [[1, 2]]}}, 422, "is not a list of objects"),
    ("/invocations", {"json": {"inputs": {}, "instances": []}}, 422, "give exactly one of them"),
    ("/invocations", {"json": {"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}}, 422, "has not 1 values"),
    ("/invocations", {"content": b"", "headers": {"content-type": "text/csv"}}, 422, "is no CSV"),
    ("/predict", {"content": b"xx", "headers": {"content-type": ARROW}}, 400, "is no Arrow stream"),
    (
        "/predict",
        {"content": stream(pa.table({"size": [1.0]})), "headers": {"content-type": ARROW}},
        422,
        "lacks rooms",
    ),
    ("/predict", {"content": b"{}", "headers": {"content-encoding": "gzip"}}, 415, "content-encoding"),
]


def test_every_mistake_has_its_status_and_a_sentence(served) -> None:
    for path, said, status, sentence in MISTAKES:
        answer = served.ask("POST", path, **said)
        assert answer.status_code == status, (path, said, answer.text)
        error = answer.json()["error"]
        assert sentence in (error if path.startswith("/v2") else error["message"]), (sentence, error)


def test_the_page_and_its_description_are_there(served) -> None:
    page = served.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f"docs/{name}" in page.text
        assert len(served.ask("GET", f"/docs/{name}").content) > 10_000
    assert served.ask("GET", "/docs/../app.py").status_code == 404
    described = served.ask("GET", "/openapi.json").json()
    assert described["openapi"].startswith("3.0.")  # what the page can show
    assert described["info"]["description"] == "Predicts dear (binary)."
    assert set(described["components"]["schemas"]["Row"]["properties"]) == set(served.rows[0])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def written(said: object) -> bytes:
    return json.dumps(said).encode()


def test_no_body_makes_it_fail(served) -> None:
    names = st.sampled_from([*served.rows[0], "more"])
    tensor = st.fixed_dictionaries(
        {
            "name": names | ANYTHING,
            "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL"]) | ANYTHING,
            "shape": st.lists(st.integers(-1, 3), max_size=2) | ANYTHING,
            "data": st.lists(ANYTHING, max_size=3) | ANYTHING,
        },
        optional={"parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}) | ANYTHING},
    )
    infer = st.fixed_dictionaries({"inputs": st.lists(tensor, max_size=6)}, optional={"outputs": ANYTHING})
    rows = st.lists(st.dictionaries(names, ANYTHING, max_size=6), max_size=2)
    split = st.fixed_dictionaries({"columns": st.lists(names, max_size=6), "data": st.lists(ANYTHING, max_size=2)})
    scored = st.dictionaries(st.sampled_from([*FORMS, "params"]), rows | split | ANYTHING, max_size=2)
    asked = st.one_of(
        st.tuples(st.just("/v2/models/houses/infer"), (infer | ANYTHING).map(written), st.just({})),
        st.tuples(
            st.just("/v2/models/houses/infer"),
            st.tuples(infer.map(written), st.binary(max_size=20)).map(b"".join),
            st.integers(0, 400).map(lambda length: {BINARY_LENGTH: str(length)}),
        ),
        st.tuples(st.just("/invocations"), (scored | ANYTHING).map(written), st.just({})),
        st.tuples(st.just("/invocations"), st.binary(max_size=60), st.just({"content-type": "text/csv"})),
        st.tuples(st.just("/predict"), st.binary(max_size=60), st.just({"content-type": ARROW})),
    )

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(asked)
    def check(said) -> None:
        path, body, headers = said
        answer = served.ask("POST", path, content=body, headers=headers)
        assert answer.status_code in (200, 400, 413, 415, 422), answer.text
        if answer.status_code != 200:
            assert answer.json()["error"]

    check()


def test_a_broken_arrow_stream_is_refused(served) -> None:
    whole = stream(pa.Table.from_pylist(served.rows[:4]))
    random = np.random.default_rng(0)
    for _ in range(200):
        spoilt = bytearray(whole)
        spoilt[random.integers(len(whole))] ^= 1 << random.integers(8)
        answer = served.ask("POST", "/predict", content=bytes(spoilt), headers={"content-type": ARROW})
        assert answer.status_code in (200, 400, 413, 422), answer.text

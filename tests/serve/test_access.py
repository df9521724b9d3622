"""The door: roles, constant work, rotation, spoilt files, testers' variants; and no token anywhere but in its file."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from hmac import compare_digest
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import tokens
from cluster.ports import free_port
from cluster.progress import step
from cluster.tokens import KEY
from conf.compose import from_yaml, to_yaml
from conf.errors import BadInput
from conf.schema import DeployConfig
from conf.service import Http
from jobs.data.load import Requests
from jobs.evaluation.live import send
from serve import access
from serve.access import ROLE_OF, Access, role_of
from serve.answers import Refused
from serve.app import Application
from serve.start import _check_tokens, check_port
from tests.cluster.test_tokens import LINES, ROLE_AND_TOKEN, SECRETS, SPOILT, mend, write
from tests.serve.conftest import Served, until

BODY = {"content": b"{", "headers": {"content-type": "application/json"}}


def shown(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file often."""
    monkeypatch.setattr(access, "LOOK_S", 0.02)


@pytest.fixture
def guarded(quick: None, served: Served, tmp_path: Path) -> Iterator[Served]:
    """Serve the same with tokens."""
    served.cfg.serving.http.token_file = str(write(tmp_path / "my tokens", LINES))
    application = Application(served.cfg)
    yield Served(served.cfg, application, served.registry, served.rows)
    application.close()


def statuses(guarded: Served, method: str, path: str) -> dict[str, int]:
    """Return what each role's token, none, and a wrong one are answered."""
    said = {role: guarded.ask(method, path, headers=shown(secret)) for role, secret in SECRETS.items()}
    said |= {"none": guarded.ask(method, path), "wrong": guarded.ask(method, path, headers=shown("x" * 20))}
    return {who: answer.status_code for who, answer in said.items()}


def test_each_path_takes_its_roles_and_no_other(guarded: Served) -> None:
    for path, (method, _) in guarded.application._routes.items():
        found, role = statuses(guarded, method, path), role_of(path)
        assert role is not None, path  # every route has its role said
        if role == access.OPEN:
            assert set(found.values()) == {200}, path
            continue
        assert (found["none"], found["wrong"]) == (401, 401), path
        allowed = {who for who in tokens.ROLES if found[who] != 403}
        assert allowed == {role, "admin"}, path
        assert {found[who] for who in allowed} <= {200, 400, 422}, path
    opened = [path for path in guarded.application._routes if role_of(path) == access.OPEN]
    assert opened == ["/ping", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]


def test_what_is_not_there_is_said_to_who_may_know(guarded: Served) -> None:
    found = statuses(guarded, "GET", "/predit")
    assert found == {"predict": 404, "feedback": 404, "admin": 404, "none": 401, "wrong": 401}
    assert statuses(guarded, "GET", "/v2/models/houses/versions/9")["none"] == 401
    assert statuses(guarded, "GET", "/v2/healthy")["none"] == 401
    assert statuses(guarded, "GET", "/metrics")["predict"] == 403
    assert [role_of(path) for path in ("", "/", "/x/predict", "/v2x", "/docs/swagger-ui.css")] == [None] * 4 + [
        "predict"
    ]


def test_the_pipelines_requests_show_the_tokens(guarded: Served) -> None:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(guarded.application, port=port, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    rows = Requests("test", tuple(guarded.rows[:2]), ("yes", "no"), ("u1", "u2"))
    try:
        with step("send") as shown_step:
            sent = send(f"http://127.0.0.1:{port}/houses", rows, "t", shown_step, tokens.said(guarded.cfg.serving.http))
            assert set(sent) == {"t-0", "t-1"}
            with pytest.raises(BadInput, match="answered 401"):
                send(f"http://127.0.0.1:{port}/houses", rows, "t", shown_step)
    finally:
        server.should_exit = True
        thread.join()


def test_a_refusal_has_the_shape_of_its_protocol(guarded: Served) -> None:
    missing = guarded.ask("POST", "/predict", **BODY)
    assert missing.headers["www-authenticate"] == "Bearer"
    assert missing.json()["error"]["message"] == ("authorization: is missing; send authorization: Bearer <token>.")
    assert "www-authenticate" not in guarded.ask("POST", "/predict", headers=shown(SECRETS["feedback"])).headers
    of_v2 = guarded.ask("POST", "/v2/models/houses/infer", headers=shown("wrong"))
    assert (of_v2.status_code, of_v2.headers["www-authenticate"]) == (401, "Bearer")
    assert "has no token that is known here" in of_v2.json()["error"]
    little = guarded.ask("POST", "/v2/models/houses/infer", headers=shown(SECRETS["feedback"])).json()["error"]
    assert "use a token of the role predict or admin" in little
    for odd in (b"Basic abc", b"Bearer", b"Bearer \xff\xfe", b"bearer", b"", SECRETS["admin"].encode()):
        assert guarded.ask("GET", "/docs", headers={b"authorization": odd}).status_code == 401
    assert guarded.ask("GET", "/docs", headers={"authorization": f"bearer  {SECRETS['predict']} "}).status_code == 200


def test_without_tokens_all_is_open_but_a_testers_variant(served: Served) -> None:
    body = {"json": {"rows": served.rows[:1]}}
    assert served.ask("POST", "/predict", **body, headers=shown("whatever it is")).status_code == 200
    refused = served.ask("POST", "/predict", **body, headers={"x-variant": "champion"})
    assert (refused.status_code, refused.json()["error"]["key"]) == (403, "x-variant")
    assert "configure a token" in refused.json()["error"]["remedy"]
    assert "security" not in served.ask("GET", "/openapi.json").json()


def test_an_admin_forces_a_variant_and_nobody_else(guarded: Served) -> None:
    admin, body = shown(SECRETS["admin"]), {"json": {"rows": guarded.rows[:1], "unit": "u1"}}
    for alias, number in guarded.registry.aliases("houses").items():
        said = guarded.ask("POST", "/predict", **body, headers={**admin, "x-variant": alias}).json()
        assert (said["variant"], said["version"]) == (alias, number)
    mine = guarded.ask("POST", "/predict", **body, headers={**shown(SECRETS["predict"]), "x-variant": "champion"})
    assert (mine.status_code, mine.json()["error"]["key"]) == (403, "x-variant")
    unknown = guarded.ask("POST", "/predict", **body, headers={**admin, "x-variant": "chalenger"})
    assert (unknown.status_code, unknown.json()["error"]["remedy"]) == (
        404,
        "did you mean 'challenger'? Allowed: challenger, champion",
    )
    of_csv = {"json": {"dataframe_records": guarded.rows[:1]}, "headers": {**admin, "x-variant": "challenger"}}
    assert guarded.ask("POST", "/invocations", **of_csv).headers["x-variant"] == "challenger"


def test_a_forced_variant_is_the_version_asked_for_or_refused(guarded: Served) -> None:
    row = {name: value for name, value in guarded.rows[0].items() if value is not None}
    kinds = {"size": "FP32", "rooms": "INT32", "kind": "BYTES", "garden": "BOOL", "sold": "BYTES"}
    inputs = [{"name": n, "datatype": kinds[n], "shape": [1], "data": [row.get(n, "flat")]} for n in kinds]
    inputs[0]["data"] = [50.0]
    headers = {**shown(SECRETS["admin"]), "x-variant": "challenger"}
    for number, status in ((2, 200), (1, 422)):
        path = f"/v2/models/houses/versions/{number}/infer"
        answer = guarded.ask("POST", path, json={"inputs": inputs}, headers=headers)
        assert answer.status_code == status, answer.text


def test_tokens_are_rotated_while_it_serves(guarded: Served, tmp_path: Path) -> None:
    path, new = tmp_path / "my tokens", "predict-fedcba9876543210"

    def allowed(secret: str) -> bool:
        return guarded.ask("GET", "/v2", headers=shown(secret)).status_code == 200

    write(path, f"{LINES}predict {new}\n")  # both are valid while clients change
    until(lambda: allowed(new))
    assert allowed(SECRETS["predict"])
    write(tmp_path / "next", f"predict {new}\n").rename(path)
    until(lambda: not allowed(SECRETS["predict"]))
    assert allowed(new)
    assert guarded.ask("GET", "/healthz").json()["refused"] == ""


def test_a_spoilt_new_file_leaves_the_tokens_that_were(guarded: Served, tmp_path: Path, caplog, monkeypatch) -> None:
    path = tmp_path / "my tokens"
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(access.log, "propagate", True)
    admin = shown(SECRETS["admin"])
    for spoil, sentence in SPOILT:
        spoil(path)
        until(lambda wanted=sentence: wanted in guarded.ask("GET", "/healthz", headers=admin).json()["refused"])
        assert guarded.ask("GET", "/healthz").json()["refused"] == "an admin's token is told why"  # it is open
        assert guarded.ask("GET", "/v2", headers=shown(SECRETS["predict"])).status_code == 200
        assert sentence in caplog.text
        mend(path)
        until(lambda: guarded.ask("GET", "/healthz").json()["refused"] == "")
    assert not [secret for secret in SECRETS.values() if secret in caplog.text]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROLE_AND_TOKEN, min_size=1, max_size=6), st.data())
def test_every_check_compares_all_tokens(tmp_path_factory, said, data) -> None:
    path = write(tmp_path_factory.mktemp("door") / "tokens", "\n".join(map(" ".join, said)))
    door, compared = Access(str(path)), list[tuple[bytes, bytes]]()

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    secret = data.draw(st.sampled_from([secret for _, secret in said]) | st.text("abc=", max_size=40))
    scope = {"path": "/predict", "headers": [(b"authorization", f"Bearer {secret}".encode())]}
    roles = {role for role, known in said if known == secret}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access.hmac, "compare_digest", counted)
        try:
            door.check("/predict", scope)
            status = 200
        except Refused as refused:
            status = refused.status
    door.close()
    assert status == (401 if not roles else 200 if roles & {"predict", "admin"} else 403)
    assert len(compared) == len(said)
    assert {(len(one), len(other)) for one, other in compared} == {(32, 32)}
    assert {other for _, other in compared} == {hashlib.sha256(secret.strip().encode()).digest()}


def test_another_host_needs_tokens(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"without a token; give serving\.http\.token_file"):
        check_port(Http(host="0.0.0.0", port=0))
    check_port(Http(host="0.0.0.0", port=0, token_file=str(tmp_path)))


def test_a_running_application_is_not_opened_by_leaving_its_tokens_out(tmp_path) -> None:
    with_tokens, without = DeployConfig(name="houses"), DeployConfig(name="houses")
    with_tokens.serving.http.token_file = str(tmp_path)
    _check_tokens(without, {"houses": to_yaml(without)})
    _check_tokens(with_tokens, {"houses": to_yaml(without)})
    with pytest.raises(BadInput, match=r"is left out, and houses asks for tokens; give it \(or RUNGWAY_TOKENS\) again"):
        _check_tokens(without, {"houses": to_yaml(with_tokens)})


def test_the_description_says_what_the_door_asks(guarded: Served) -> None:
    said = guarded.ask("GET", "/openapi.json", headers=shown(SECRETS["predict"])).json()
    assert said["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert said["security"] == [{"token": []}]
    for path, item in said["paths"].items():
        for operation in (item[method] for method in ("get", "post") if method in item):
            opened = role_of(path) == access.OPEN
            assert (operation.get("security") == []) == opened
            assert ({"401", "403"} <= set(operation["responses"])) != opened
    assert set(ROLE_OF) - {"/metrics", "/ping", "/docs", "/openapi.json", "/v2/health"} <= set(said["paths"])


def test_the_config_carries_a_path_and_no_token(guarded: Served) -> None:
    written = to_yaml(guarded.cfg)
    assert not [secret for secret in SECRETS.values() if secret in written]
    assert from_yaml(written, DeployConfig).serving.http.token_file == guarded.cfg.serving.http.token_file
    assert KEY == "serving.http.token_file"

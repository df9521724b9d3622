"""Records as the application keeps them: feedback on disk or refused, each once, without what is to be hidden."""

import asyncio
from pathlib import Path

import httpx
import pytest

from cluster import records
from cluster.reading import read, read_joined
from cluster.records import FEEDBACK, PREDICTIONS
from conf.errors import BadInput
from conf.service import Records
from serve.app import Application
from serve.deploy import deploy
from tests.serve.conftest import Served, ask, until


def labels(storage: Path) -> dict[tuple[str, int, str], str | None]:
    """Return the label of each prediction, which may come only once."""
    rows = [row for table in read_joined(storage, "houses") for row in table.to_pylist()]
    found = {(row["request_id"], row["row"], row["variant"]): row["label"] for row in rows}
    assert len(found) == len(rows)
    return found


def predict(served: Served, request_id: str) -> str:
    """Ask for a prediction and return the variant that made it."""
    body = {"rows": served.rows[:1], "request_id": request_id}
    return str(served.ask("POST", "/predict", json=body).json()["variant"])


def full(served: Served, top: Path, said: dict[str, object]) -> None:
    """Take away what a kind of records is written to; see feedback refused."""
    aside = top.with_name("aside")
    top.rename(aside) if top.exists() else aside.mkdir(parents=True)
    top.write_text("no room")
    answer = served.ask("POST", "/feedback", json=said)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "cannot be kept" in answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"key", "value", "bound", "remedy", "message"}
    top.unlink()
    aside.rename(top)


def test_feedback_that_cannot_be_kept_is_refused_and_taken_when_there_is_room(served, tmp_path) -> None:
    top = records.folder(tmp_path, FEEDBACK, "houses")
    full(served, top, {"request_id": "a", "label": "yes"})
    assert served.ask("POST", "/feedback", json={"request_id": "b", "label": "yes"}).status_code == 200
    full(served, top, {"request_id": "c", "label": "no"})
    (table,) = read(tmp_path, FEEDBACK, "houses")
    assert table["request_id"].to_pylist() == ["b"]


def test_predictions_that_cannot_be_kept_are_counted_and_answered_all_the_same(served, tmp_path) -> None:
    top = records.folder(tmp_path, PREDICTIONS, "houses")
    top.parent.mkdir(parents=True)
    top.write_text("no room")
    predict(served, "lost")
    until(lambda: served.ask("GET", "/healthz").json()["log_dropped"] == 1)
    assert str(top) in served.ask("GET", "/healthz").json()["log_failure"]
    top.unlink()
    variant = predict(served, "kept")
    until(lambda: list(labels(tmp_path)) == [("kept", 0, variant)])
    said = served.ask("GET", "/healthz").json()
    assert (said["log_dropped"], said["log_failure"]) == (1, "")


def test_a_request_sent_twice_and_feedback_before_its_prediction_count_once(served, tmp_path) -> None:
    for label in ("yes", "no", "yes"):
        answer = served.ask("POST", "/feedback", json={"request_id": "r", "label": label})
        assert answer.json() == {"accepted": 1}
    variant = predict(served, "r")
    assert predict(served, "r") == variant
    served.application.close()
    second = Application(served.cfg)  # of another replica, to which the proxy sent it again
    try:
        for path, body in (("predict", {"rows": served.rows[:1]}), ("feedback", {"label": "no"})):
            answer = ask(second, "POST", f"/houses/{path}", json={**body, "request_id": "r"})
            assert answer.status_code == 200, answer.text
    finally:
        second.close()
    assert labels(tmp_path) == {("r", 0, variant): "yes"}


def test_many_tell_at_once_and_all_is_on_disk(served, tmp_path) -> None:
    async def tell() -> list[int]:
        transport = httpx.ASGITransport(served.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = [
                client.post("/houses/feedback", json={"request_id": f"r{i}", "label": "no"}, timeout=30)
                for i in range(200)
            ]
            return [answer.status_code for answer in await asyncio.gather(*told)]

    assert asyncio.run(tell()) == [200] * 200
    tables = list(read(tmp_path, FEEDBACK, "houses"))
    assert {one for table in tables for one in table["request_id"].to_pylist()} == {f"r{i}" for i in range(200)}
    assert len(list(records.folder(tmp_path, FEEDBACK, "houses").rglob("*.parquet"))) < 100  # they shared writes


def test_what_a_person_wants_hidden_is_hidden(served, tmp_path) -> None:
    served.application.close()
    served.cfg.serving.records = Records(omit=["size"], hash=["kind", "unit"], sample=0.5)
    application = Application(served.cfg)
    rows = [{**served.rows[0], "size": 12345.0, "kind": "a secret kind"}]
    for i in range(40):
        body = {"rows": rows, "request_id": f"r{i}", "unit": "a secret person"}
        assert ask(application, "POST", "/houses/predict", json=body).status_code == 200
    application.close()
    found = [row for table in read(tmp_path, PREDICTIONS, "houses") for row in table.to_pylist()]
    assert 5 < len(found) < 35
    assert {row["inputs"]["size"] for row in found} == {None}
    assert len({row["inputs"]["kind"] for row in found}) == len({row["unit"] for row in found}) == 1
    for path in records.folder(tmp_path, PREDICTIONS, "houses").rglob("*.parquet"):
        assert b"secret" not in path.read_bytes()


@pytest.mark.parametrize("how", ["omit", "hash"])
def test_a_column_that_is_not_there_is_refused_before_anything_is_served(served, how) -> None:
    served.cfg.serving.records = Records(**{how: ["sise"]})
    for start in (Application, deploy):
        with pytest.raises(BadInput, match=f"serving.records.{how}: 'sise' is no column .* did you mean 'size'"):
            start(served.cfg)

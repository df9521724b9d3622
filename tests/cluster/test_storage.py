"""Where things are kept, and what a submitted job refuses."""

import json

import pytest

from cluster.storage import VARIABLE, storage_path
from conf.errors import BadInput
from conf.schema import Cluster

SUBMITTED = json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}})


def test_said_beats_environment_beats_default(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE)
    assert storage_path(Cluster()) == tmp_path / "var"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env"))
    assert storage_path(Cluster()) == tmp_path / "env"
    assert storage_path(Cluster(storage=str(tmp_path / "a b"))) == tmp_path / "a b"
    assert (tmp_path / "a b").is_dir()


def test_a_submitted_job_refuses_a_relative_path_and_has_an_absolute_default(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", SUBMITTED)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(BadInput, match="'var' is relative"):
        storage_path(Cluster(storage="var"))
    assert storage_path(Cluster()) == tmp_path / ".rungway"
    assert storage_path(Cluster(storage=str(tmp_path / "own"))) == tmp_path / "own"
    assert storage_path(Cluster(storage="~/own")) == tmp_path / "own"
    monkeypatch.setenv(VARIABLE, "some/where")
    with pytest.raises(BadInput, match=f"{VARIABLE}: 'some/where' is relative.*; give an absolute path"):
        storage_path(Cluster())
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {}}))  # a worker, not a submitted job
    monkeypatch.chdir(tmp_path)
    assert storage_path(Cluster()) == tmp_path / "some" / "where"


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        storage_path(Cluster(storage=str(tmp_path / "file" / "var")))

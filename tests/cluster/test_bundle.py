"""The bundle: whole or refused, and the same answers from stock MLflow without the repo."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.bundle import MANIFEST, Bundle, check_manifest
from cluster.columns import raw_from_rows
from conf.errors import BadInput

FRAMES = """
import json, sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = json.load(sys.stdin)
plain = pd.DataFrame(rows)
frames = {
    "plain": plain,
    "str": plain.astype({"kind": "str"}),
    "category": plain.astype({"kind": "category"}),
    "object": pd.DataFrame(rows, dtype=object),
    "NaN": pd.DataFrame(rows, dtype=object).fillna(float("nan")),
    "nullable": plain.astype({"garden": "boolean", "size": "Float64", "kind": "string"}),
    "float32": plain.astype({"size": "float32"}),
    "times": plain.assign(sold=pd.to_datetime(plain["sold"])),
    "zone": plain.assign(sold=pd.to_datetime(plain["sold"], utc=True).dt.tz_convert("Asia/Tokyo")),
    "index": plain.set_axis(range(100, 100 + len(rows))),
    "order": plain[plain.columns[::-1]],
}
assert frames["str"]["kind"].dtype == "str" and frames["times"]["sold"].isna().any()
answers = {name: model.predict(frame) for name, frame in frames.items()}
assert answers["index"].index[0] == 100
assert not {"cluster", "conf", "jobs"} & set(sys.modules)
print(json.dumps({name: answer.to_dict("split") for name, answer in answers.items()}))
"""
ROWS = [
    {"size": 51.5, "rooms": 3, "kind": "house", "garden": True, "sold": "2024-05-01T00:00:00"},
    {"size": None, "rooms": 7, "kind": "flat", "garden": False, "sold": "2025-01-31T12:30:00"},
    {"size": -3.25, "rooms": 1, "kind": None, "garden": None, "sold": "2024-02-29T00:00:00"},
    {"size": 1e9, "rooms": 2, "kind": "never seen", "garden": True, "sold": None},
]


@pytest.fixture
def copy(registered, tmp_path) -> Path:
    """Return a copy of a registered bundle that may be spoilt."""
    folder: Path = shutil.copytree(registered.first.folder, tmp_path / "copy")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(json.loads((folder / MANIFEST).read_text())["sha256"])


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as raised:
        Bundle.load(folder)
    return str(raised.value)


def test_the_manifest_names_every_file(registered, copy) -> None:
    here = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    assert sorted(here) == sorted([*names(copy), MANIFEST])
    wanted = {"model.onnx", "weights.safetensors", "config.yaml", "schema.json", "reference.json", "lineage.json"}
    assert wanted | {"card.md", "example.json", "MLmodel", "requirements.txt"} <= set(here)


def test_any_file_changed_is_refused(copy) -> None:
    for name in names(copy):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert f"cannot be trusted: {name} was changed after registration" in refused(copy)
        (copy / name).write_bytes(before)
    check_manifest(copy)


def test_any_file_removed_is_refused(copy) -> None:
    for name in names(copy):
        before = (copy / name).read_bytes()
        (copy / name).unlink()
        assert f"cannot be trusted: {name} is missing" in refused(copy)
        (copy / name).write_bytes(before)
    check_manifest(copy)


@pytest.mark.parametrize("name", ["extra.pkl", "code/rungway_bundle/extra.py", "code/onnxruntime.py", ".hidden"])
def test_any_file_added_is_refused(copy, name) -> None:
    (copy / name).write_text("import os")
    assert f"cannot be trusted: {name} is not in the manifest" in refused(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": null}', '{"sha256": 7}', "\xff"])
def test_a_manifest_that_says_nothing_is_refused(copy, text) -> None:
    (copy / MANIFEST).write_text(text, encoding="latin-1")
    assert "has no readable manifest.json; register the model again." in refused(copy)
    (copy / MANIFEST).unlink()
    assert "has no readable manifest.json" in refused(copy)


def test_probabilities_and_reference(registered) -> None:
    bundle = Bundle.load(registered.first.folder)
    made = bundle.predict(raw_from_rows(ROWS, bundle.schema))
    assert (made.shape, made.dtype) == ((4, 2), np.float32)
    np.testing.assert_allclose(made.sum(axis=1), 1, rtol=1e-6)
    other = Bundle.load(registered.second.folder).predict(raw_from_rows(ROWS, bundle.schema))
    assert np.abs(made - other).max() > 1e-3  # two seeds are two models
    said = json.loads((registered.first.folder / "reference.json").read_text())
    assert set(said["columns"]) == {column.name for column in bundle.schema.columns}
    train_rows = sum(said["columns"]["kind"]["counts"].values())
    for column in ("size", "sold", "rooms"):
        known = sum(said["columns"][column]["counts"])
        assert known == pytest.approx(train_rows * (1 - said["columns"][column]["missing"]))
    assert 0 < said["columns"]["size"]["missing"] < 0.2


def test_stock_mlflow_answers_alike_without_the_repo(registered) -> None:
    bundle = Bundle.load(registered.first.folder)
    wanted = bundle.predict(raw_from_rows(ROWS, bundle.schema))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", FRAMES, registered.tracking.uri, f"models:/{registered.first.name}@champion"],
        cwd="/",
        env=clean,
        input=json.dumps(ROWS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for name, answer in json.loads(ended.stdout.splitlines()[-1]).items():
        assert answer["columns"] == list(bundle.schema.classes), name
        np.testing.assert_allclose(answer["data"], wanted, atol=1e-6, rtol=0, err_msg=name)
    check_manifest(registered.first.folder)  # MLflow's own note beside it does no harm

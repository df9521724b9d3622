"""The bundle: everything that is registered as one version, written whole and checked on load.

model.onnx (raw columns in, prediction out), weights.safetensors and config.yaml (to train on), schema.json,
reference.json, lineage.json, card.md, example.json (real rows), the files of a normal MLflow model, and
manifest.json with the sha256 of each of them. Nothing is unpickled, no code of a bundle is run by our serving.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from safetensors.torch import save

from cluster.columns import Array, ModelSchema, Raw
from conf.errors import BadInput

MANIFEST = "manifest.json"
_LOADER = "rungway_bundle"  # the package inside a bundle that stock MLflow imports
_NOT_OURS = (MANIFEST, "registered_model_meta")  # MLflow adds the latter when it loads a version
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contents:
    """What a bundle is written from. example: a few real rows as JSON objects."""

    onnx: bytes
    weights: Mapping[str, torch.Tensor]
    config_yaml: str
    schema: ModelSchema
    reference: Mapping[str, object]
    lineage: Mapping[str, object]
    card: str
    example: list[dict[str, object]]


def write_bundle(folder: Path, contents: Contents) -> None:
    """Write all files of a bundle into an empty folder, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(contents.onnx)
    (folder / "weights.safetensors").write_bytes(save(dict(contents.weights)))
    (folder / "config.yaml").write_text(contents.config_yaml)
    (folder / "card.md").write_text(contents.card)
    for name, said in (
        ("schema", contents.schema.to_dict()),
        ("reference", contents.reference),
        ("lineage", contents.lineage),
        ("example", contents.example),
    ):
        (folder / f"{name}.json").write_text(json.dumps(said, indent=1))
    _write_mlflow_files(folder, contents.schema)
    hashes = {name: _sha256(folder / name) for name in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps({"sha256": hashes}, indent=1))


def _write_mlflow_files(folder: Path, schema: ModelSchema) -> None:
    """Make the folder a normal MLflow model whose loader and codec travel with it."""
    loader = folder / "code" / _LOADER
    loader.mkdir(parents=True)
    for source, target in (
        (_HERE / "pyfunc.py", "__init__.py"),
        (_HERE / "columns.py", "columns.py"),
        (_HERE.parent / "conf" / "errors.py", "errors.py"),
    ):
        text = source.read_text().replace("from cluster.", f"from {_LOADER}.").replace("from conf.", f"from {_LOADER}.")
        (loader / target).write_text(text)
    needs = ("mlflow", "numpy", "onnxruntime", "pandas", "pyarrow")
    (folder / "requirements.txt").write_text("".join(f"{name}=={version(name)}\n" for name in needs))
    # MLflow would refuse whole numbers in a column of doubles; the codec checks the types itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow's advice to name a narrower type
        inputs = Schema([ColSpec(AnyType(), column.name, required=False) for column in schema.columns])
        outputs = Schema([ColSpec(DataType.float, name) for name in schema.classes or ("prediction",)])
        model = Model(signature=ModelSignature(inputs, outputs))
        pyfunc.add_to_model(model, loader_module=_LOADER, code="code")
        model.save(str(folder / "MLmodel"))


class Bundle:
    """A bundle that was checked against its manifest, ready to predict."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.schema = read_schema(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._network = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> Bundle:
        """Check every file's sha256 and load; raises BadInput for a file changed, missing or extra."""
        check_manifest(folder)
        return cls(folder, threads)

    def predict(self, raw: Raw) -> Array:
        """Return [N, K] float32 probabilities, or [N, 1] float32 values."""
        return np.asarray(self._network.run(None, raw)[0])

    def example(self) -> list[dict[str, object]]:
        """Return a few real rows as JSON objects."""
        rows: list[dict[str, object]] = json.loads((self.folder / "example.json").read_text())
        return rows


def read_schema(folder: Path) -> ModelSchema:
    """Return the schema of a bundle without loading or checking the rest."""
    return ModelSchema.from_dict(json.loads((folder / "schema.json").read_text()))


def check_manifest(folder: Path) -> None:
    """Raise BadInput unless the folder holds exactly the files of its manifest, unchanged."""
    try:
        hashes = dict[str, str](json.loads((folder / MANIFEST).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput("bundle", str(folder), "has no readable manifest.json", "register the model again") from error
    found = set(_files(folder))
    for name in sorted(found | set(hashes)):
        if name not in hashes:
            wrong = "is not in the manifest"
        elif name not in found:
            wrong = "is missing"
        elif _sha256(folder / name) != hashes[name]:
            wrong = "was changed after registration"
        else:
            continue
        raise BadInput("bundle", str(folder), f"cannot be trusted: {name} {wrong}", "register the model again")


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in _NOT_OURS and "__pycache__" not in name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reference(raw: Raw, predictions: Array, schema: ModelSchema) -> dict[str, Any]:
    """Return what later drift checks compare with: a histogram per column of the train part, and of predictions.

    Numbers, times and the lengths of texts in bytes: counts between the deciles; categories: counts by name.
    """
    columns: dict[str, Any] = {}
    for column in schema.columns:
        values = raw[column.name][:, 0]
        if column.type == "text":
            lengths = (raw[column.name] != 0).sum(1)
            columns[column.name] = {**_deciles(lengths[lengths > 0]), "missing": float((lengths == 0).mean())}
        elif column.type == "category":
            names, counts = np.unique(values.astype(str), return_counts=True)
            columns[column.name] = {"counts": dict(zip(names.tolist(), counts.tolist(), strict=True))}
        else:
            known = values[values > -(2**62)] if column.type == "time" else values[~np.isnan(values)]
            columns[column.name] = {**_deciles(known), "missing": 1 - len(known) / max(len(values), 1)}
    outputs = schema.classes or ("prediction",)
    histograms = {name: _deciles(predictions[:, i]) for i, name in enumerate(outputs)}
    return {"columns": columns, "predictions": histograms}


def _deciles(values: Array) -> dict[str, list[float]]:
    edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, 11))) if len(values) else np.zeros(1)
    counts = np.histogram(values, edges)[0] if len(edges) > 1 else np.array([len(values)])
    return {"edges": edges.tolist(), "counts": counts.tolist()}

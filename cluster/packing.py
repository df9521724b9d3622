"""What a bundle is written from, and how: after training; serving reads bundles without PyTorch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from safetensors.torch import save

from cluster.bundle import write_manifest
from cluster.columns import Array, ModelSchema, Raw

_LOADER = "rungway_bundle"  # the package inside a bundle that stock MLflow imports
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
    write_manifest(folder)


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

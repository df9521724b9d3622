"""The bundle: everything that is registered as one version, written whole (`cluster.packing`) and checked on load.

model.onnx (raw columns in, prediction out), weights.safetensors and config.yaml (to train on), schema.json,
reference.json, lineage.json, card.md, example.json (real rows), the files of a normal MLflow model, and
manifest.json with the sha256 of each of them. Nothing is unpickled, no code of a bundle is run by our serving.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime

from cluster.columns import Array, ModelSchema, Raw
from conf.errors import BadInput

MANIFEST = "manifest.json"
_NOT_OURS = (MANIFEST, "registered_model_meta")  # MLflow adds the latter when it loads a version
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"  # of ONNX Runtime


class Bundle:
    """A bundle that was checked against its manifest, ready to predict."""

    def __init__(self, folder: Path, threads: int, *, gpu: bool) -> None:
        self.folder = folder
        self.schema = read_schema(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        providers = [CUDA, CPU] if gpu else [CPU]
        self._network = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=providers)

    @classmethod
    def load(cls, folder: Path, threads: int = 1, *, gpu: bool = False) -> Bundle:
        """Check every file's sha256 and load; raises BadInput for a file changed, missing or extra, or without CUDA."""
        if gpu and CUDA not in onnxruntime.get_available_providers():
            bound = "is asked for, and this ONNX Runtime has no CUDA"
            raise BadInput("GPU", None, bound, "install onnxruntime-gpu, or ask for none")
        check_manifest(folder)
        return cls(folder, threads, gpu=gpu)

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


def write_manifest(folder: Path) -> None:
    """Write the sha256 of each of the bundle's files, which ends its writing."""
    hashes = {name: _sha256(folder / name) for name in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps({"sha256": hashes}, indent=1))


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

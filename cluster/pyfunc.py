"""How stock MLflow reads a bundle: this file and the codec travel inside it, so the repo need not be there.

`mlflow.pyfunc.load_model` and `mlflow models serve` call `_load_pyfunc`; our own serving never does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from cluster.columns import ModelSchema, raw_from_rows


class PyfuncModel:
    """A bundle as an MLflow model: DataFrame of raw columns in, DataFrame out."""

    def __init__(self, folder: Path) -> None:
        self._schema = ModelSchema.from_dict(json.loads((folder / "schema.json").read_text()))
        self._network = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one column of probabilities per class, or the column `prediction`; one row per row given."""
        plain = rows.astype(object).where(rows.notna(), None)
        records = [{str(k): _plain(v) for k, v in row.items()} for row in plain.to_dict("records")]
        (made,) = self._network.run(None, raw_from_rows(records, self._schema))
        return pd.DataFrame(made, columns=list(self._schema.classes) or ["prediction"], index=rows.index)


def _plain(value: Any) -> Any:
    """Return numpy scalars as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _load_pyfunc(folder: str) -> PyfuncModel:
    return PyfuncModel(Path(folder))

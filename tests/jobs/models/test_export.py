"""The exported graph is the model: every task, every combination of columns, unseen and missing values."""

from itertools import combinations

import numpy as np
import onnxruntime
import pytest
import torch

from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from jobs.data.encode import encode
from jobs.models.export import export_onnx, verify_export
from jobs.models.predictor import build

COLUMNS = {
    "number": ColumnSchema("n o", "number"),
    "boolean": ColumnSchema("b", "boolean"),
    "category": ColumnSchema("c", "category", categories=("x", "ü", "")),
    "time": ColumnSchema("t", "time", parts=("hour", "weekday", "yearday", "trend")),
}
CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}
KINDS = [kinds for count in (1, 2, 4) for kinds in combinations(COLUMNS, count)]
MODELS = [
    {"_target_": "jobs.models.linear.Linear"},
    {"_target_": "jobs.models.mlp.Mlp", "layers": 2, "width": 8, "dropout": 0.5, "embedding": 4},
]


def rows(count: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(count)
    return [
        {
            "n o": None if i % 5 == 0 else float(rng.normal(100, 30)),
            "b": [True, False, None][i % 3],
            "c": ["x", "ü", None, "new"][i % 4],
            "t": None if i % 7 == 0 else int(rng.integers(0, 2**31)),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("model", MODELS, ids=["linear", "mlp"])
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("task", CLASSES)
def test_the_graph_answers_as_pytorch_does(task, kinds, model) -> None:
    columns = tuple(COLUMNS[kind] for kind in kinds)
    schema = ModelSchema("y", task, CLASSES[task], columns)
    named = [{column.name: row[column.name] for column in columns} for row in rows(64)]
    raw = raw_from_rows(named, schema)
    target = torch.arange(64) % max(len(schema.classes), 1)
    target = target if schema.classes else torch.linspace(-1e4, 1e4, 64)
    torch.manual_seed(0)
    predictor = build(model, schema, encode(raw, schema), target).eval()
    graph = export_onnx(predictor, schema)
    assert verify_export(graph, predictor, raw, schema) <= 1e-5
    session = onnxruntime.InferenceSession(graph)
    assert {given.name for given in session.get_inputs()} == {column.name for column in columns}
    for count in (1, 7):  # any number of rows
        (answers,) = session.run(None, {name: values[:count] for name, values in raw.items()})
        assert answers.shape == (count, len(schema.classes) or 1)
        if schema.classes:
            np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)

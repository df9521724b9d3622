"""The exported graph is the model: every task, every combination of columns, unseen and missing values."""

from itertools import combinations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from conf.errors import BadInput
from jobs.data.encode import encode
from jobs.models.export import export_onnx, verify_export
from jobs.models.predictor import Predictor, build

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
    target = np.arange(64) % len(schema.classes) if schema.classes else np.linspace(-1e4, 1e4, 64)
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


def trained(task: str, model: dict[str, object]) -> tuple[ModelSchema, Predictor]:
    schema = ModelSchema("y", task, CLASSES[task], tuple(COLUMNS.values()))
    target = np.arange(64) % len(schema.classes) if schema.classes else np.linspace(-1e4, 1e4, 64)
    torch.manual_seed(0)
    predictor = build(model, schema, encode(raw_from_rows(rows(64), schema), schema), target)
    with torch.no_grad():
        for weight in predictor.network.parameters():
            weight.add_(torch.randn_like(weight) / 10)  # a linear model starts at zero, where all agrees
    return schema, predictor.eval()


@pytest.mark.parametrize("model", MODELS, ids=["linear", "mlp"])
@pytest.mark.parametrize("task", CLASSES)
def test_whatever_a_client_may_send_is_answered_alike(task, model) -> None:
    schema, predictor = trained(task, model)
    session = onnxruntime.InferenceSession(export_onnx(predictor, schema))
    numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)
    booleans, texts = st.none() | st.booleans(), st.none() | st.sampled_from(["x", "ü", "new"]) | st.text(max_size=4)
    times = st.none() | st.integers(-(10**10), 10**11)  # years 1653 to 5138

    @settings(max_examples=100, deadline=None)
    @given(st.fixed_dictionaries({"n o": numbers, "b": booleans, "c": texts, "t": times}))
    def check(row) -> None:
        raw = raw_from_rows([row], schema)
        encoded = encode(raw, schema)
        arrays = (encoded.numbers, encoded.codes, encoded.times)
        wanted = predictor(*(torch.from_numpy(array) for array in arrays)).detach().numpy()
        (found,) = session.run(None, raw)
        size = 1.0 if schema.classes else float(predictor.target_scale) + np.abs(wanted)
        assert np.isfinite(found).all()
        assert (np.abs(found - wanted) / size).max() <= 1e-5

    check()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_network_that_answers_otherwise_when_traced_is_refused(task, strange_network) -> None:
    schema, predictor = trained(task, strange_network)
    graph = export_onnx(predictor, schema)
    with pytest.raises(BadInput, match=r"export: differs from PyTorch by .*; nothing was registered"):
        verify_export(graph, predictor, raw_from_rows(rows(64), schema), schema)


@pytest.mark.parametrize("task", CLASSES)
def test_a_graph_of_other_weights_is_refused(task) -> None:
    schema, predictor = trained(task, MODELS[0])
    graph = export_onnx(predictor, schema)
    assert verify_export(graph, predictor, raw_from_rows(rows(64), schema), schema) <= 1e-5
    with torch.no_grad():
        predictor.network.bias[0] += 1e-3
    with pytest.raises(BadInput, match="differs from PyTorch"):
        verify_export(graph, predictor, raw_from_rows(rows(64), schema), schema)


def test_a_graph_that_answers_nothing_is_refused() -> None:
    schema, predictor = trained("binary", MODELS[0])
    graph = export_onnx(predictor, schema)
    with torch.no_grad():
        predictor.network.bias.fill_(torch.nan)
    with pytest.raises(BadInput, match="differs from PyTorch by nan"):
        verify_export(graph, predictor, raw_from_rows(rows(64), schema), schema)

"""One ONNX graph from raw named columns to the prediction, checked against PyTorch before it may be registered."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

from cluster.columns import MISSING_TIME, ModelSchema, Raw
from conf.errors import BadInput
from jobs.data.encode import encode
from jobs.models.predictor import Predictor

OPSET = 18
TOLERANCE = 1e-5
_TEXT = "text_"  # and the place of its column: a block of its own
_KINDS = {"number": "numbers", "boolean": "numbers", "category": "codes", "time": "times"}
_TYPES = {
    "number": TensorProto.FLOAT,
    "boolean": TensorProto.FLOAT,
    "time": TensorProto.INT64,
    "text": TensorProto.UINT8,
}


class _Blocks(nn.Module):
    """The predictor taking only the kinds of input that its schema has (ONNX drops unused inputs)."""

    def __init__(self, predictor: Predictor, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.predictor, self.kinds = predictor, kinds

    def forward(self, *blocks: Tensor) -> Tensor:
        given = dict(zip(self.kinds, blocks, strict=True))
        rows = blocks[0].shape[0]
        numbers = given.get("numbers", blocks[0].new_empty((rows, 0), dtype=torch.float32))
        codes = given.get("codes", blocks[0].new_empty((rows, 0), dtype=torch.int64))
        times = given.get("times", blocks[0].new_empty((rows, 0), dtype=torch.int64))
        texts = [block for kind, block in given.items() if kind.startswith(_TEXT)]
        answer: Tensor = self.predictor(numbers, codes, times, *texts)
        return answer


def export_onnx(predictor: Predictor, schema: ModelSchema) -> bytes:
    """Return the graph: inputs named as the columns, [N, 1] each (texts [N, L]).

    Output: [N, K] probabilities or [N, 1] values.
    """
    kinds = tuple(dict.fromkeys(_kind(i, column.type) for i, column in enumerate(schema.columns)))
    blocks = tuple(_example(kind, schema) for kind in kinds)
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's advice to use the slower one
        torch.onnx.export(
            _Blocks(predictor, kinds).eval(),
            blocks,
            written,  # type: ignore[arg-type]  # a stream is taken too
            input_names=list(kinds),
            output_names=["prediction" if schema.task == "regression" else "probabilities"],
            dynamic_axes={
                name: {0: "rows", **({1: f"bytes of {name}"} if name.startswith(_TEXT) else {})}
                for name in [*kinds, "prediction", "probabilities"]
            },
            opset_version=OPSET,
            dynamo=False,
        )
    network = onnx.load_from_string(written.getvalue())
    used = [given.name for given in network.graph.input]  # a network may leave a kind of column out
    whole = compose.merge_models(_columns_graph(schema, kinds, network), network, [(f"{k}_in", k) for k in used])
    answers = [given for given in whole.graph.output if given.name in ("prediction", "probabilities")]
    del whole.graph.output[:]
    whole.graph.output.extend(answers)
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def _kind(place: int, column: str) -> str:
    """Return the block that a column goes into: with others of its kind, a text by itself."""
    return f"{_TEXT}{place}" if column == "text" else _KINDS[column]


def _example(kind: str, schema: ModelSchema) -> Tensor:
    if kind.startswith(_TEXT):
        return torch.randint(32, 127, (2, 24), dtype=torch.uint8)
    count = sum(_kind(i, column.type) == kind for i, column in enumerate(schema.columns))
    return torch.zeros((2, count), dtype=torch.float32 if kind == "numbers" else torch.int64)


def _columns_graph(schema: ModelSchema, kinds: tuple[str, ...], network: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in front: looks texts up in the vocabulary and puts columns of one kind side by side."""
    inputs, nodes, members = [], [], {kind: [] for kind in kinds}  # type: ignore[var-annotated]
    for i, column in enumerate(schema.columns):
        name = column.name
        kind = _TYPES.get(column.type, TensorProto.STRING)
        wide = f"bytes of {column.name}" if column.type == "text" else 1
        inputs.append(helper.make_tensor_value_info(column.name, kind, ["rows", wide]))
        if column.type == "category":
            name = f"code_{i}"
            nodes.append(_lookup(column.name, name, column.categories))
        members[_kind(i, column.type)].append(name)
    outputs = []
    for block, names in members.items():
        nodes.append(helper.make_node("Concat", names, [f"{block}_in"], axis=1))
        element = {"numbers": TensorProto.FLOAT, "codes": TensorProto.INT64, "times": TensorProto.INT64}.get(block)
        wide = len(names) if element else f"bytes of {block}"
        outputs.append(helper.make_tensor_value_info(f"{block}_in", element or TensorProto.UINT8, ["rows", wide]))
    graph = helper.make_graph(nodes, "columns", inputs, outputs)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 4)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=network.ir_version)


def _lookup(column: str, output: str, categories: tuple[str, ...]) -> onnx.NodeProto:
    keys = numpy_helper.from_array(np.array(categories, dtype=object))
    values = numpy_helper.from_array(np.arange(1, len(categories) + 1, dtype=np.int64))
    default = numpy_helper.from_array(np.zeros(1, dtype=np.int64))
    return helper.make_node(
        "LabelEncoder",
        [column],
        [output],
        domain="ai.onnx.ml",
        keys_tensor=keys,
        values_tensor=values,
        default_tensor=default,
    )


def verify_export(graph: bytes, predictor: Predictor, raw: Raw, schema: ModelSchema) -> float:
    """Return the largest difference between the graph and PyTorch on real rows, some of them with gaps put in.

    Probabilities differ by so much, values relative to the target's standard deviation plus their own size.
    Raises BadInput above TOLERANCE.
    """
    rows = {name: values[:2000] for name, values in raw.items()}
    holed = {name: values.copy() for name, values in rows.items()}
    for i, column in enumerate(schema.columns):
        unknown: object = {"category": "never seen before", "time": MISSING_TIME, "text": 0}.get(column.type, np.nan)
        holed[column.name][i :: len(schema.columns)] = unknown
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    worst = 0.0
    for given in (rows, holed):
        encoded = encode(given, schema)
        with torch.no_grad():
            wanted = predictor(*(torch.from_numpy(array) for array in encoded.blocks)).numpy()
        found = session.run(None, given)[0]
        size = float(predictor.target_scale) + np.abs(wanted) if schema.task == "regression" else 1.0
        worst = float(np.maximum(worst, np.max(np.abs(found - wanted) / size)))  # unlike max, keeps NaN
    if not worst <= TOLERANCE:
        bound = f"differs from PyTorch by {worst:.2g}, more than {TOLERANCE:g}"
        raise BadInput("export", None, bound, "nothing was registered; use operations that ONNX reproduces")
    return worst

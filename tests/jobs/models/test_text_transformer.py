"""The text model learns words wherever they stand, and its graph reads texts of any length."""

import numpy as np
import onnxruntime
import pytest

from cluster.columns import ColumnSchema, ModelSchema, raw_from_rows
from cluster.packing import reference
from conf.errors import BadInput
from conf.schema import TrainConfig, Training
from jobs.data.encode import encode
from jobs.models.export import export_onnx, verify_export
from jobs.training.context import LocalContext
from jobs.training.examples import Examples, TrainingData
from jobs.training.loop import fit
from jobs.training.publish import Trained, restore

SCHEMA = ModelSchema(
    "y",
    "binary",
    ("no", "yes"),
    (ColumnSchema("age", "number"), ColumnSchema("said", "text", length=64), ColumnSchema("kind", "category", ("a",))),
)
MODEL = {
    "_target_": "jobs.models.text_transformer.TextTransformer",
    **{"width": 16, "depth": 1, "heads": 2, "length": 64, "patch": 4, "dropout": 0.1},
}
WORDS = ("rain", "snow", "grün", "tea", "map")


def rows(count: int, seed: int) -> tuple[list[dict[str, object]], np.ndarray]:
    """Return rows of three words each, and whether one of them is rain."""
    rng = np.random.default_rng(seed)
    words = [rng.choice(WORDS, 3) for _ in range(count)]
    made = [{"age": float(i % 7), "said": " ".join(three), "kind": "a"} for i, three in enumerate(words)]
    return made, np.array([int("rain" in three) for three in words])


def config(**model: object) -> TrainConfig:
    return TrainConfig(
        model={**MODEL, **model},
        optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01},
        lr_schedule={"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0},
        training=Training(epochs=8, batch_size=64),
    )


@pytest.fixture(scope="module")
def data() -> TrainingData:
    train, validation = rows(600, 1), rows(200, 2)
    parts = (Examples(encode(raw_from_rows(made, SCHEMA), SCHEMA), target) for made, target in (train, validation))
    return TrainingData(SCHEMA, *parts)


def test_it_learns_a_word_and_its_graph_answers_as_it_does(data) -> None:
    cfg = config()
    outcome = fit(cfg, data, LocalContext())
    assert outcome.metrics["val_auc"] > 0.95
    predictor = restore(Trained(cfg, "m", None, data, outcome, {}))
    graph = export_onnx(predictor, SCHEMA)
    raw = raw_from_rows(rows(200, 2)[0], SCHEMA)
    assert verify_export(graph, predictor, raw, SCHEMA) <= 1e-5
    session = onnxruntime.InferenceSession(graph)
    for said in ("", None, "rain", "x" * 63, "ü" * 200):
        given = raw_from_rows([{"age": None, "said": said, "kind": "new"}], SCHEMA)
        (answer,) = session.run(None, given)
        assert answer.shape == (1, 2)
        assert np.isfinite(answer).all()
    alone = session.run(None, raw_from_rows([{"age": 1.0, "said": "rain", "kind": "a"}], SCHEMA))[0]
    beside = [{"age": 1.0, "said": "rain", "kind": "a"}, {"age": 1.0, "said": "y" * 64, "kind": "a"}]
    np.testing.assert_allclose(session.run(None, raw_from_rows(beside, SCHEMA))[0][:1], alone, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(data) -> None:
    plain, again = config(), config()
    again.training.gradient_checkpointing = True
    plain.training.epochs = again.training.epochs = 1
    assert fit(plain, data, LocalContext()).weights_sha256 == fit(again, data, LocalContext()).weights_sha256


def test_the_reference_of_a_text_is_its_lengths() -> None:
    raw = raw_from_rows([{"age": 1.0, "said": said, "kind": "a"} for said in ("", "four", "eighteen")], SCHEMA)
    said = reference(raw, np.zeros((3, 2)), SCHEMA)["columns"]["said"]
    assert (said["edges"][0], said["edges"][-1]) == (4.0, 8.0)
    assert said["missing"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "model,said",
    [
        ({"heads": 3}, "model.heads: 3 does not divide model.width=16"),
        ({"patch": 0}, "model.patch: 0 is out of range"),
        ({"dropout": 1.0}, "model.dropout: 1.0 is out of range"),
    ],
)
def test_what_cannot_be_built_is_said(data, model, said) -> None:
    with pytest.raises(BadInput) as raised:
        fit(config(**model), data, LocalContext())
    assert said in str(raised.value)


def test_a_model_that_reads_no_text_says_which_does(data) -> None:
    cfg = config()
    cfg.model = {"_target_": "jobs.models.linear.Linear"}
    with pytest.raises(BadInput, match=r"model: 'linear' reads no text.*say model=text_transformer, or exclude them"):
        fit(cfg, data, LocalContext())

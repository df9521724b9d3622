"""A batch's gradients are the same however it is cut; memory that runs out costs time, not the run."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from conf.errors import BadInput
from jobs.models.features import tensor
from jobs.models.mlp import Mlp
from jobs.training.context import LocalContext
from jobs.training.debug import debugged
from jobs.training.layers import layer, say_shapes
from jobs.training.loop import fit
from jobs.training.publish import Trained, restore
from jobs.training.update import OutOfMemory, blocks


class Hungry(Mlp):
    """Has memory for `most` rows while it trains."""

    def __init__(self, inputs, outputs, most, **said) -> None:
        super().__init__(inputs, outputs, **said)
        self.most = most

    def forward(self, features, codes):
        if self.training and len(features) > self.most:
            raise torch.OutOfMemoryError(f"{len(features)} rows")
        return super().forward(features, codes)


def curve(outcome, name="train_loss") -> list[float]:
    return [metrics[name] for metrics in outcome.history]


@pytest.fixture
def plain_config(small_config):
    def make(**training):
        cfg = small_config(**training)
        cfg.model["dropout"] = 0.0
        return cfg

    return make


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("micro_batch", [1, 7, 64, 1000])
def test_micro_batches_change_nothing(small_data, plain_config, task, micro_batch) -> None:
    data = small_data(task)
    whole = fit(plain_config(epochs=2), data, LocalContext())
    cut = fit(plain_config(epochs=2, micro_batch=micro_batch), data, LocalContext())
    np.testing.assert_allclose(curve(cut), curve(whole), rtol=1e-4)
    np.testing.assert_allclose(curve(cut, "gradient_norm"), curve(whole, "gradient_norm"), rtol=1e-3)


def test_gradient_checkpointing_changes_nothing_but_memory(small_data, small_config) -> None:
    one = fit(small_config(), small_data("binary"), LocalContext())
    other = fit(small_config(gradient_checkpointing=True), small_data("binary"), LocalContext())
    assert one.weights_sha256 == other.weights_sha256


def test_out_of_memory_halves_the_rows_at_once_and_keeps_the_batch(small_data, plain_config) -> None:
    data, cfg = small_data("binary"), plain_config()
    whole = fit(cfg, data, LocalContext())
    cfg.model.update({"_target_": f"{__name__}.Hungry", "most": 20})
    outcome = fit(cfg, data, LocalContext())
    assert outcome.micro_batch == 16
    assert outcome.tags()["micro_batch"] == 16
    np.testing.assert_allclose(curve(outcome), curve(whole), rtol=1e-4)


def test_memory_for_not_even_one_row_says_what_to_try(small_data, plain_config) -> None:
    cfg = plain_config()
    cfg.model.update({"_target_": f"{__name__}.Hungry", "most": 0})
    remedies = "gradient_checkpointing=true, else scaling=fsdp, else training.precision=bf16"
    with pytest.raises(OutOfMemory, match=re.escape(remedies)):
        fit(cfg, small_data("binary"), LocalContext())


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_lower_precision_learns_as_well(small_data, plain_config, precision) -> None:
    data = small_data("binary")
    full, low = (fit(plain_config(precision=said), data, LocalContext()) for said in ("fp32", precision))
    assert low.metrics["val_auc"] == pytest.approx(full.metrics["val_auc"], abs=0.01)
    torch.set_float32_matmul_precision("highest")


def test_a_compiled_network_learns_the_same(small_data, plain_config) -> None:
    data = small_data("binary")
    if " " in torch.__file__:
        with pytest.raises(BadInput, match=r"training\.compile: True cannot be done for a CPU where the path"):
            fit(plain_config(compile=True), data, LocalContext())
        return
    plain, compiled = (fit(plain_config(epochs=2, compile=said), data, LocalContext()) for said in (False, True))
    np.testing.assert_allclose(curve(compiled), curve(plain), rtol=1e-4)


def test_an_average_of_the_weights_is_what_is_validated_and_kept(small_data, plain_config) -> None:
    data = small_data("binary")
    plain, averaged = (fit(plain_config(epochs=3, average=said), data, LocalContext()) for said in (0.0, 0.5))
    assert curve(plain) == curve(averaged)
    assert curve(plain, "val_loss") != curve(averaged, "val_loss")
    assert plain.weights_sha256 != averaged.weights_sha256


def test_smoothed_labels_and_balanced_classes(small_data, plain_config) -> None:
    data = small_data("multiclass")
    rare = data.train.target == 2
    kept = ~rare | (np.arange(len(rare)) % 20 == 0)
    inputs = data.train.inputs
    part = type(inputs)(*(block[kept] for block in (inputs.numbers, inputs.codes, inputs.times)))
    few = type(data)(data.schema, type(data.train)(part, data.train.target[kept]), data.validation)

    def found(**said):
        cfg = plain_config(epochs=8, keep="last", **said)
        predictor = restore(Trained(cfg, "m", None, few, fit(cfg, few, LocalContext()), {}))
        answers = predictor(*(tensor(block) for block in (part.numbers, part.codes, part.times))).detach().numpy()
        return (answers.argmax(1) == 2).mean(), answers.max(1).mean()

    plain, weighted, drawn = found(), found(class_weights="balanced"), found(sampling="balanced")
    assert plain[0] < 0.6 * min(weighted[0], drawn[0])
    assert found(label_smoothing=0.3)[1] < plain[1]


def test_the_parts_of_a_network() -> None:
    network = nn.Module()
    network.embeddings = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(4, 2)])
    network.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    network.activation = nn.ReLU()
    assert blocks(network) == [*network.embeddings, network.body]
    network.blocks = nn.ModuleList([nn.Linear(2, 2)])
    assert blocks(network) == [*network.blocks]
    assert [layer(name) for name in ("body.0.0.weight", "head.bias", "scale")] == ["body.0", "head", "scale"]


def test_shapes_are_said_once() -> None:
    said: list[str] = []
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    say_shapes(network, said.append)
    network(torch.zeros(4, 3))
    network(torch.zeros(4, 3))
    assert said == ["  0 Linear: 4x3 -> 4x2, 8 weights", "  1 ReLU: 4x2 -> 4x2"]


def test_a_debugging_run_is_short_and_registers_nothing(small_config) -> None:
    cfg = debugged(small_config(epochs=50, compile=True))
    assert (cfg.training.epochs, cfg.training.steps_per_epoch, cfg.training.compile, cfg.register) == (
        2,
        5,
        False,
        False,
    )

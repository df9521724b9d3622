"""A run that was ended anywhere goes on as if it had not been."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from conf.errors import BadInput
from jobs.training.context import LocalContext
from jobs.training.folder import PREFIX, RunFolder
from jobs.training.loop import fit
from jobs.training.saver import Saver, Stopped

STEPS = 11  # of an epoch: 700 rows in batches of 64


class After:
    """Asks to stop at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def run(cfg, data, folder: RunFolder, asked: Callable[[], bool] = lambda: False):
    saver = Saver(folder, cfg.training, 0, asked)
    try:
        return fit(cfg, data, LocalContext(watchers=[saver]))
    except Stopped:
        return None
    finally:
        saver.end()


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS + 5])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_stopped_after_any_step_ends_bitwise_as_an_unbroken_one(
    small_data, small_config, tmp_path, steps, average
) -> None:
    cfg, data = small_config(average=average), small_data("binary")
    unbroken = fit(cfg, data, LocalContext())
    folder = RunFolder(tmp_path / "a run")
    folder.prepare()
    assert run(cfg, data, folder, After(steps)) is None
    assert folder.latest() is not None
    outcome = run(cfg, data, folder)
    assert outcome.weights_sha256 == unbroken.weights_sha256
    assert outcome.history == unbroken.history


@pytest.mark.parametrize(
    "said",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"micro_batch": 7},
        {"label_smoothing": 0.1, "class_weights": "balanced", "sampling": "balanced"},
        {"gradient_checkpointing": True},
    ],
)
def test_every_way_of_training_resumes_bitwise(small_data, small_config, tmp_path, said) -> None:
    cfg, data = small_config(**said), small_data("multiclass")
    cfg.optimizer = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
    folder = RunFolder(tmp_path)
    assert run(cfg, data, folder, After(17)) is None
    assert run(cfg, data, folder).weights_sha256 == fit(cfg, data, LocalContext()).weights_sha256


def test_a_schedule_by_steps_resumes_bitwise(small_data, small_config, tmp_path) -> None:
    cfg, data = small_config(), small_data("binary")
    cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.01, "epochs": cfg.training.epochs}
    cfg.lr_schedule = {**cycle, "interval": "step"}
    folder = RunFolder(tmp_path)
    assert run(cfg, data, folder, After(17)) is None
    resumed, unbroken = run(cfg, data, folder), fit(cfg, data, LocalContext())
    assert resumed.weights_sha256 == unbroken.weights_sha256
    assert resumed.history == unbroken.history


def test_a_half_written_checkpoint_is_never_picked_up(small_data, small_config, tmp_path) -> None:
    cfg, data = small_config(), small_data("binary")
    folder = RunFolder(tmp_path)
    run(cfg, data, folder, After(9))
    whole = folder.latest()
    (folder.checkpoints / f"{PREFIX}999999999.half").mkdir()
    assert folder.latest() == whole
    assert json.loads((whole / "plain.json").read_text())["position"] == 10


def test_a_checkpoint_of_another_model_names_the_tensors_that_differ(small_data, small_config, tmp_path) -> None:
    cfg, data = small_config(), small_data("binary")
    folder = RunFolder(tmp_path)
    run(cfg, data, folder, After(3))
    other = replace(cfg, model={**cfg.model, "width": 32})
    with pytest.raises(BadInput, match=r"another model .*body\.0\.0\.bias is 16 there and 32 here"):
        run(other, data, folder)

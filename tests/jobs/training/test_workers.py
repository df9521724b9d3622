"""The same curve for one process and for any workers of Ray Train, also when some are lost on the way."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from conf.errors import BadInput
from conf.schema import Scaling
from jobs.training.context import LocalContext
from jobs.training.folder import RunFolder
from jobs.training.loop import Diverged, fit
from jobs.training.saver import Stopped
from jobs.training.scaling import check_batch, check_resources, check_strategy
from jobs.training.workers import fit_on_workers

ROOT = Path(__file__).parents[3]
CURVES = ("train_loss", "val_loss", "val_auc", "gradient_norm")


@pytest.fixture
def two_workers(ray_session, small_config) -> Callable[..., object]:
    """Return a config of two workers of which each has some CPU, and that differs in nothing from one process."""

    def make(strategy: str, **training: object):
        cfg = small_config(**training)
        cfg.model["dropout"] = 0.0  # the only thing that differs between workers
        cfg.scaling = Scaling(strategy, num_workers=2, cpus_per_worker=0.5)
        return cfg

    return make


def assert_same_curve(one, other, names=CURVES) -> None:
    for name in names:
        curves = ([metrics[name] for metrics in outcome.history] for outcome in (one, other))
        np.testing.assert_allclose(*curves, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_give_the_curve_of_one_process(two_workers, small_data, tmp_path, strategy) -> None:
    # 700 rows: the last batch is whole; 301 validation rows: uneven shares; micro-batches of 7 leave a rest
    cfg = two_workers(strategy, batch_size=50, micro_batch=7, average=0.9, epochs=4)
    data = small_data("binary")
    alone, together = fit(cfg, data, LocalContext()), fit_on_workers(cfg, ray.put(data), tmp_path / "with space")
    assert together.kept_epoch == alone.kept_epoch
    assert_same_curve(alone, together)
    torch.testing.assert_close(together.state, alone.state, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_uneven_last_batch_counts_each_row_once(two_workers, small_data, tmp_path, strategy) -> None:
    cfg = two_workers(strategy, batch_size=233, epochs=2)  # 700 = 3 * 233 + 1: one worker has no row in the last batch
    data = small_data("regression")
    alone, together = fit(cfg, data, LocalContext()), fit_on_workers(cfg, ray.put(data), tmp_path)
    assert_same_curve(alone, together, ("train_loss", "val_rmse"))


def starts(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if "started" in line]


def once_begun(folder: Path, act: Callable[[], None]) -> threading.Thread:
    """Act when the run in a folder has a checkpoint and an epoch behind it."""

    def wait() -> None:
        while RunFolder(folder).latest() is None or "metrics" not in (folder / "records.jsonl").read_text():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_stopped_workers_resume_bitwise_and_on_another_number(two_workers, small_data, tmp_path, strategy) -> None:
    cfg, data = two_workers(strategy, batch_size=4, epochs=3, checkpoint_every_s=0.05), small_data("binary")
    lying = ray.put(data)
    unbroken = fit_on_workers(cfg, lying, tmp_path / "unbroken")
    once_begun(tmp_path / "broken", RunFolder(tmp_path / "broken").stop.touch)
    with pytest.raises(Stopped):
        fit_on_workers(cfg, lying, tmp_path / "broken")
    alone = replace(cfg, scaling=replace(cfg.scaling, strategy="ddp", num_workers=1))
    shutil.copytree(tmp_path / "broken", tmp_path / "other")
    again, on_one = fit_on_workers(cfg, lying, tmp_path / "broken"), fit_on_workers(alone, lying, tmp_path / "other")
    assert again.weights_sha256 == unbroken.weights_sha256
    assert again.history == unbroken.history
    assert_same_curve(on_one, unbroken)
    assert [start["workers"] for start in starts(tmp_path / "other")] == [2, 1]


def test_a_worker_starts_without_what_it_does_not_need() -> None:
    call = [sys.executable, "-c", "import sys, jobs.training.workers; print(*sys.modules)"]
    loaded = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"mlflow", "sklearn", "matplotlib", "torch.distributed.tensor"} & set(loaded), "each delays every start"


def test_a_loss_that_is_not_finite_ends_all_workers_with_one_sentence(two_workers, small_data, tmp_path) -> None:
    cfg = two_workers("ddp", gradient_clip=0.0)
    cfg.optimizer = {"_target_": "torch.optim.SGD", "lr": 1e30}
    with pytest.raises(Diverged, match=r"optimizer\.lr: 1e\+30 made the loss (nan|inf) in step \d+ of epoch 1"):
        fit_on_workers(cfg, ray.put(small_data("regression")), tmp_path)


@pytest.mark.parametrize(
    "scaling,said",
    [
        (Scaling("local", num_workers=2), "scaling.num_workers: 2 needs scaling.strategy=ddp or fsdp; say scaling=ddp"),
        (Scaling("fsdp"), "scaling.strategy: 'fsdp' has one process to shard over"),
        (Scaling("ddp", min_workers=2), "scaling.min_workers: 2 needs an upper end"),
        (Scaling("ddp", min_workers=3, max_workers=2), "scaling.min_workers: 3 is more than scaling.max_workers=2"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(scaling, said) -> None:
    with pytest.raises(BadInput) as raised:
        check_strategy(scaling)
    assert said in str(raised.value)


def test_more_workers_than_the_cluster_or_the_batch_can_hold_are_refused(small_config) -> None:
    with pytest.raises(BadInput, match=r"scaling.num_workers: 3 needs 3 CPU, the cluster has 2; ask for fewer"):
        check_resources(Scaling("ddp", num_workers=3), {"CPU": 2.0})
    with pytest.raises(BadInput, match="needs 1 GPU, the cluster has 0"):
        check_resources(Scaling("ddp", num_workers=1, gpus_per_worker=1), {"CPU": 2.0})
    with pytest.raises(BadInput, match=r"training.batch_size: 2 is smaller than the 3 workers"):
        check_batch(small_config(batch_size=2).training, Scaling("ddp", num_workers=3))

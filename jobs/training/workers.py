"""The loop on the workers of Ray Train: start them, hand them the data, fetch what the first one leaves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.train import Checkpoint, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file

from conf.schema import TrainConfig
from jobs.training.context import WorkerContext
from jobs.training.examples import TrainingData
from jobs.training.loop import Outcome, fit
from jobs.training.scaling import check_resources, per_worker

_WEIGHTS, _OUTCOME = "weights.safetensors", "outcome.json"


@dataclass(frozen=True)
class _Task:
    """What each worker is given; the data lie in the object store."""

    cfg: TrainConfig
    data: ray.ObjectRef[TrainingData]


class _Trainer(TorchTrainer):
    """Leaves SIGINT to the command: Ray's own handler outlives the run, and ends the process with exit code 1."""

    def _register_sigint_handler(self, controller: object) -> None:
        """Take nothing."""


def fit_on_workers(
    cfg: TrainConfig, data: ray.ObjectRef[TrainingData], storage: Path, callbacks: Sequence[UserCallback] = ()
) -> Outcome:
    """Run `fit` on scaling.num_workers processes of the connected Ray cluster and return the first one's outcome.

    Raises BadInput when the cluster can never hold the workers, and what a worker raised otherwise.
    """
    check_resources(cfg.scaling, ray.cluster_resources())
    trainer = _Trainer(
        _worker,
        train_loop_config={"task": _Task(cfg, data)},
        scaling_config=ScalingConfig(
            num_workers=cfg.scaling.num_workers,
            use_gpu=cfg.scaling.gpus_per_worker > 0,
            resources_per_worker=per_worker(cfg.scaling),
        ),
        run_config=RunConfig(storage_path=str(storage / "train"), callbacks=[*callbacks]),  # type: ignore[list-item]  # Ray annotates with the callbacks of Tune
    )
    checkpoint = trainer.fit().checkpoint
    if checkpoint is None:
        raise RuntimeError("Ray Train ended without the first worker's outcome")
    with checkpoint.as_directory() as folder:
        kept = json.loads((Path(folder) / _OUTCOME).read_text())
        state = load_file(Path(folder) / _WEIGHTS)
    return Outcome(state, kept["metrics"], kept["kept_epoch"], tuple(kept["history"]))


def _worker(loop_config: dict[str, _Task]) -> None:
    task = loop_config["task"]
    context = WorkerContext()
    outcome = fit(task.cfg, ray.get(task.data), context)
    with tempfile.TemporaryDirectory() as folder:
        if context.rank == 0:
            save_file(outcome.state, Path(folder) / _WEIGHTS)
            kept = {"metrics": outcome.metrics, "kept_epoch": outcome.kept_epoch, "history": outcome.history}
            (Path(folder) / _OUTCOME).write_text(json.dumps(kept))
        report = context.latest.report() if context.latest else outcome.metrics
        ray.train.report(report, checkpoint=Checkpoint(folder) if context.rank == 0 else None)

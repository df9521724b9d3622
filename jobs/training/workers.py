"""The loop on the workers of Ray Train: start them, hand them the data, take what the first one leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.context import get_train_context as get_internal_train_context
from torch import distributed

from cluster.shared import check_shared
from conf.errors import BadInput
from conf.schema import Scaling, TrainConfig
from jobs.training.backend import OwnInterface
from jobs.training.examples import TrainingData
from jobs.training.folder import RunFolder
from jobs.training.loop import Diverged, fit
from jobs.training.outcome import Outcome
from jobs.training.profile import Profiler
from jobs.training.saver import Saver, Stopped
from jobs.training.scaling import check_resources, per_worker
from jobs.training.update import OutOfMemory
from jobs.training.worker import WorkerContext


@dataclass(frozen=True)
class _Task:
    """What each worker is given; the data lie in the object store."""

    cfg: TrainConfig
    data: ray.ObjectRef[TrainingData]
    folder: RunFolder


class _Trainer(TorchTrainer):
    """Ray's trainer, less what a run here has no use for (both are private names of Ray's)."""

    def _register_sigint_handler(self, controller: object) -> None:
        """Leave SIGINT to the command: Ray's handler outlives the run, and ends the process with exit code 1."""

    def _create_default_callbacks(self) -> list[object]:
        """Start no process for data sets of Ray Data: our data lie in the object store."""
        made = super()._create_default_callbacks()  # type: ignore[misc]  # of Train V2, which is what this class is
        return [callback for callback in made if not isinstance(callback, DatasetsCallback)]


def fit_on_workers(
    cfg: TrainConfig, data: ray.ObjectRef[TrainingData], path: Path, callbacks: Sequence[UserCallback] = ()
) -> Outcome:
    """Run the loop on scaling.num_workers processes of the connected Ray cluster and return the outcome.

    path: the run's folder, which all hosts see; a checkpoint there is gone on with. Raises BadInput when the cluster
    can never hold the workers, Stopped when the run was asked to end, and what a worker raised otherwise.
    """
    check_resources(cfg.scaling, ray.cluster_resources())
    folder = RunFolder(path)
    folder.prepare()
    check_shared(path)
    trainer = _Trainer(
        _worker,
        train_loop_config={"task": _Task(cfg, data, folder)},
        torch_config=OwnInterface(),
        scaling_config=ScalingConfig(
            num_workers=_workers(cfg.scaling),  # type: ignore[arg-type]  # an elastic pair is allowed, and not annotated
            use_gpu=cfg.scaling.gpus_per_worker > 0,
            resources_per_worker=per_worker(cfg.scaling),
        ),
        run_config=RunConfig(
            storage_path=str(path / "ray"),
            callbacks=[*callbacks],  # type: ignore[list-item]  # Ray annotates with the callbacks of Tune
            failure_config=FailureConfig(max_failures=cfg.scaling.max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, BadInput | OSError):
            raise cause from error
        raise
    failure = folder.failure((Diverged, OutOfMemory))
    if failure is not None:
        raise failure
    outcome = folder.outcome()
    if outcome is None:
        raise Stopped
    return outcome


def cause_of(error: BaseException) -> BaseException:
    """Return what a worker raised, from the errors that Ray Train wraps it in."""
    while True:
        failures = getattr(error, "worker_failures", None) or {}
        inner = (
            next(iter(failures.values()), None) or getattr(error, "_base_exc", None) or getattr(error, "cause", None)
        )
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _workers(scaling: Scaling) -> int | tuple[int, int]:
    if scaling.max_workers is None:
        return scaling.num_workers
    return scaling.min_workers or 1, scaling.max_workers


def _worker(loop_config: dict[str, _Task]) -> None:
    task = loop_config["task"]
    folder = task.folder
    if folder.failure(()) is not None or folder.outcome() is not None:
        return  # started anew after the end: there is nothing to do again
    try:
        _train(task)
    except BadInput as error:
        folder.write_failure(error)
        raise
    except Stopped:
        return


def _train(task: _Task) -> None:
    folder, cfg = task.folder, task.cfg
    fitted = folder.micro_batch()
    if fitted is not None:
        cfg = replace(cfg, training=replace(cfg.training, micro_batch=fitted))
    rank = ray.train.get_context().get_world_rank()
    saver = Saver(folder, cfg.training, rank, folder.stop.exists, _largest, _warned)
    profilers = [Profiler(folder)] if cfg.profiler and rank == 0 else []
    context = WorkerContext(cfg.scaling.strategy, [saver, *profilers], folder.write_micro_batch)
    outcome = fit(cfg, ray.get(task.data), context)
    saver.end()
    if rank == 0:
        folder.write_outcome(outcome)
    ray.train.report(context.latest.report() if context.latest else outcome.metrics)


def _warned() -> bool:
    """Return whether a host of the run is to be taken away soon (a spot instance, a drained node), as Ray was told.

    `ray.train.get_preemption_info` waits for all workers each time; what this one knows, its saver shares anyway.
    """
    return get_internal_train_context().preemption_context.preemption_info is not None


def _largest(numbers: list[float]) -> list[float]:
    """Return the largest of all workers' numbers, one by one."""
    told = torch.tensor(numbers, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    if distributed.get_world_size() > 1:
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return [float(number) for number in told]

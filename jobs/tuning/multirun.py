"""Plain multirun: every config its own training run, as tasks on the cluster."""

from __future__ import annotations

import ray
from hydra.utils import get_method

from cluster import session
from cluster.progress import step
from conf.compose import compose, from_yaml, to_yaml
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.data.load import load
from jobs.training.scaling import on_workers


@ray.remote(max_retries=0)
def _task(run: str, written: str) -> str:
    """Make one run in a worker of the cluster and return what it says of itself."""
    return str(get_method(run)(from_yaml(written, TrainConfig)))


def multirun(run: str, entrypoint: str, overrides: list[list[str]]) -> list[str]:
    """Make one run for each list of overrides, all at once where the cluster allows; return what each says.

    Each config is composed and its data are checked before Ray starts. A run that fails does not stop the others;
    the first error is raised when all have ended.
    """
    configs = [compose(entrypoint, list(of_run), TrainConfig) for of_run in overrides]
    for cfg in configs:
        load(cfg.dataset, cfg.split)
    with step(f"{len(configs)} runs") as shown, session.connect(configs[0].cluster):
        waiting = [_task.options(**_resources(cfg)).remote(run, to_yaml(cfg)) for cfg in configs]
        results: dict[ray.ObjectRef[str], str | Exception] = {}
        while len(results) < len(waiting):
            (done, *_), _ = ray.wait([task for task in waiting if task not in results], num_returns=1)
            try:
                results[done] = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                results[done] = error.cause if isinstance(error.cause, BadInput) else error
            shown.update(f"{len(results)} done")
        ordered = [results[task] for task in waiting]
        errors = [result for result in ordered if isinstance(result, Exception)]
        said = [result for result in ordered if isinstance(result, str)]
        shown.done(f"{len(said)} finished, {len(errors)} failed")
    if errors:
        raise errors[0]
    return said


def _resources(cfg: TrainConfig) -> dict[str, object]:
    """Return what a run holds itself: its CPU, or next to nothing where its workers hold theirs."""
    if on_workers(cfg.scaling):
        return {"num_cpus": 0, "memory": 1}  # a fraction of a CPU would keep the last worker from fitting
    return {"num_cpus": cfg.scaling.cpus_per_worker, "num_gpus": cfg.scaling.gpus_per_worker}

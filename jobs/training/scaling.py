"""What `scaling` may ask for."""

from __future__ import annotations

from conf.errors import BadInput
from conf.schema import Scaling, Training


def on_workers(scaling: Scaling) -> bool:
    """Tell whether Ray Train runs the loop."""
    return scaling.strategy != "local"


def check_strategy(scaling: Scaling) -> None:
    """Raise BadInput for workers that the strategy has no use for, or an elastic range that is none."""
    low, high = scaling.min_workers, scaling.max_workers
    if not on_workers(scaling) and (scaling.num_workers > 1 or high is not None):
        key, value = ("num_workers", scaling.num_workers) if high is None else ("max_workers", high)
        raise BadInput(f"scaling.{key}", value, "needs scaling.strategy=ddp or fsdp", "say scaling=ddp")
    if scaling.strategy == "fsdp" and (high or scaling.num_workers) == 1:
        bound = "has one process to shard over"
        raise BadInput("scaling.strategy", "fsdp", bound, "say scaling.num_workers=2 or more, or scaling=local")
    if low is not None and high is None:
        raise BadInput("scaling.min_workers", low, "needs an upper end", "say scaling.max_workers too")
    if low is not None and high is not None and low > high:
        raise BadInput("scaling.min_workers", low, f"is more than scaling.max_workers={high}", "turn them round")


def check_batch(training: Training, scaling: Scaling) -> None:
    """Raise BadInput for a batch of which some worker would never have a row."""
    most = scaling.max_workers or scaling.num_workers
    if training.batch_size < most:
        bound = f"is smaller than the {most} workers"
        raise BadInput("training.batch_size", training.batch_size, bound, "give at least one row to each")


def check_resources(scaling: Scaling, available: dict[str, float]) -> None:
    """Raise BadInput when the cluster's total resources can never hold all workers (the fewest, of an elastic run)."""
    key, fewest = "num_workers", scaling.num_workers
    if scaling.max_workers is not None:
        key, fewest = "min_workers", scaling.min_workers or 1
    for resource, each in per_worker(scaling).items():
        wanted, total = each * fewest, available.get(resource, 0.0)
        if wanted > total:
            bound = f"needs {wanted:g} {resource}, the cluster has {total:g}"
            raise BadInput(f"scaling.{key}", fewest, bound, "ask for fewer workers or add nodes")


def per_worker(scaling: Scaling) -> dict[str, float]:
    """Return what one worker holds of the cluster."""
    wanted = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    return {resource: amount for resource, amount in wanted.items() if amount > 0}


def said(scaling: Scaling) -> str:
    """Return how many workers there are to be."""
    if scaling.max_workers is not None:
        return f"{scaling.min_workers or 1} to {scaling.max_workers} workers"
    return f"{scaling.num_workers} worker{'s' * (scaling.num_workers > 1)}"

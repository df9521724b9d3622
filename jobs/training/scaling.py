"""What `scaling` may ask for."""

from __future__ import annotations

from conf.errors import BadInput
from conf.schema import Scaling


def on_workers(scaling: Scaling) -> bool:
    """Tell whether Ray Train runs the loop."""
    return scaling.strategy != "local"


def check_strategy(scaling: Scaling) -> None:
    """Raise BadInput for several workers without Ray Train."""
    if not on_workers(scaling) and scaling.num_workers > 1:
        remedy = "say scaling=ddp"
        raise BadInput("scaling.num_workers", scaling.num_workers, "needs scaling.strategy=ddp", remedy)


def check_resources(scaling: Scaling, available: dict[str, float]) -> None:
    """Raise BadInput when the cluster's total resources can never hold all workers."""
    for resource, each in per_worker(scaling).items():
        wanted, total = each * scaling.num_workers, available.get(resource, 0.0)
        if wanted > total:
            bound = f"needs {wanted:g} {resource}, the cluster has {total:g}"
            raise BadInput("scaling.num_workers", scaling.num_workers, bound, "ask for fewer workers or add nodes")


def per_worker(scaling: Scaling) -> dict[str, float]:
    """Return what one worker holds of the cluster."""
    wanted = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    return {resource: amount for resource, amount in wanted.items() if amount > 0}

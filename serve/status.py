"""Show what is served: variants, weights, requests, errors, latency, and each replica's versions.

python -m serve.status
python -m serve.status name=flights
python -m serve.status format=json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import StatusConfig

if TYPE_CHECKING:
    from serve.overview import Overview


def status(cfg: StatusConfig) -> dict[str, Overview]:
    """Return an overview of each served model, from what its replicas left under the storage path.

    Raises BadInput for a name that is not served.
    """
    import time

    from cluster.storage import storage_path
    from conf.errors import BadInput, nearest
    from serve.overview import overview
    from serve.snapshots import folder, models, read

    storage, now = storage_path(cfg.cluster), time.time()
    found = {model: overview(read(folder(storage, model), now), now) for model in models(storage)}
    served = {model: one for model, one in found.items() if one is not None}
    if cfg.name is None:
        return served
    if cfg.name not in served:
        raise BadInput("name", cfg.name, "is not served", nearest(cfg.name, served))
    return {cfg.name: served[cfg.name]}


@entrypoint("status", StatusConfig)
def main(cfg: StatusConfig) -> None:
    """Print it as tables, or as one JSON object."""
    import json
    from dataclasses import asdict

    served = status(cfg)
    if cfg.format == "json":
        print(json.dumps({model: asdict(one) for model, one in served.items()}))
    elif not served:
        print("nothing is served")
    else:
        print("\n\n".join("\n".join(one.lines(model)) for model, one in served.items()))


if __name__ == "__main__":
    main()

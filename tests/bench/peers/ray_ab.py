"""The A/B of Ray Serve's documentation: python -m tests.bench.peers.ray_ab {default|LIMIT} PORT.

An ingress deployment that assigns, and calls one of two model deployments by its handle. LIMIT: max_ongoing_requests of
all three. Ray's flags are what the environment says. Its logical CPUs are more than the machine's cores, so that three
replicas have room; the cores are those of every row.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from tests.bench.peers.ab import WEIGHTS, Log, Model, assigned

LOGICAL_CPUS = 4


class OneModel:
    """A model deployment, which keeps the log of its variant."""

    def __init__(self, alias: str) -> None:
        self._alias, self._model = alias, Model(alias)
        self._log = Log(self._model.schema)

    async def predict(self, rows: list[dict[str, float]], unit: str) -> dict[str, object]:
        """Predict and record."""
        return self._log.append(self._alias, unit, self._model.predict(rows))


class Router:
    """The ingress deployment."""

    def __init__(self, *handles: DeploymentHandle) -> None:
        self._handles = dict(zip(WEIGHTS, handles, strict=True))

    async def __call__(self, request: Request) -> Any:
        """Assign the unit, and answer what its variant says."""
        said, unit = await request.json(), request.headers["x-unit-id"]
        return await self._handles[assigned(unit)].predict.remote(said["rows"], unit)


def main(limit: str, port: int) -> None:
    """Serve until told to end."""
    options: dict[str, Any] = {} if limit == "default" else {"max_ongoing_requests": int(limit)}
    ray.init(address="local", num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    models = [serve.deployment(name=alias, **options)(OneModel).bind(alias) for alias in WEIGHTS]
    serve.run(serve.deployment(name="router", **options)(Router).bind(*models), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(sys.argv[1], int(sys.argv[2]))

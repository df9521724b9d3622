"""Variants too big to share a replica: each in a deployment of its own, which the application's replicas ask."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from cluster.bundle import Bundle, read_schema
from cluster.columns import Array, Raw
from cluster.registry import Registry, Version
from cluster.tracking import connect
from conf.errors import BadInput
from conf.schema import DeployConfig

KEPT = 2  # versions: what answers, and what answered before or will next
LOAD_S, ANSWER_S = 600.0, 60.0


def hosted(cfg: DeployConfig) -> list[str]:
    """Return the aliases that have a deployment of their own."""
    if cfg.serving.isolation == "replica":
        return []
    traffic = cfg.traffic
    weighted = [alias for alias, weight in traffic.weights.items() if weight]
    return sorted({"champion", *weighted, *traffic.shadow, traffic.ramp.alias} - {""})


class Host:
    """A replica of one variant's deployment: holds the versions that it was asked for last."""

    def __init__(self, cfg: DeployConfig) -> None:
        self._cfg = cfg
        self._registry = Registry(connect(cfg.tracking, cfg.cluster))
        self._bundles: dict[int, Bundle] = {}
        self._loading = threading.Lock()

    async def load(self, number: int) -> None:
        """Load a version beside what is there; raises BadInput where its bundle cannot be trusted."""
        await asyncio.to_thread(self._bundle, number)

    async def predict(self, number: int, raw: Raw) -> Array:
        """Return [N, K] of a version, loaded first where this replica has not heard of it."""
        return await asyncio.to_thread(lambda: self._bundle(number).predict(raw))

    def _bundle(self, number: int) -> Bundle:
        if (bundle := self._bundles.get(number)) is not None:  # without the lock: what answers waits for no load
            return bundle
        with self._loading:
            if number not in self._bundles:
                isolated = self._cfg.serving.isolated
                version = self._registry.resolve(self._cfg.name, str(number))
                bundle = Bundle.load(version.folder, max(1, int(isolated.cpus)), gpu=isolated.gpus > 0)
                kept = list(self._bundles.items())[1 - KEPT :]
                self._bundles = dict([*kept, (number, bundle)])
            return self._bundles[number]


class IsolatedBundle:
    """A bundle that another deployment holds, with the face of one held here; never asked in the event loop."""

    def __init__(self, version: Version, host: DeploymentHandle[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Have it loaded; raises BadInput where it cannot be trusted."""
        self.schema = read_schema(version.folder)
        self._version, self._host, self._loop = version, host, loop
        self._wait(self._call("load", version.number), LOAD_S)

    def predict(self, raw: Raw) -> Array:
        """Return [N, K] float32 probabilities, or [N, 1] float32 values."""
        outputs: Array = self._wait(self._call("predict", self._version.number, raw), ANSWER_S)
        return outputs

    def example(self) -> list[dict[str, object]]:
        """Return a few real rows as JSON objects."""
        rows: list[dict[str, object]] = json.loads((self._version.folder / "example.json").read_text())
        return rows

    async def _call(self, method: str, *said: object) -> Any:
        return await getattr(self._host, method).remote(*said)

    def _wait(self, call: Coroutine[Any, Any, Any], seconds: float) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(seconds)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, BadInput) else error) from None


class Hosts:
    """The deployments of an application's variants, by alias."""

    def __init__(self, handles: dict[str, DeploymentHandle[Any]], loop: asyncio.AbstractEventLoop) -> None:
        self._handles, self._loop = handles, loop

    def load(self, alias: str, version: Version) -> IsolatedBundle:
        """Load a version where its alias lives; raises BadInput where there is no such place, or it is spoilt."""
        if alias not in self._handles:
            bound = "has no deployment of its own yet"
            raise BadInput("traffic", alias, bound, "deploy again with it: serving.isolation=deployment")
        return IsolatedBundle(version, self._handles[alias], self._loop)

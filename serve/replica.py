"""The deployments of a registered model: one, or under isolation one for each variant besides."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from conf.schema import DeployConfig
from serve.app import Application
from serve.isolated import Host, Hosts, hosted
from serve.scaling import Latency, replicas
from serve.wire import write_answers_at_once


class Model:
    """A replica: all live variants of one registered model behind one ASGI application."""

    def __init__(self, cfg: DeployConfig, handles: dict[str, DeploymentHandle[Any]]) -> None:
        write_answers_at_once()  # Serve starts the replica's server after this
        self._cfg, self._handles = cfg, handles

    async def __serve_build_asgi_app__(self) -> Application:
        """Make the application and give it to Serve (called once, after the constructor)."""
        hosts = Hosts(self._handles, asyncio.get_running_loop()) if self._handles else None
        self._application = await asyncio.to_thread(Application, self._cfg, hosts)
        self._latency = Latency(self._application.counts)
        return self._application

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve what it scales by, besides the requests in hand."""
        return self._latency()

    async def __del__(self) -> None:
        """Write what is left of the records when Serve ends the replica (it awaits this)."""
        if hasattr(self, "_application"):
            await asyncio.to_thread(self._application.close)  # whose threads may wait for the event loop


def model_application(cfg: DeployConfig) -> serve.Application:
    """Return the Serve application of one registered model."""
    serving, hosts = cfg.serving, {alias: _host(cfg, alias) for alias in hosted(cfg)}
    make = serve.deployment(
        name=cfg.name,
        **replicas(serving),
        max_ongoing_requests=2 * serving.max_ongoing,  # ours refuses before Serve's queues
        graceful_shutdown_wait_loop_s=0.1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},  # a tenth of a request's time
        ray_actor_options={"num_cpus": serving.cpus_per_replica, "num_gpus": serving.gpus_per_replica},
    )
    return make(serve.ingress()(Model)).bind(cfg, hosts)


def _host(cfg: DeployConfig, alias: str) -> serve.Application:
    """Return the deployment of one variant."""
    isolated = cfg.serving.isolated
    make = serve.deployment(
        name=f"{cfg.name}-{alias}",
        num_replicas=isolated.num_replicas,
        max_ongoing_requests=2 * cfg.serving.max_ongoing,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        ray_actor_options={"num_cpus": isolated.cpus, "num_gpus": isolated.gpus},
    )
    return make(Host).bind(cfg)

"""The deployments: one per registered model, and a fallback that answers for names that are not served."""

from __future__ import annotations

import asyncio

from ray import serve

from conf.errors import BadInput, nearest
from conf.schema import DeployConfig
from serve.answers import Receive, Refused, Scope, Send, refusal, send
from serve.app import Application
from serve.wire import write_answers_at_once

FALLBACK = "rungway"


class Model:
    """A replica: all live variants of one registered model behind one ASGI application."""

    def __init__(self, cfg: DeployConfig) -> None:
        write_answers_at_once()  # Serve starts the replica's server after this
        self._application = Application(cfg)

    def __serve_build_asgi_app__(self) -> Application:
        """Give Serve the application (called once, after the constructor)."""
        return self._application

    def __del__(self) -> None:
        """Write what is left of the records when Serve ends the replica."""
        if hasattr(self, "_application"):
            self._application.close()


async def unknown(scope: Scope, _receive: Receive, respond: Send) -> None:
    """Answer 404 for whatever no served model has (ASGI)."""
    if scope["type"] != "http":
        return
    status = await asyncio.to_thread(serve.status)
    names = [name for name in status.applications if name != FALLBACK]
    said = str(scope["path"]).strip("/").split("/")[0]
    why = BadInput("model", said, "is not served", nearest(said, names))
    await send(refusal(Refused(404, why)), respond)


def model_application(cfg: DeployConfig) -> serve.Application:
    """Return the Serve application of one registered model."""
    make = serve.deployment(
        name=cfg.name,
        num_replicas=cfg.serving.num_replicas,
        max_ongoing_requests=2 * cfg.serving.max_ongoing,  # ours refuses before Serve's queues
        graceful_shutdown_wait_loop_s=0.1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},  # a tenth of a request's time
        ray_actor_options={"num_cpus": cfg.serving.cpus_per_replica},
    )
    return make(serve.ingress()(Model)).bind(cfg)


def fallback_application() -> serve.Application:
    """Return the application at the root."""

    class Unknown:
        def __serve_build_asgi_app__(self) -> object:
            return unknown

    return serve.deployment(name="unknown", ray_actor_options={"num_cpus": 0})(serve.ingress()(Unknown)).bind()

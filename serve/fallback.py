"""What answers at the root, for names that are not served; it imports little, as it starts beside the first model."""

from __future__ import annotations

import asyncio

from ray import serve

from conf.errors import BadInput, nearest
from serve.answers import Receive, Refused, Scope, Send, refusal, send

FALLBACK = "rungway"


async def unknown(scope: Scope, _receive: Receive, respond: Send) -> None:
    """Answer 404 for whatever no served model has (ASGI)."""
    if scope["type"] != "http":
        return
    status = await asyncio.to_thread(serve.status)
    names = [name for name in status.applications if name != FALLBACK]
    said = str(scope["path"]).strip("/").split("/")[0]
    why = BadInput("model", said, "is not served", nearest(said, names))
    await send(refusal(Refused(404, why)), respond)


def fallback_application() -> serve.Application:
    """Return the application at the root."""

    class Unknown:
        def __serve_build_asgi_app__(self) -> object:
            return unknown

    return serve.deployment(name="unknown", ray_actor_options={"num_cpus": 0})(serve.ingress()(Unknown)).bind()

"""What answers at the root, for names that are not served; it imports little, as it starts beside the first model."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache

from ray import serve

from conf.errors import BadInput, nearest
from serve.answers import Receive, Refused, Scope, Send, refusal, send

FALLBACK = "rungway"
ASKED_S = 1.0


@lru_cache(1)
def _served(_moment: int) -> list[str]:
    """Return the names that are served; asked of Serve's controller once in a moment, however many ask here."""
    return [name for name in serve.status().applications if name != FALLBACK]


async def unknown(scope: Scope, _receive: Receive, respond: Send) -> None:
    """Answer 404 for whatever no served model has (ASGI)."""
    if scope["type"] != "http":
        return
    names = await asyncio.to_thread(_served, int(time.monotonic() / ASKED_S))
    said = str(scope["path"]).strip("/").split("/")[0]
    why = BadInput("model", said, "is not served", nearest(said, names))
    await send(refusal(Refused(404, why)), respond)


def fallback_application() -> serve.Application:
    """Return the application at the root."""

    class Unknown:
        def __serve_build_asgi_app__(self) -> object:
            return unknown

    return serve.deployment(name="unknown", ray_actor_options={"num_cpus": 0})(serve.ingress()(Unknown)).bind()

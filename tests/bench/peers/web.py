"""Bare web servers on uvicorn, one worker: python -m tests.bench.peers.web fastapi|asgi PORT.

fastapi: as its documentation writes one (a pydantic body, a header parameter); asgi: no framework at all, the floor.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import orjson
import uvicorn

from tests.bench.peers.ab import AB

Message = MutableMapping[str, Any]


def fastapi() -> Any:
    """Return the application that FastAPI's documentation would have."""
    from fastapi import FastAPI, Header
    from pydantic import create_model

    ab, application = AB(), FastAPI()
    row = create_model("Row", **{column.name: (float, ...) for column in ab.schema.columns})
    body_type = create_model("Body", rows=(list[row], ...))

    async def predict(body, x_unit_id):
        return ab.answer([row.model_dump() for row in body.rows], x_unit_id)

    predict.__annotations__ = {"body": body_type, "x_unit_id": Annotated[str, Header()]}
    application.post("/predict")(predict)
    return application


def asgi() -> Any:
    """Return an ASGI application that parses and answers, and checks nothing."""
    ab = AB()

    async def application(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        unit = dict(scope["headers"])[b"x-unit-id"].decode()
        said = orjson.dumps(ab.answer(orjson.loads(body)["rows"], unit))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    return application


if __name__ == "__main__":
    made = {"fastapi": fastapi, "asgi": asgi}[sys.argv[1]]()
    quiet: dict[str, Any] = {"access_log": False, "log_level": "warning", "lifespan": "off"}
    uvicorn.run(made, host="127.0.0.1", port=int(sys.argv[2]), loop="uvloop", http="httptools", **quiet)

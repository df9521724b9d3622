"""Serving without Ray, to see its parts, each one line of JSON or a server:

python -m tests.bench.peers.inside step FOLDER ROWS SECONDS      rows a second of the model step alone
python -m tests.bench.peers.inside profile FOLDER REQUESTS       the largest functions of a request
python -m tests.bench.peers.inside variants FOLDER COUNT PORT    the application with so many variants, on uvicorn
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
import time
from collections.abc import MutableMapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import uvicorn

from cluster.bundle import Bundle
from cluster.columns import raw_from_rows
from conf.compose import compose
from conf.schema import DeployConfig
from serve.app import Application
from tests.bench.peers.ground import AB, NAME, Ground
from tests.bench.peers.load import CONNECTIONS, body

LARGEST = 10


def application(ground: Ground, *said: str) -> Application:
    """Return the application of the two registered variants, which follows the registry no more."""
    given = [f"name={NAME}", AB, ground.storage, "serving.poll_s=100000", *said]
    cfg = compose("deploy", given, DeployConfig)
    ground.registry.write_policy(NAME, cfg.traffic)
    return Application(cfg)


def step(ground: Ground, rows: int, seconds: float) -> dict[str, object]:
    """Run the model on raw columns [rows, 1] in a loop."""
    bundle = Bundle.load(ground.registry.resolve(NAME, "champion").folder)
    raw = raw_from_rows(ground.rows[:rows], bundle.schema)
    for _ in range(100):
        bundle.predict(raw)
    runs, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        bundle.predict(raw)
        runs += 1
    return {"rate": runs * rows / took}


def variants(ground: Ground, count: int, port: int) -> None:
    """Serve so many variants, each with a session of its own (a registered model has fewer aliases than that)."""
    served = application(ground)
    live = served._variants.live
    first = live.variants["champion"]
    made = {
        f"v{i}": replace(
            first,
            alias=f"v{i}",
            version=replace(first.version, number=i + 1),
            bundle=Bundle.load(first.version.folder),
        )
        for i in range(count)
    }
    weights = dict.fromkeys(made, 1 / count)
    said: dict[str, Any] = {"policy": replace(live.policy, weights=weights), "variants": made}
    if "weights" in {item.name for item in fields(live)}:  # where a ramp moves them apart from the policy's
        said["weights"] = weights
    served._variants.live = replace(live, **said)
    quiet: dict[str, Any] = {"access_log": False, "log_level": "warning", "lifespan": "off"}
    uvicorn.run(served, host="127.0.0.1", port=port, loop="uvloop", http="httptools", **quiet)


async def ask(served: Application, sent: bytes, unit: bytes) -> int:
    """Ask for a prediction; return the status."""
    scope = {"type": "http", "method": "POST", "path": f"/{NAME}/predict", "scheme": "http"}
    scope |= {"headers": [(b"content-type", b"application/json"), (b"x-unit-id", unit)]}
    statuses, given = [], [{"type": "http.request", "body": sent, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return given.pop() if given else await asyncio.Future()  # the client stays

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    await served(scope, receive, send)
    return int(statuses[0])


def profile(ground: Ground, requests: int) -> dict[str, object]:
    """Answer requests, 32 at once, under cProfile; return the largest functions' shares, without their callees."""
    served, sent = application(ground), body("rows", ground.rows[:1])
    statuses = set[int]()

    async def some(first: int, count: int) -> None:
        for i in range(first, first + count):
            statuses.add(await ask(served, sent, b"u%d" % i))

    async def all_of_them(count: int) -> None:
        each = count // CONNECTIONS
        await asyncio.gather(*(some(i * each, each) for i in range(CONNECTIONS)))

    async def measured() -> float:
        await all_of_them(20 * CONNECTIONS)
        began = time.perf_counter()
        await all_of_them(requests)
        took = time.perf_counter() - began
        watch.enable()
        await all_of_them(requests)
        watch.disable()
        return 1e6 * took / requests

    watch = cProfile.Profile()
    plain_us = asyncio.run(measured())
    served.close()
    assert statuses == {200}, f"answered with {statuses}"
    return {"us": plain_us, "largest": largest(pstats.Stats(watch), requests)}


def largest(found: pstats.Stats, requests: int) -> list[dict[str, object]]:
    """Return the functions with the most time of their own."""
    rows = found.stats.items()  # type: ignore[attr-defined]
    total = sum(own for _, (_, _, own, _, _) in rows)
    by_time = sorted(rows, key=lambda item: -item[1][2])[:LARGEST]
    return [
        {
            "function": f"{'/'.join(Path(file).parts[-2:])}:{name}" if line else name,
            "share": own / total,
            "with_callees": within / total,
            "calls": calls / requests,
        }
        for (file, line, name), (_, calls, own, within, _) in by_time
    ]


if __name__ == "__main__":
    what, at, number = sys.argv[1], Ground(Path(sys.argv[2])), int(sys.argv[3])
    if what == "variants":
        variants(at, number, int(sys.argv[4]))
    else:
        print(json.dumps(step(at, number, float(sys.argv[4])) if what == "step" else profile(at, number)))

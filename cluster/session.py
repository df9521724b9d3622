"""The Ray that a command runs on: the job's cluster, our background head, or an embedded one."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from cluster.background import running_head
from cluster.ports import free_port
from cluster.python import python_path, spaceless_python
from cluster.storage import storage_path, submitted
from conf.errors import BadInput
from conf.schema import Cluster

ANSWER_S = 5.0

_aside = ThreadPoolExecutor(1, "ray")  # Ray starts and ends here while the command imports, or writes what came out
_begun: list[Future[None]] = []
_ending: list[Future[None]] = []


def begin(cluster: Cluster, *, state_api: bool = True) -> None:
    """Start what `connect` will join, without waiting for it."""
    import ray

    if not ray.is_initialized() and not _begun:
        _begun.append(_aside.submit(_start, cluster, state_api))


@contextmanager
def connect(cluster: Cluster, *, state_api: bool = True) -> Iterator[None]:
    """Run the block on Ray: joined if already connected, in a submitted job, with an address, or with our head up.

    Otherwise an embedded Ray is started and ended with the block; state_api: with the API that Ray Train and Ray Serve
    ask, the dashboard's (a second of its start).
    """
    import ray

    while _ending:
        _ending.pop().result()
    if not _begun and ray.is_initialized():
        yield
        return
    if _begun:
        _begun.pop().result()
    else:
        _start(cluster, state_api)
    try:
        yield
    finally:
        _leave()


def _leave() -> None:
    """Leave Ray, and end an embedded one's processes aside (a second).

    Until the driver has left, no reference to an object may be dropped: Ray would end this process.
    """
    import ray
    from ray._private.worker import global_worker

    _ending.append(_aside.submit(ray.shutdown))
    while hasattr(global_worker, "core_worker") and not _ending[-1].done():
        time.sleep(0.005)


def _start(cluster: Cluster, state_api: bool) -> None:
    import ray

    address = find_address(cluster)
    workers_speak = os.environ.get("RUNGWAY_DEBUG") == "1"
    start = partial(ray.init, logging_level=logging.ERROR, log_to_driver=workers_speak)
    if address is None:
        os.environ["PYTHONPATH"] = python_path()
        with _said_to_workers():
            own = _own_python()
            start(address="local", num_cpus=cluster.num_cpus, include_dashboard=state_api, runtime_env=own)
    else:
        _check_answers(address)
        # Ray tells workers this folder itself; a user's own folders must be said.
        folders = {"env_vars": {"PYTHONPATH": python_path()}} if os.environ.get("PYTHONPATH") else {}
        start(address=address, runtime_env={**({} if submitted() else folders), **_own_python()})


def _check_answers(address: str) -> None:
    """Raise BadInput at once where nothing listens (Ray itself would try for many minutes)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto": Ray looks for it
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        remedy = "start it, or leave cluster.address and RAY_ADDRESS out"
        raise BadInput("cluster.address", address, "does not answer", remedy) from error


@contextmanager
def _said_to_workers() -> Iterator[None]:
    """Let the Ray that starts inside have its own address in its environment.

    Ray Train asks Ray's state API whether its controller lives, and that takes any Ray it finds on the machine:
    without this, a stale or foreign one delays every fit() by 12 s.
    """
    port = str(free_port())
    before = {key: os.environ.get(key) for key in ("RAY_GCS_SERVER_PORT", "RAY_ADDRESS")}
    os.environ.update({"RAY_GCS_SERVER_PORT": port, "RAY_ADDRESS": f"127.0.0.1:{port}"})
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def find_address(cluster: Cluster) -> str | None:
    """Return the address to join, or None where an embedded Ray is to be started."""
    if submitted() or os.environ.get("RAY_ADDRESS"):
        return os.environ.get("RAY_ADDRESS", "auto")
    if cluster.address is not None:
        return cluster.address
    head = running_head(storage_path(cluster))
    return head.address if head else None


def _own_python() -> dict[str, str]:
    """Return the runtime_env that lets workers start where the path of Python has a space."""
    python = spaceless_python()
    return {} if python == sys.executable else {"py_executable": python}

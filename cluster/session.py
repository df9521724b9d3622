"""The Ray that a command runs on: the job's cluster, our background head, or an embedded one."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.storage import VARIABLE, storage_path, submitted
from conf.errors import BadInput
from conf.schema import Cluster

ROOT = Path(__file__).parents[1]
RECORD, LOG = "head.json", "head.log"
START_S, STOP_S = 120.0, 20.0
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.05",  # default 2 s: adds up to 5 s after each fit()
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files that nobody reads
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Head:
    """A Ray head that we started in the background. started: clock ticks, to tell a reused pid."""

    address: str
    pid: int
    started: int
    dashboard_url: str

    def lives(self) -> bool:
        """Tell whether the process is still the one that we started."""
        return _started(self.pid) == self.started


def _started(pid: int) -> int | None:
    """Return a process's start time in clock ticks after boot, None if it is gone (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def running_head(storage: Path) -> Head | None:
    """Return the background head of this storage path, if it lives."""
    record = storage / RECORD
    if not record.exists():
        return None
    head = Head(**json.loads(record.read_text()))
    if head.lives():
        return head
    record.unlink(missing_ok=True)
    return None


@contextmanager
def connect(cluster: Cluster) -> Iterator[None]:
    """Run the block on Ray: joined if already connected, in a submitted job, with an address, or with our head up.

    Otherwise an embedded Ray is started and ended with the block.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    address = find_address(cluster)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": os.environ.get("RUNGWAY_DEBUG") == "1"}
    if address is None:
        os.environ["PYTHONPATH"] = _python_path()
        ray.init(address="local", num_cpus=cluster.num_cpus, include_dashboard=False, **quiet)
    else:
        # Ray tells workers this folder itself; a user's own folders must be said.
        own = {"env_vars": {"PYTHONPATH": _python_path()}} if os.environ.get("PYTHONPATH") and not submitted() else None
        try:
            ray.init(address=address, runtime_env=own, **quiet)
        except (ConnectionError, ValueError) as error:
            remedy = "start it, or leave cluster.address and RAY_ADDRESS out"
            raise BadInput("cluster.address", address, "does not answer", remedy) from error
    try:
        yield
    finally:
        ray.shutdown()


def find_address(cluster: Cluster) -> str | None:
    """Return the address to join, or None where an embedded Ray is to be started."""
    if submitted() or os.environ.get("RAY_ADDRESS"):
        return os.environ.get("RAY_ADDRESS", "auto")
    if cluster.address is not None:
        return cluster.address
    head = running_head(storage_path(cluster))
    return head.address if head else None


def _python_path() -> str:
    """Return where workers find our code and the user's (--config-dir), wherever their Ray was started."""
    own = [str(ROOT), str(Path.cwd())]
    return os.pathsep.join(dict.fromkeys([*own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


def start_head(cluster: Cluster) -> Head:
    """Start a Ray head in the background, or return the one that runs; it outlives this command.

    Its address and pid stand in head.json under the storage path. Raises BadInput when it does not come up.
    """
    storage = storage_path(cluster)
    if (head := running_head(storage)) is not None:
        return head
    port, dashboard_port = _free_port(), _free_port(cluster.dashboard_port)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", f"--include-dashboard={cluster.dashboard}"]
    command += [f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1"]
    command += [f"--num-cpus={cluster.num_cpus}"] if cluster.num_cpus else []
    environment = {**ENVIRONMENT, **os.environ, VARIABLE: str(storage), "PYTHONPATH": _python_path()}
    environment.pop("RAY_ADDRESS", None)
    log = storage / LOG
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    started = _started(process.pid)
    url = f"http://127.0.0.1:{dashboard_port}"
    head = Head(f"127.0.0.1:{port}", process.pid, started or 0, url)
    (storage / RECORD).write_text(json.dumps(asdict(head)))
    deadline = time.monotonic() + START_S
    while "--block" not in log.read_text() and "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            stop_head(cluster)
            raise BadInput("cluster", str(storage), "Ray did not start", f"see {log}")
        time.sleep(0.1)
    return head


def stop_head(cluster: Cluster) -> bool:
    """End the background head with all its processes, by pid; return whether one was running."""
    storage = storage_path(cluster)
    head = running_head(storage)
    if head is None:
        return False
    members = _group(head.pid)
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for pid in members:
            _signal(pid, wanted)
        deadline = time.monotonic() + STOP_S
        while any(_started(pid) is not None for pid in members) and time.monotonic() < deadline:
            time.sleep(0.1)
    (storage / RECORD).unlink(missing_ok=True)
    return True


def _group(leader: int) -> list[int]:
    """Return the pids of a process group's session: the head, and all that it started."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:  # session id: ray's children keep it
                pids.append(int(entry.name))
    return pids


def _signal(pid: int, wanted: signal.Signals) -> None:
    try:
        os.kill(pid, wanted)
    except ProcessLookupError:
        return  # it ended by itself


def _free_port(wanted: int = 0) -> int:
    """Return the wanted port if it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")


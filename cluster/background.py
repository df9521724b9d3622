"""A Ray head in the background of this machine: one for each storage path, ended by pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.ingress import ingress
from cluster.ports import free_port
from cluster.python import python_path, spaceless_python
from cluster.storage import VARIABLE, storage_path
from cluster.tokens import VARIABLE as TOKENS
from cluster.tokens import forget
from conf.errors import BadInput
from conf.schema import Cluster

RECORD, LOG = "head.json", "head.log"
START_S, STOP_S = 120.0, 3.0


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


def start_head(cluster: Cluster) -> Head:
    """Start a Ray head in the background, or return the one that runs; it outlives this command.

    Its address and pid stand in head.json under the storage path. Raises BadInput when it does not come up.
    """
    storage = storage_path(cluster)
    if (head := running_head(storage)) is not None:
        return head
    _make_token()
    port, dashboard_port = free_port(), free_port(cluster.dashboard_port)
    command = [spaceless_python(), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [
        f"--port={port}",
        f"--ray-client-server-port={free_port()}",
        "--dashboard-agent-listen-port=0",  # any: the default is one port for all Rays of a machine
        f"--include-dashboard={cluster.dashboard}",
    ]
    command += [f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1"]
    command += [f"--num-cpus={cluster.num_cpus}"] if cluster.num_cpus else []
    own = {VARIABLE: str(storage), "PYTHONPATH": python_path(), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    inherited = {key: value for key, value in os.environ.items() if key != TOKENS}  # for no worker to see
    environment = {**inherited, **own, **ingress()}
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


def _make_token() -> None:
    """Make the token (~/.ray/auth_token) that drivers and `ray job submit` show the head, unless there is one."""
    said = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if os.environ["RAY_AUTH_MODE"] == "token" and not said and not (Path.home() / ".ray" / "auth_token").exists():
        command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def stop_head(cluster: Cluster) -> bool:
    """End the background head with all its processes, by pid; return whether one was running."""
    storage = storage_path(cluster)
    head = running_head(storage)
    if head is None:
        return False
    _signal(head.pid, signal.SIGTERM)  # it ends its own
    for wanted in (None, signal.SIGTERM, signal.SIGKILL):
        if wanted is not None:
            for pid in session_pids(head.pid):
                _signal(pid, wanted)
        deadline = time.monotonic() + STOP_S
        while session_pids(head.pid) and time.monotonic() < deadline:  # looked up anew: a head that starts still forks
            time.sleep(0.05)
    (storage / RECORD).unlink(missing_ok=True)
    forget(storage)
    return True


def session_pids(leader: int) -> list[int]:
    """Return the live processes of a process session: the head, and all that it started."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":  # fields[3]: the session id, which Ray's children keep
                pids.append(int(entry.name))
    return pids


def _signal(pid: int, wanted: signal.Signals) -> None:
    try:
        os.kill(pid, wanted)
    except ProcessLookupError:
        return  # it ended by itself

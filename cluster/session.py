"""The Ray that a command runs on: the job's cluster, our background head, or an embedded one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cluster.storage import VARIABLE, storage_path, submitted
from conf.errors import BadInput
from conf.schema import Cluster

ROOT = Path(__file__).parents[1]
RECORD, LOG = "head.json", "head.log"
START_S, STOP_S, ANSWER_S = 120.0, 3.0, 5.0


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


_aside = ThreadPoolExecutor(1, "ray")  # Ray starts and ends here while the command imports, or writes what came out
_begun: list[Future[None]] = []
_ending: list[Future[None]] = []


def begin(cluster: Cluster, state_api: bool = True) -> None:
    """Start what `connect` will join, without waiting for it."""
    import ray

    if not ray.is_initialized() and not _begun:
        _begun.append(_aside.submit(_start, cluster, state_api))


@contextmanager
def connect(cluster: Cluster, state_api: bool = True) -> Iterator[None]:
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
        os.environ["PYTHONPATH"] = _python_path()
        with _said_to_workers():
            start = partial(start, num_cpus=cluster.num_cpus, include_dashboard=state_api)
            start(address="local", runtime_env=_own_python())
    else:
        _check_answers(address)
        # Ray tells workers this folder itself; a user's own folders must be said.
        folders = {"env_vars": {"PYTHONPATH": _python_path()}} if os.environ.get("PYTHONPATH") else {}
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
    port = str(_free_port())
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


def spaceless_python() -> str:
    """Return this Python, through a link in a folder of this user's where its path has a space.

    Ray hands the path of Python, and of its own files, to a shell unquoted.
    """
    if " " not in sys.executable:
        return sys.executable
    links = Path(tempfile.gettempdir()) / f"rungway-{os.getuid()}"
    links.mkdir(mode=0o700, exist_ok=True)
    if links.stat().st_uid != os.getuid():
        raise BadInput(
            "TMPDIR", str(links.parent), f"holds a {links.name} of another user", "set it to a folder of yours"
        )
    link = links / hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    if not link.is_symlink():
        half = links / f"{link.name}-{os.getpid()}"
        half.symlink_to(sys.prefix)
        half.replace(link)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


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
    _make_token()
    port, dashboard_port = _free_port(), _free_port(cluster.dashboard_port)
    command = [spaceless_python(), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [
        f"--port={port}",
        f"--ray-client-server-port={_free_port()}",
        "--dashboard-agent-listen-port=0",  # any: the default is one port for all Rays of a machine
        f"--include-dashboard={cluster.dashboard}",
    ]
    command += [f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1"]
    command += [f"--num-cpus={cluster.num_cpus}"] if cluster.num_cpus else []
    own = {VARIABLE: str(storage), "PYTHONPATH": _python_path(), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    environment = {**os.environ, **own}
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
            for pid in _session(head.pid):
                _signal(pid, wanted)
        deadline = time.monotonic() + STOP_S
        while _session(head.pid) and time.monotonic() < deadline:  # looked up anew: a head that starts still forks
            time.sleep(0.05)
    (storage / RECORD).unlink(missing_ok=True)
    return True


def _session(leader: int) -> list[int]:
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

"""Several hosts on this machine: Linux network namespaces on a bridge of their own, each with a node of Ray.

What they say to each other stays on 10.99.x.0/24, which no other namespace reaches: the bridge is in one of its own
too. Each host names its interface differently, as real ones may.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.python import python_path, spaceless_python

PORT, START_S, END_S = 6379, 120.0, 5.0


def why_not() -> str | None:
    """Return why this machine cannot have such hosts, None where it can."""
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    name = f"probe-{os.getpid()}"
    for command in (
        ["netns", "add", name],
        ["netns", "exec", name, "true"],
        ["-n", name, "link", "add", "name", "br0", "type", "bridge"],
    ):
        tried = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            break
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


def _ip(*command: str) -> str:
    return subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Host:
    """A network namespace with one address, on the one interface that it has beside the loopback."""

    namespace: str
    interface: str
    ip: str

    def pids(self) -> list[int]:
        """Return the processes that are in it."""
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def signal(self, wanted: signal.Signals) -> None:
        """Send a signal to every process in it."""
        for pid in self.pids():
            try:
                os.kill(pid, wanted)
            except ProcessLookupError:
                continue  # it ended by itself


@dataclass
class Hosts:
    """Hosts that hear each other and nobody else; folder: of Ray's files and logs."""

    hosts: list[Host]
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of everything that runs on them: nothing names an interface."""
        hidden = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "RAY_AUTH_TOKEN_PATH", "RAY_GCS_SERVER_PORT")
        own = {
            "RAY_ADDRESS": f"{self.hosts[0].ip}:{PORT}",
            "RAY_AUTH_TOKEN": self.token,
            "PYTHONPATH": python_path(),
            "OMP_NUM_THREADS": "1",
        }
        return {**{key: value for key, value in os.environ.items() if key not in hidden}, **own}

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """Return a command as it runs on a host."""
        return ["ip", "netns", "exec", self.hosts[host].namespace, "nice", "-n", "10", *command]

    def start(self, host: int, *, cpus: int = 1) -> None:
        """Start Ray on a host and wait until it says that it is up: a head on the first, a node elsewhere."""
        ip, log = self.hosts[host].ip, self.folder / f"{host}.log"
        role = (
            ["--head", f"--port={PORT}", f"--dashboard-host={ip}"]
            if host == 0
            else [f"--address={self.hosts[0].ip}:{PORT}"]
        )
        own = [f"--node-ip-address={ip}", f"--temp-dir={self.folder / str(host)}", f"--num-cpus={cpus}"]
        size = ["--object-store-memory=200000000", "--disable-usage-stats", "--block"]
        call = [spaceless_python(), "-m", "ray.scripts.scripts", "start", *role, *own, *size]
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(host, call), stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self.environment
            )
        self.started.append(process)
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Ray did not start on {ip}: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def run(self, script: str, *said: str, timeout_s: float = 240.0) -> str:
        """Run a Python script with arguments on the first host, and return what it printed; raises where it fails."""
        call = [sys.executable, "-c", script, *said]
        ran = subprocess.run(
            self.command(0, call), capture_output=True, text=True, env=self.environment, timeout=timeout_s, check=False
        )
        if ran.returncode != 0:
            raise RuntimeError(f"the driver ended with {ran.returncode}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}")
        return ran.stdout

    def cut(self, host: int) -> None:
        """Take a host off the network: its processes live on and hear nobody."""
        _ip("-n", self.hosts[host].namespace, "link", "set", self.hosts[host].interface, "down")

    def mend(self, host: int) -> None:
        """Put it on the network again."""
        _ip("-n", self.hosts[host].namespace, "link", "set", self.hosts[host].interface, "up")

    def kill(self, host: int) -> None:
        """Kill every process on a host at once, as a loss of power does."""
        self.hosts[host].signal(signal.SIGKILL)

    def end(self) -> None:
        """End every process on the hosts, by pid, and wait until they are gone."""
        for wanted in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + END_S
            for host in self.hosts:
                host.signal(wanted)
            while any(host.pids() for host in self.hosts) and time.monotonic() < deadline:
                for process in self.started:
                    process.poll()  # else it stays, as a zombie
                time.sleep(0.05)
        for process in self.started:
            process.wait(timeout=END_S)


def _make(count: int, network: str) -> Iterator[Host]:
    """Make the namespace of the bridge, then each host with its cable to it."""
    _ip("netns", "add", network)
    _ip("-n", network, "link", "add", "name", "br0", "type", "bridge")
    _ip("-n", network, "link", "set", "br0", "up")
    subnet = f"10.99.{os.getpid() % 256}"
    for i in range(count):
        host = Host(f"{network}-{i}", f"lan{i}", f"{subnet}.{i + 1}")
        _ip("netns", "add", host.namespace)
        plug = f"port{i}"
        _ip(
            "-n",
            network,
            "link",
            "add",
            "name",
            plug,
            "type",
            "veth",
            "peer",
            "name",
            host.interface,
            "netns",
            host.namespace,
        )
        _ip("-n", network, "link", "set", plug, "master", "br0", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.ip}/24", "dev", host.interface)
        for link in ("lo", host.interface):
            _ip("-n", host.namespace, "link", "set", link, "up")
        yield host


@contextmanager
def network(count: int) -> Iterator[Hosts]:
    """Have that many hosts for the block; at its end nothing of them is left, whatever happened."""
    name = f"rungway-{os.getpid()}-{secrets.token_hex(2)}"
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))  # short: Ray's sockets lie under it
    made = Hosts([], folder)
    try:
        made.hosts.extend(_make(count, name))
        yield made
    finally:
        try:
            made.end()
        finally:
            for namespace in _ip("netns", "list").split():
                if namespace.startswith(name):
                    _ip("netns", "del", namespace)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster_of(count: int, *, cpus: int = 1) -> Iterator[Hosts]:
    """Have that many hosts with Ray for the block: its head on the first, one node on each other."""
    with network(count) as made:
        for host in range(count):
            made.start(host, cpus=cpus)
        yield made

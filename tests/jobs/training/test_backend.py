"""The interface of a host's own address is found and told to Gloo and NCCL; what a person has said stays."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jobs.training import backend
from jobs.training.backend import GLOO, NCCL, choose_interface
from tests.jobs.training.hosts import Hosts, network, why_not


@pytest.fixture
def namespaces() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


def hears(two: Hosts, port: int) -> bool:
    """Tell whether the first host can connect to the second."""
    ask = f"import socket; socket.create_connection(('{two.hosts[1].ip}', {port}), 1)"
    return subprocess.run(two.command(0, [sys.executable, "-c", ask]), capture_output=True, check=False).returncode == 0


def test_a_host_can_be_cut_mended_and_killed_and_nothing_is_left(namespaces) -> None:
    with network(2) as two:
        assert [interface_seen(two, host) for host in (0, 1)] == ["lan0", "lan1"]
        listen = f"import socket, time; s = socket.create_server(('{two.hosts[1].ip}', 7000)); time.sleep(60)"
        server = subprocess.Popen(two.command(1, [sys.executable, "-c", listen]))
        two.started.append(server)
        deadline = time.monotonic() + 20
        while not hears(two, 7000) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert two.hosts[1].pids() == [server.pid]
        two.cut(1)
        assert not hears(two, 7000)
        assert server.poll() is None
        two.mend(1)
        assert hears(two, 7000)
        two.kill(1)
        assert server.wait(timeout=5) == -signal.SIGKILL
        assert not hears(two, 7000)
        names = [host.namespace for host in two.hosts]
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in listed for name in names)
    assert not two.folder.exists()


def interface_seen(two: Hosts, host: int) -> str:
    """Return the interface of a host's address as it is found on that host."""
    ask = f"from cluster.interface import interface_of; print(interface_of('{two.hosts[host].ip}'))"
    call = two.command(host, [sys.executable, "-c", ask])
    return subprocess.run(call, capture_output=True, text=True, env=two.environment, check=True).stdout.strip()


def test_an_interface_that_a_person_said_stays(monkeypatch) -> None:
    monkeypatch.setattr(backend, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv(GLOO, "eth7")
    monkeypatch.setenv(NCCL, "")  # so that it is as before in the end
    monkeypatch.delenv(NCCL)
    choose_interface()
    assert (os.environ[GLOO], os.environ[NCCL]) == ("eth7", "=lo")
    monkeypatch.setattr(backend, "get_node_ip_address", lambda: "192.0.2.250")
    choose_interface()  # both are said: nothing is looked for
    monkeypatch.delenv(GLOO)
    with pytest.raises(RuntimeError, match="no network interface here holds the node's address"):
        choose_interface()

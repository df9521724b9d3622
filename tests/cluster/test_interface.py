"""An address is found on the interface that holds it, as the kernel lists them."""

import json
import shutil
import socket
import subprocess

import pytest

from cluster.interface import interface_of


def test_the_loopback_address_is_on_the_loopback_interface() -> None:
    assert interface_of("127.0.0.1") in ("lo", "lo0")


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip (iproute2) is not installed")
def test_every_address_that_the_kernel_lists_is_found() -> None:
    listed = json.loads(subprocess.run(["ip", "-j", "address"], capture_output=True, text=True, check=True).stdout)
    held = [(link["ifname"], one["local"]) for link in listed for one in link.get("addr_info", ())]
    assert held
    for _, address in held:
        name = interface_of(address)
        assert (name, address) in held  # a link-local one may be on several
        assert name in {known for _, known in socket.if_nameindex()}


def test_an_address_in_any_writing_and_with_a_zone_is_the_same() -> None:
    try:
        name = interface_of("::1")
    except RuntimeError:
        pytest.skip("no IPv6 here")
    assert interface_of("0:0:0:0:0:0:0:1") == interface_of("::1%lo") == name


def test_an_address_that_is_elsewhere_is_said_with_those_that_are_here() -> None:
    with pytest.raises(RuntimeError) as raised:
        interface_of("192.0.2.250")
    sentence = str(raised.value)
    assert sentence.startswith("no network interface here holds the node's address 192.0.2.250; the addresses are 127.")
    assert "127.0.0.1 (lo" in sentence
    assert sentence.endswith("or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.")
    assert "\n" not in sentence

"""Which network interface holds an address: what Gloo and NCCL are told by the name of, not by its address."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator

_IPv4_AT, _IPv6_AT = slice(4, 8), slice(8, 24)  # of a sockaddr_in and a sockaddr_in6
_LONGEST = 28  # bytes of a sockaddr_in6


class _Entry(ctypes.Structure):
    """The beginning of C's `struct ifaddrs`, which is all that is read (getifaddrs(3))."""


_Entry._fields_ = [
    ("next", ctypes.POINTER(_Entry)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def interface_of(ip: str) -> str:
    """Return the name of the interface that holds an IPv4 or IPv6 address of this machine (in this network namespace).

    Raises RuntimeError, in a sentence, where none does.
    """
    wanted = ipaddress.ip_address(ip.partition("%")[0])
    held = list(_held())
    for name, address in held:
        if address == wanted:
            return name
    known = ", ".join(f"{address} ({name})" for name, address in held) or "none"
    remedy = "start Ray with --node-ip-address one of them, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    raise RuntimeError(f"no network interface here holds the node's address {ip}; the addresses are {known}; {remedy}.")


def _held() -> Iterator[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Return (interface, address) of all addresses that this machine has."""
    system = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Entry)()
    if system.getifaddrs(ctypes.byref(first)) != 0:
        raise RuntimeError(f"the network interfaces cannot be read: {os.strerror(ctypes.get_errno())}.")
    try:
        entry = first
        while entry:
            found, entry = entry.contents, entry.contents.next
            if found.address:
                yield from _read(found.name.decode(), found.address)
    finally:
        system.freeifaddrs(first)


def _read(name: str, pointer: int) -> Iterator[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    family = ctypes.c_ubyte.from_address(pointer + 1) if _BSD else ctypes.c_ushort.from_address(pointer)
    if family.value == socket.AF_INET:
        yield name, ipaddress.IPv4Address(ctypes.string_at(pointer, 16)[_IPv4_AT])
    elif family.value == socket.AF_INET6:
        yield name, ipaddress.IPv6Address(ctypes.string_at(pointer, _LONGEST)[_IPv6_AT])


_BSD = sys.platform == "darwin"  # a byte of length stands before the family there

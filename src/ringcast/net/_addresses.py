"""Where a group's store is: one numeric address, no wildcard, found from what the user names.

A name is resolved once and what is used from then on is a number, so that two look-ups cannot differ. What is bound is
`RINGCAST_BIND_IP`, where others reach this machine by an address that it does not have itself, else that address.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TypeAlias

from ringcast import _arguments
from ringcast.errors import ArgumentError, GroupError

Address: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address, with its zone if it has one, and a port."""


def resolved(host: str, port: int) -> list[Address]:
    """The addresses of a host, in the order in which to try them. Raises ArgumentError, GroupError."""
    if not isinstance(host, str):
        raise _arguments.refuse("host", "a name or a numeric address", host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except OSError as error:
        raise GroupError(f"the host {host!r} of the group's store has no address: {error}") from error
    addresses = list(dict.fromkeys((str(one[4][0]), port) for one in found))
    if not addresses or any(_parsed(ip).is_unspecified or _parsed(ip).is_multicast for ip, _ in addresses):
        raise ArgumentError(f"host must be one address of rank 0's machine, which all ranks can reach, not {host!r}")
    return addresses


def listening(addresses: list[Address]) -> socket.socket:
    """A socket that listens at the first of the addresses that this machine has. Raises GroupError."""
    bind = os.environ.get("RINGCAST_BIND_IP")
    tried: list[str] = []
    for ip, port in resolved(bind, addresses[0][1]) if bind else addresses:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        try:
            return socket.create_server((ip, port), family=family, backlog=1024)
        except OSError as error:
            tried.append(f"{shown((ip, port))}: {error}")
    raise GroupError(
        "rank 0 holds the group's store and cannot listen at "
        + "; ".join(tried)
        + ". Name an address of rank 0's machine and a free port"
    )


def is_loopback(ip: str) -> bool:
    """Can only processes of this machine send from there?"""
    return _parsed(ip).is_loopback


def shown(address: Address) -> str:
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _parsed(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address

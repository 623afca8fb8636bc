"""Addresses: where a group's store is, where a link listens, and what others are told of that.

Numeric, one at a time, no wildcard and no link-local one. A name is resolved once and what is used from then on is a
number, so that two look-ups cannot differ; where something listens, no name will do. A machine's own name that its
hosts file leads to a loopback address (127.0.1.1 on Debian) stands for its address on the default route, which others
can reach. Of the environment:

    RINGCAST_HOST_IP      this machine's address, where no `connect_ip` says it
    RINGCAST_BIND_IP      what is bound, where others reach this machine by an address that it does not have itself
    RINGCAST_ADVERTISE    what others are told, "ip" or "ip:port", where a link is not reached at what it listens at
    RINGCAST_PORT_RANGE   "40000-40100": a link listens at the first free port of these
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

from ringcast import _arguments
from ringcast.errors import ArgumentError, GroupError, LinkError

Address: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address and a port."""

BACKLOG = 1024
HOST_IP, BIND_IP = "RINGCAST_HOST_IP", "RINGCAST_BIND_IP"
ADVERTISE, PORT_RANGE = "RINGCAST_ADVERTISE", "RINGCAST_PORT_RANGE"

_SOMEWHERE = ("192.0.2.1", "2001:db8::1")  # of documentation, which nobody has: the default route leads there
_DISCARD_PORT = 9
_SAY_WHICH = f"say which address other machines reach: connect_ip=, or {HOST_IP}"


class UnknownHostError(GroupError):
    """A host's name leads nowhere, or not yet."""


def resolved(host: str, port: int) -> list[Address]:
    """The addresses of a host, in the order in which to try them. Raises ArgumentError, UnknownHostError."""
    if not isinstance(host, str):
        raise _arguments.refuse("host", "a name or a numeric address", host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except OSError as error:
        raise UnknownHostError(f"the host {host!r} of the group's store has no address: {error}") from error
    except UnicodeError as error:
        raise ArgumentError(f"host is {host!r:.80}, which can be no machine's name: {error}") from error
    addresses = list(dict.fromkeys((str(one[4][0]), port) for one in found))
    if not addresses or any(is_wildcard(ip) or _parsed(ip).is_multicast for ip, _ in addresses):
        raise ArgumentError(f"host must be one address of rank 0's machine, which all ranks can reach, not {host!r}")
    if is_this_machine(host) and all(is_loopback(ip) for ip, _ in addresses):
        with suppress(LinkError):  # there is no other machine
            addresses.insert(0, (_of_the_way(None), port))
    beyond = [(ip, port) for ip, port in addresses if not _parsed(ip).is_link_local]
    if not beyond:
        raise ArgumentError(f"host is {host!r}: {_link_local(addresses[0][0])}")
    return beyond


def listening(addresses: list[Address]) -> socket.socket:
    """A socket that listens at the first of the addresses that this machine has. Raises ArgumentError, GroupError."""
    bind = os.environ.get(BIND_IP)
    tried: list[str] = []
    for ip, port in [(_numeric(BIND_IP, bind), addresses[0][1])] if bind else addresses:
        try:
            return _bound(ip, port)
        except OSError as error:
            tried.append(f"{shown((ip, port))}: {error}")
    raise GroupError(
        "rank 0 holds the group's store and cannot listen at "
        + "; ".join(tried)
        + ". Name an address of rank 0's machine and a free port"
    )


def listening_for_links(
    connect_ip: str | None, towards: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[socket.socket, Address]:
    """A socket that listens for other machines' links, and what they are told. `environment`: of who asks for it.

    At `connect_ip`; else at RINGCAST_HOST_IP; else at this machine's address on the way to `towards`, the address where
    a group has its store; else at the one of the default route. Looking for the way sends nothing. A loopback address
    is found only if all who come have a loopback address to come to: if `connect_ip` or `towards` is one.

    Raises ArgumentError, LinkError.
    """
    if connect_ip is not None and not isinstance(connect_ip, str):
        raise _arguments.refuse("connect_ip", "an address of this machine, as text", connect_ip)
    bind = environment.get(BIND_IP)
    bind_ip = _numeric(BIND_IP, bind) if bind else None
    host_ip = environment.get(HOST_IP)
    if connect_ip is not None:
        what, ip = "connect_ip", _numeric("connect_ip", connect_ip)
    elif host_ip:
        what, ip = HOST_IP, _not_loopback(HOST_IP, _numeric(HOST_IP, host_ip))
    elif bind_ip is not None:
        what, ip = BIND_IP, bind_ip if environment.get(ADVERTISE) else _not_loopback(BIND_IP, bind_ip)
    else:
        what, ip = "", _of_the_way(towards)
    told_ip, told_port = _advertised(environment) or (ip, None)
    if is_loopback(told_ip) and not is_loopback(ip):
        _not_loopback(ADVERTISE, told_ip)
    ports = _ports(environment)
    sock = _first_free(ip, what, ports) if bind_ip is None else _first_free(bind_ip, BIND_IP, ports)
    return sock, (told_ip, told_port or int(sock.getsockname()[1]))


def is_loopback(ip: str) -> bool:
    """Can only processes of this machine send from there?"""
    return _parsed(ip).is_loopback


def is_wildcard(ip: str) -> bool:
    """Does it stand for all addresses of a machine?"""
    return _parsed(ip).is_unspecified


def is_this_machine(host: str) -> bool:
    """Is it this machine's own name, and not one that means each machine itself?"""
    first, own = (name.lower().partition(".")[0] for name in (host, socket.gethostname()))
    return first == own != "localhost"


def shown(address: Address) -> str:
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def with_a_way(host: str) -> str:
    """The first of a host's addresses that a way leads to, or else its first.

    Raises ArgumentError, UnknownHostError.
    """
    ips = [ip for ip, _ in resolved(host, _DISCARD_PORT)]
    return next((ip for ip in ips if _own_on_the_way(ip) is not None), ips[0])


def _own_on_the_way(ip: str) -> str | None:
    try:
        with socket.socket(_family(ip), socket.SOCK_DGRAM) as sock:
            sock.connect((ip, _DISCARD_PORT))
            return str(sock.getsockname()[0])
    except OSError:
        return None


def _of_the_way(towards: str | None) -> str:
    """This machine's own address on the way to another one's, or to anywhere."""
    where = f"to {towards}" if towards else "out of this machine"
    for host in [towards] if towards else _SOMEWHERE:
        ip = _own_on_the_way(host)
        if ip is None:
            continue
        if _parsed(ip).is_link_local:
            raise LinkError(f"the way {where} begins at {ip}: {_link_local(ip)}")
        if is_loopback(ip) and not is_loopback(host):
            raise LinkError(f"the way {where} begins at {ip}, which no other machine reaches: {_SAY_WHICH}")
        return str(_parsed(ip))
    raise LinkError(f"there is no way {where}, so that this machine's address is not known: {_SAY_WHICH}")


def _advertised(environment: Mapping[str, str]) -> tuple[str, int | None] | None:
    text = environment.get(ADVERTISE)
    if not text:
        return None
    form = re.fullmatch(r"\[(.*)](?::(\d{1,5}))?", text) or re.fullmatch(r"([^:]*)(?::(\d{1,5}))?|(.*:.*:.*)", text)
    ip, port, six = (*form.groups(), None)[:3] if form is not None else (None, None, None)
    if form is None or (port is not None and not 0 < int(port) < 65536):
        raise ArgumentError(
            f'{ADVERTISE} is {text!r}: it must be "ip" or "ip:port", with brackets as in "[fd00::1]:40000"'
        )
    return _numeric(ADVERTISE, ip or six or "", text), None if port is None else int(port)


def _numeric(what: str, ip: str, said: str | None = None) -> str:
    """Raises ArgumentError unless it is one address that other networks reach."""
    said = ip if said is None else said
    try:
        address = _parsed(ip)
    except ValueError:
        raise ArgumentError(f"{what} is {said!r}: it must be a numeric IPv4 or IPv6 address, and no name") from None
    if address.is_link_local:
        raise ArgumentError(f"{what} is {said!r}: {_link_local(ip)}")
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255" or "%" in ip:
        raise ArgumentError(f"{what} is {said!r}: it must be one address of one machine, and no wildcard")
    return str(address)


def _not_loopback(what: str, ip: str) -> str:
    if is_loopback(ip):
        raise ArgumentError(
            f"{what} is {ip!r}, which no other machine reaches. Where all processes are on this machine's network, "
            f"say so with connect_ip={ip!r}"
        )
    return ip


def _link_local(ip: str) -> str:
    return f"{ip.partition('%')[0]} is a link-local address, which means something else on each cable: {_SAY_WHICH}"


def _first_free(ip: str, what: str, ports: range) -> socket.socket:
    """Raises LinkError."""
    for port in ports:
        try:
            return _bound(ip, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            named = f" ({what})" if what else ""
            advice = (
                f"Where others reach this machine by an address that it does not have, {BIND_IP} says which one it has"
                if error.errno == errno.EADDRNOTAVAIL
                else f"{PORT_RANGE} says which ports to try"
            )
            raise LinkError(f"cannot listen at {shown((ip, port))}{named}: {error.strerror}. {advice}") from error
    raise LinkError(
        f"all ports that {PORT_RANGE} names, {ports[0]} to {ports[-1]}, are in use at {ip}: name more, or free ones"
    )


def _ports(environment: Mapping[str, str]) -> range:
    text = environment.get(PORT_RANGE)
    if not text:
        return range(1)
    first, dash, last = (part.strip() for part in text.partition("-"))
    ports = [
        int(part) if part.isascii() and part.isdigit() else 0 for part in ((first, last) if dash else (first, first))
    ]
    if not 0 < ports[0] <= ports[1] < 65536:
        raise ArgumentError(f"{PORT_RANGE} is {text!r}: it must be two ports, as in 40000-40100, or one")
    return range(ports[0], ports[1] + 1)


def _bound(ip: str, port: int) -> socket.socket:
    return socket.create_server((ip, port), family=_family(ip), backlog=BACKLOG)


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _parsed(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address

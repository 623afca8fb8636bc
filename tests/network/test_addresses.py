"""Where a link listens and what others are told: one numeric address that they reach, or an error that helps."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ringcast.errors import ArgumentError, LinkError
from ringcast.net._addresses import Address, listening_for_links
from tests.network.machines import machines
from tests.support import Link

VARIABLES = ("RINGCAST_HOST_IP", "RINGCAST_BIND_IP", "RINGCAST_ADVERTISE", "RINGCAST_PORT_RANGE")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def found(connect_ip: str | None = None, towards: str | None = None) -> tuple[str, int, Address]:
    """What is bound, and what is told, of a socket that somebody can connect to."""
    sock, told = listening_for_links(connect_ip, towards)
    with sock:
        bound = sock.getsockname()[:2]
        with socket.create_connection(bound):
            pass
        return (*bound, told)


def test_connect_ip_is_bound_and_told_a_loopback_one_too() -> None:
    for ip in ("127.0.0.1", "127.0.0.9", "::1"):
        bound, port, told = found(ip)
        assert (bound, told) == (ip, (ip, port))
    assert found("::ffff:127.0.0.1")[0] == "127.0.0.1"


def test_towards_a_loopback_address_a_loopback_address_will_do() -> None:
    bound, port, told = found(None, "127.0.0.1")
    assert (bound, told) == ("127.0.0.1", ("127.0.0.1", port))


@pytest.mark.parametrize(
    ("ip", "text"),
    [
        ("localhost", "numeric"), ("", "numeric"), ("10.0.0", "numeric"), ("10.0.0.1:80", "numeric"),
        ("0.0.0.0", "wildcard"), ("::", "wildcard"), ("224.0.0.1", "wildcard"), ("255.255.255.255", "wildcard"),
        ("169.254.3.4", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        ("::ffff:169.254.1.1", "link-local"),
    ],
)  # fmt: skip
def test_what_is_no_address_that_others_reach_is_refused_wherever_it_is_said(
    ip: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match=rf"connect_ip is '.*{text}"):
        found(ip)
    if not ip:
        return  # an empty variable is none
    monkeypatch.setenv("RINGCAST_BIND_IP", ip)
    with pytest.raises(ArgumentError, match=rf"RINGCAST_BIND_IP is '.*{text}"):
        found("127.0.0.1")
    monkeypatch.delenv("RINGCAST_BIND_IP")
    monkeypatch.setenv("RINGCAST_HOST_IP", ip)
    with pytest.raises(ArgumentError, match=rf"RINGCAST_HOST_IP is '.*{text}"):
        found()
    if ip != "10.0.0.1:80":
        monkeypatch.setenv("RINGCAST_ADVERTISE", ip)
        with pytest.raises(ArgumentError, match=r"RINGCAST_ADVERTISE is '"):
            found("127.0.0.1")


def test_connect_ip_is_text() -> None:
    for value in (5, b"127.0.0.1"):
        wrong: Any = value
        with pytest.raises(ArgumentError, match="connect_ip must be"):
            found(wrong)


@pytest.mark.parametrize("variable", ["RINGCAST_HOST_IP", "RINGCAST_BIND_IP"])
def test_a_loopback_address_that_only_the_environment_names_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "127.0.0.1")
    with pytest.raises(ArgumentError, match=rf"{variable} is '127.0.0.1', which no other machine reaches.*connect_ip="):
        found()


def test_an_address_of_another_machine_is_said_to_be_none_of_this_one() -> None:
    with pytest.raises(LinkError, match=r"cannot listen at 192\.0\.2\.1:0 \(connect_ip\).*RINGCAST_BIND_IP"):
        found("192.0.2.1")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("192.0.2.7", ("192.0.2.7", None)), ("192.0.2.7:4711", ("192.0.2.7", 4711)),
        ("2001:db8::7", ("2001:db8::7", None)), ("[2001:db8::7]:4711", ("2001:db8::7", 4711)),
        ("[2001:db8::7]", ("2001:db8::7", None)),
    ],
)  # fmt: skip
def test_behind_another_address_what_is_bound_and_what_is_told_differ(
    said: str, told: tuple[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGCAST_BIND_IP", "127.0.0.1")
    monkeypatch.setenv("RINGCAST_ADVERTISE", said)
    for connect_ip in (None, "192.0.2.9"):
        bound, port, address = found(connect_ip)
        assert bound == "127.0.0.1"
        assert address == (told[0], told[1] or port)
    monkeypatch.delenv("RINGCAST_ADVERTISE")
    bound, port, address = found("192.0.2.9")
    assert (bound, address) == ("127.0.0.1", ("192.0.2.9", port))


@pytest.mark.parametrize(
    "said", ["host:80", "1.2.3.4:0", "1.2.3.4:70000", "1.2.3.4:", "[::1", "1.2.3.4:8o", "[fd00::1]80", ":80"]
)
def test_what_is_told_must_be_an_address(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_ADVERTISE", said)
    with pytest.raises(ArgumentError, match="RINGCAST_ADVERTISE is"):
        found("127.0.0.1")


def test_a_loopback_address_is_not_told_in_the_place_of_one_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_BIND_IP", "127.0.0.1")
    monkeypatch.setenv("RINGCAST_ADVERTISE", "127.0.0.1:5")
    with pytest.raises(ArgumentError, match=r"RINGCAST_ADVERTISE is '127\.0\.0\.1', which no other machine reaches"):
        found("192.0.2.9")
    assert found("127.0.0.1")[2] == ("127.0.0.1", 5)


@pytest.fixture
def three_ports() -> Iterator[tuple[int, list[socket.socket]]]:
    """Three ports in a row that were free, of which the first two are in use."""
    for first in range(20000, 32000, 3):
        held: list[socket.socket] = []
        try:
            held = [socket.create_server(("127.0.0.1", first + n)) for n in range(3)]
        except OSError:
            for sock in held:
                sock.close()
            continue
        held.pop().close()
        yield first, held
        for sock in held:
            sock.close()
        return


def test_the_first_free_port_of_the_range_is_taken(
    three_ports: tuple[int, list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, held = three_ports
    monkeypatch.setenv("RINGCAST_PORT_RANGE", f"{first}-{first + 2}")
    assert found("127.0.0.1")[1:] == (first + 2, ("127.0.0.1", first + 2))
    monkeypatch.setenv("RINGCAST_PORT_RANGE", f"{first}-{first + 1}")
    with pytest.raises(
        LinkError, match=rf"RINGCAST_PORT_RANGE names, {first} to {first + 1}, are in use at 127\.0\.0\.1"
    ):
        found("127.0.0.1")
    held.pop().close()
    assert found("127.0.0.1")[1] == first + 1
    monkeypatch.setenv("RINGCAST_PORT_RANGE", f" {first + 1} ")
    assert found("127.0.0.1")[1] == first + 1


@pytest.mark.parametrize("said", ["5-3", "0-10", "a-b", "40000-", "-5", "1-2-3", "70000", "40000-70000", "٤٠٠٠٠"])
def test_a_range_of_ports_is_two_numbers(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_PORT_RANGE", said)
    with pytest.raises(ArgumentError, match=r"RINGCAST_PORT_RANGE is .*40000-40100"):
        found("127.0.0.1")


def _look(link: Link, ways: list[tuple[str | None, str | None]]) -> None:
    for way in ways:
        try:
            sock, told = listening_for_links(*way)
        except (ArgumentError, LinkError) as error:
            link.send((type(error).__name__, str(error)))
        else:
            with sock:
                link.send((sock.getsockname()[0], told == sock.getsockname()[:2]))


@pytest.mark.usefixtures("machine_server")
def test_without_being_told_a_machine_finds_its_own_address_of_the_way() -> None:
    with machines(2) as (a, b):
        ways: list[tuple[str | None, str | None]] = [
            (None, b.ip),
            (None, b.ip6),
            (None, a.ip),
            (a.ip, None),
            (None, None),
        ]
        worker = a.start(_look, ways)
        assert [worker.receive() for _ in ways[:4]] == [(ip, True) for ip in (a.ip, a.ip6, a.ip, a.ip)]
        kind, text = worker.receive()
        assert kind == "LinkError", "it has no default route"
        assert "no way out of this machine" in text
        assert "RINGCAST_HOST_IP" in text
        a.shell(f"ip route add default via {b.ip}")
        worker = a.start(_look, [(None, None), (None, "192.0.2.50")])
        assert [worker.receive() for _ in range(2)] == [(a.ip, True)] * 2
        a.shell("ip addr flush dev eth0\nip addr add 169.254.7.7/16 dev eth0\nip route add default dev eth0")
        worker = a.start(_look, [(None, None), (None, "192.0.2.50"), ("169.254.7.7", None)])
        for _ in range(2):
            kind, text = worker.receive()
            assert kind == "LinkError"
            assert "169.254.7.7 is a link-local address" in text
        assert worker.receive()[0] == "ArgumentError"


def test_looking_for_the_way_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Watched(socket.socket):
        def send(self, *arguments: Any) -> int:
            sent.append(arguments)
            return super().send(*arguments)

    monkeypatch.setattr(socket, "socket", Watched)
    found(None, "127.0.0.1")
    assert sent == []

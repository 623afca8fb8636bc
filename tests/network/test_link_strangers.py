"""Who has no key: whatever he sends, or does not send, he is refused, and the queue works on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.network.linked import MIB, Reader, Writer, as_json
from tests.network.machines import Machine, Worker, visited
from tests.network.proxy import DOWN, UP, Proxy
from tests.support import Link

pytestmark = pytest.mark.usefixtures("machine_server")

REFUSED_WITHIN_S = 60.0
"""A stranger gets 2 s; and this machine does other things besides."""

WITHOUT_THE_LAST = 256
"""Messages that the ring has room for, while not all have come that they are kept for."""


def _connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=REFUSED_WITHIN_S)


def _until_closed(connection: socket.socket) -> int:
    """How many bytes it is told before the other side ends it."""
    told = 0
    try:
        while data := connection.recv(1 << 16):
            told += len(data)
    except ConnectionError:
        pass
    return told


def _garbage(address: tuple[str, int], seed: int) -> list[int]:
    """Many that send something else than a peer would."""
    chance = random.Random(seed)
    openings = [
        b"", b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 64, bytes(MIB),
        chance.randbytes(16), chance.randbytes(4096),
    ]  # fmt: skip
    told = []
    for opening in openings:
        with _connected(address) as connection:
            try:
                connection.sendall(opening)
                if not opening:
                    connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            told.append(_until_closed(connection))
    return told


def _silence(address: tuple[str, int], count: int) -> float:
    """Many at once that say nothing, until the other side has had enough of all of them; each is told nothing."""
    began = time.monotonic()
    connections = [_connected(address) for _ in range(count)]
    for connection in connections:
        assert _until_closed(connection) < 256
    return time.monotonic() - began


def _mutated(address: tuple[str, int], recorded: bytes, seed: int) -> int:
    """What a real peer has sent, as it was, cut short, and with bits changed."""
    chance = random.Random(seed)
    count = 0
    for turn in range(40):
        data = bytearray(recorded[:4096])
        if turn % 4 == 1:
            del data[chance.randrange(len(data)) :]
        elif turn % 4 > 1:
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(min(len(data), 256))] ^= 1 << chance.randrange(8)
        with _connected(address) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            _until_closed(connection)
        count += 1
    return count


def _strange(link: Link, what: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    link.send("here")
    link.send(what(*arguments))


def _stranger(machine: Machine, what: Callable[..., Any], *arguments: Any) -> Worker:
    worker = machine.start(_strange, what, arguments)
    assert worker.receive() == "here"
    return worker


def _goes_on(writer: Writer, readers: list[Reader], first: int, count: int = 30) -> int:
    writer.tell("send", first, count)
    for reader in readers:
        reader.tell("take", first, count)
    assert [end.outcome() for end in (writer, *readers)] == [count] * (1 + len(readers))
    return first + count


@pytest.mark.parametrize("encrypt", [True, False])
def test_garbage_is_refused_while_messages_pass(encrypt: bool) -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=2, max_chunks=WITHOUT_THE_LAST, encrypt=encrypt)
        readers = writer.readers(b, 0)
        stranger = _stranger(c, _garbage, writer.address, 1)
        first = _goes_on(writer, readers, 0)
        assert max(stranger.receive()) < 256, "an error, and no more"
        readers += writer.readers(c, 1)
        readers[1].does("take", 0, first)
        _goes_on(writer, readers, first)
        writer.does("close")


def test_two_hundred_silent_strangers_keep_nobody_out() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=3, max_chunks=WITHOUT_THE_LAST)
        readers = writer.readers(b, 0)
        silent = [_stranger(c, _silence, writer.address, 200) for _ in range(2)]
        first = _goes_on(writer, readers, 0)
        silent.append(_stranger(c, _silence, writer.address, 200))
        readers += writer.readers(c, 1)  # from the very address they come from
        readers[1].does("take", 0, first)
        first = _goes_on(writer, readers, first)
        for stranger in silent:
            stranger.receive()
        readers += writer.readers(b, 2)
        readers[2].does("take", 0, first)
        _goes_on(writer, readers, first)
        writer.does("close")


def test_silent_strangers_do_not_keep_a_peer_from_coming_back() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1)
        proxy = Proxy(b, writer.address)
        readers = writer.readers(b, 0, proxy=proxy)
        first = _goes_on(writer, readers, 0)
        silent = _stranger(c, _silence, writer.address, 200)
        for _ in range(3):
            proxy.reset()
            first = _goes_on(writer, readers, first)
        silent.receive()
        writer.does("close")


@pytest.mark.parametrize("encrypt", [True, False])
def test_what_a_peer_has_said_is_of_no_use_to_others(encrypt: bool) -> None:
    """Recorded on the way, said again, and changed at random; both to the same link and while its peer comes back."""
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=2, max_chunks=WITHOUT_THE_LAST, encrypt=encrypt)
        proxy = Proxy(c, writer.address)
        readers = writer.readers(b, 0, proxy=proxy)
        first = _goes_on(writer, readers, 0)
        for seed, recorded in enumerate(proxy.recorded()):
            stranger = _stranger(c, _mutated, writer.address, recorded, seed)
            proxy.reset()
            first = _goes_on(writer, readers, first)
            assert stranger.receive() == 40
        readers += writer.readers(b, 1)
        readers[1].does("take", 0, first)
        _goes_on(writer, readers, first)
        writer.does("close")


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("how", ["flip", "repeat", "drop"])
def test_what_is_changed_on_the_way_is_never_believed_and_nothing_is_lost(how: str, encrypt: bool) -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=2, encrypt=encrypt)
        proxy = Proxy(c, writer.address)
        readers = writer.readers(b, 0, 1, proxy=proxy)
        first = _goes_on(writer, readers, 0)
        for direction in (DOWN, UP):
            proxy.spoil(how, direction)
            first = _goes_on(writer, readers, first)
            if how != "drop":  # who waits for what was dropped is late, and that is a cut
                proxy.spoil(how, direction)
                proxy.reset()  # and what is spoilt is how they meet again
                first = _goes_on(writer, readers, first)
        writer.does("close")


def test_the_key_of_another_queue_opens_nothing() -> None:
    with visited(2) as (a, b):
        writer, other = Writer(a, n_reader=1), Writer(a, n_reader=1)
        failure = Reader(b, writer.handle._replace(key=other.handle.key), 0, wait=False).refused()
        assert "LinkError" in failure.kinds
        assert "key" in failure.text
        readers = writer.readers(b, 0)
        _goes_on(writer, readers, 0)
        writer.does("close")
        other.gives_up()


SECRET, OTHER = {"RINGCAST_SECRET": "s" * 30}, {"RINGCAST_SECRET": "t" * 30}


@pytest.mark.parametrize("env", [OTHER, {}])
def test_with_a_secret_no_other_one_and_no_handle_alone_will_do(env: dict[str, str]) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1, env=SECRET)
        failure = Reader(b, as_json(writer.handle), 0, wait=False, env=env).refused()
        assert "LinkError" in failure.kinds
        assert "RINGCAST_SECRET" in failure.text
        readers = [Reader(b, as_json(writer.handle), 0, env=SECRET)]
        _goes_on(writer, readers, 0)
        writer.does("close")


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_handle_that_says_otherwise_gets_nothing_in_the_clear(encrypt: bool) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1, encrypt=encrypt)
        failure = Reader(b, writer.handle._replace(encrypt=not encrypt), 0, wait=False).refused()
        assert "LinkError" in failure.kinds
        assert "encrypt" in failure.text
        readers = writer.readers(b, 0)
        _goes_on(writer, readers, 0)
        writer.does("close")


def test_a_handle_hides_its_key_when_it_is_shown() -> None:
    with visited(1) as (a,):
        writer = Writer(a, n_reader=1)
        assert writer.handle.key is not None
        for shown in (repr(writer.handle), str(writer.handle), f"{writer.handle}"):
            assert writer.handle.key not in shown
        writer.does("evict", 0)
        writer.gives_up()


def test_a_link_listens_at_its_one_address() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        readers = writer.readers(b, 0)
        for machine in (a, b):
            listening = machine.shell("ss -Hltn | awk '{print $4}'").split()
            assert all(one.rpartition(":")[0].strip("[]") == a.ip for one in listening), listening
        _goes_on(writer, readers, 0)
        writer.does("close")

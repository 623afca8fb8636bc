"""Who connects without a queue's key gets nowhere, costs next to nothing, and keeps nobody else out."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from ringcast.net.link import _listener
from ringcast.net.link._hello import (
    ANSWER_BYTES,
    FIRST_BYTES,
    HELLO_BYTES,
    SECOND_BYTES,
    Hello,
    Release,
    Why,
    understood,
)
from ringcast.net.link._listener import MOST_SILENT_OF_AN_ADDRESS, MOST_UNPROVEN
from ringcast.net.link._noise import Handshake
from tests.network.channels import KEY, QUEUE, Door, Wiretap
from tests.support import DEADLINE_S, Child, Link, eventually

HELLO = Hello(QUEUE, True, False)


@pytest.fixture
def door() -> Iterator[Door]:
    with closing(Door()) as open_door:
        yield open_door


def connection(door: Door, said: bytes = b"") -> socket.socket:
    sock = socket.create_connection(door.address, timeout=DEADLINE_S)
    sock.sendall(said)
    return sock


def answered(sock: socket.socket) -> bytes:
    """All that he is told until the connection ends, in order or by a reset."""
    data = b""
    with suppress(ConnectionResetError):
        while part := sock.recv(4096):
            data += part
    return data


def first_words(hello: Hello = HELLO, key: bytes = KEY) -> bytes:
    return made_for(hello.packed(), key)


def made_for(hello: bytes, key: bytes = KEY) -> bytes:
    """With a handshake's first message that fits."""
    return hello + Handshake(True, hello, key).write(b"")


def still_works(door: Door) -> None:
    dialled, accepted = door.pair()
    with closing(dialled), closing(accepted):
        dialled.send(1, b"well")
        assert accepted.next() == (1, 4)
        assert bytes(accepted.read()) == b"well"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (first_words(key=bytes(32)), Why.WRONG_KEY),
        (first_words(HELLO._replace(queue=1)), Why.UNKNOWN_QUEUE),
        (first_words(HELLO._replace(encrypt=False)), Why.OTHER_ENCRYPTION),
        (first_words(HELLO._replace(byte_order="big")), Why.OTHER_BYTE_ORDER),
        (b"ringcast\x02\0", Why.OTHER_VERSION),
        (b"ringcast\x02\0" + bytes(500), Why.OTHER_VERSION),
    ],
    ids=["key", "queue", "encryption", "byte order", "version", "long version"],
)
def test_an_honest_mistake_is_answered_by_a_number(door: Door, said: bytes, told: Why) -> None:
    with connection(door, said) as sock:
        data = sock.recv(ANSWER_BYTES, socket.MSG_WAITALL)
        assert sock.recv(1) == b"", "no reset, which could overtake the answer"
    assert understood(data) == (1, told)
    assert door.peers.empty()
    still_works(door)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        bytes(100),
        b"ringcasT",
        b"\xff",
        first_words()[:-1],
        made_for(HELLO.packed()[:12] + b"\x81" + HELLO.packed()[13:]),
        made_for(HELLO.packed()[:13] + b"\1" + HELLO.packed()[14:]),
        b"ringcast\0\0",
    ],
    ids=["http", "zeros", "almost", "byte", "cut", "flag", "padding", "version 0"],
)
def test_garbage_is_answered_by_nothing(door: Door, said: bytes) -> None:
    with connection(door, said) as sock:
        with suppress(OSError):  # he was turned away already
            sock.shutdown(socket.SHUT_WR)
        assert answered(sock) == b""
    still_works(door)


def test_a_recorded_connection_played_again_lets_nobody_in(door: Door) -> None:
    with closing(Wiretap(door.address)) as tap:
        dialled, accepted = door.pair(tap.address)
        dialled.send(1, b"a secret order")
        accepted.next()
        accepted.read()
        dialled.close()
        accepted.close()
        recording = tap.seen[True]
    for kept in (recording, recording[: HELLO_BYTES + FIRST_BYTES + 24]):
        with connection(door, kept) as sock:
            assert len(answered(sock)) in (0, ANSWER_BYTES + SECOND_BYTES)
    with connection(door, recording[: HELLO_BYTES + FIRST_BYTES]) as sock:
        assert len(sock.recv(4096)) == ANSWER_BYTES + SECOND_BYTES
        still_works(door)
        sock.sendall(recording[HELLO_BYTES + FIRST_BYTES :])
        assert answered(sock) == b""
    assert door.peers.empty()


def test_nobody_counts_before_he_has_sent_something_that_no_recording_has(door: Door) -> None:
    with connection(door, first_words()) as sock:
        assert len(sock.recv(4096)) == ANSWER_BYTES + SECOND_BYTES
        assert door.peers.empty()
        sock.sendall(struct.pack("<IB3x", 0, 0) + bytes(16))
        assert answered(sock) == b""
    assert door.peers.empty()


def _stay_silent(link: Link, address: tuple[str, int], said: bytes) -> None:
    """200 connections, each of which is renewed when asked to, or when it has ended."""
    sockets: list[socket.socket] = []
    while link.recv():
        for sock in sockets:
            sock.close()
        sockets = [socket.create_connection(address) for _ in range(200)]
        for sock in sockets:
            with suppress(OSError):  # he was turned away before he could say it
                sock.sendall(said)
        link.send(len(sockets))


@pytest.mark.parametrize("said", [b"", b"r", first_words()], ids=["silent", "slow", "recorded"])
def test_two_hundred_strangers_that_wait_renewed_again_and_again_keep_no_peer_out(door: Door, said: bytes) -> None:
    child = Child(_stay_silent, door.address, said)
    try:
        for _ in range(5):
            assert child.ask(True) == 200
            most = MOST_UNPROVEN if len(said) > 1 else MOST_SILENT_OF_AN_ADDRESS
            for _ in range(5):
                assert len(door.listener._unproven) <= most
                still_works(door)
        assert door.peers.empty()
    finally:
        child.discard()
    eventually(lambda: not door.listener._unproven, "all of them are forgotten")


def test_who_has_spoken_is_kept_for_longer_than_who_has_not(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "MOST_UNPROVEN", 4)
    monkeypatch.setattr(_listener, "PROVEN_WITHIN_S", DEADLINE_S)
    packed = HELLO.packed()
    handshake = Handshake(True, packed, KEY)
    with ExitStack() as stack, connection(door, packed + handshake.write(b"")) as sock:
        told = sock.recv(ANSWER_BYTES + SECOND_BYTES, socket.MSG_WAITALL)
        for n in range(20):
            silent = socket.create_connection(door.address, source_address=(f"127.0.0.{100 + n}", 0))
            stack.enter_context(silent).sendall(b"r")
        eventually(lambda: door.listener.strangers == 17)
        handshake.read(told[ANSWER_BYTES:])
        sock.sendall(struct.pack("<IB3x", 0, 0) + handshake.split()[0].sign(0, b""))
        door.accepted().close()


def test_who_has_not_proven_himself_in_time_is_let_go(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "PROVEN_WITHIN_S", 3.0)  # enough to be answered
    with connection(door, b"r") as slow, connection(door, first_words()) as recorded:
        assert answered(slow) == b""
        assert len(answered(recorded)) == ANSWER_BYTES + SECOND_BYTES
    assert door.listener.strangers == 2
    still_works(door)


def test_who_speaks_byte_by_byte_gets_no_longer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "PROVEN_WITHIN_S", 0.2)
    with connection(door) as sock:
        sock.settimeout(0.01)
        said, ended = byte_by_byte(first_words()[:20]), False
        while not ended:
            try:
                sock.sendall(next(said))
                ended = sock.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                ended = True
    still_works(door)


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """Its bytes, and then none, for ever."""
    yield from (data[n : n + 1] for n in range(len(data)))
    while True:
        yield b""


def test_a_listener_without_descriptors_waits_for_some(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError(24, "Too many open files")] * 3)
    real = door.listener._socket

    class Scarce:
        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            for failure in failures:
                raise failure
            return real.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    monkeypatch.setattr(door.listener, "_socket", Scarce())
    with connection(door, b"r"):
        pass
    monkeypatch.setattr(door.listener, "_socket", real)
    still_works(door)


def test_a_fault_in_what_serves_one_peer_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with closing(Door()) as door:
        hand_over, door.listener._on_peer = door.listener._on_peer, lambda *_: 1 / 0  # type: ignore[assignment]
        with closing(door.dial()) as dialled:
            assert dialled.wait(DEADLINE_S)
        eventually(lambda: "was lost by a fault here" in caplog.text)
        door.listener._on_peer = hand_over
        still_works(door)


def test_whatever_is_said_first_the_listener_works_on(door: Door) -> None:
    chance = random.Random(11)
    with ExitStack() as stack:
        for n in range(400):
            words = bytearray(first_words() + bytes(24))
            for _ in range(chance.randrange(4)):
                words[chance.randrange(len(words))] = chance.randrange(256)
            said = bytes(words[: chance.choice([len(words), chance.randrange(len(words))])])
            if n % 10 == 0:
                said = chance.randbytes(chance.randrange(1, 300))
            sock = connection(door)
            stack.enter_context(sock)
            with suppress(OSError):  # he was turned away already
                sock.sendall(said)
            if n % 40 == 0:
                still_works(door)
    assert door.peers.empty()
    still_works(door)


def test_a_release_of_another_name_is_told_to_both(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    words = HELLO._replace(speaker=Release("9.9.9", 77)).packed()
    handshake = Handshake(True, words, KEY)
    with connection(door, words + handshake.write(b"")) as sock:
        told = sock.recv(4096)
        handshake.read(told[ANSWER_BYTES:])
        sock.sendall(struct.pack("<IB3x", 0, 0) + handshake.split()[0].sign(0, b""))
        with closing(door.accepted()) as channel:
            assert channel.release == Release("9.9.9", 77)


def test_closing_a_listener_keeps_what_it_has_handed_over_and_refuses_others(door: Door) -> None:
    dialled, accepted = door.pair()
    with closing(dialled), closing(accepted), connection(door, b"r") as stranger:
        door.listener.close()
        assert answered(stranger) == b""
        accepted.send(1, b"on")
        assert dialled.next() == (1, 2)
        with pytest.raises(ConnectionError):
            door.dial()
        door.listener.close()

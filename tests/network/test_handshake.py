"""How a connection between two links begins: who has not the key comes in nowhere, and who cannot dial hears why."""

from __future__ import annotations

import errno
import json
import pickle
import random
import socket
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ringcast.errors import LinkError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _keys, _noise
from ringcast.net.link._channel import ChannelClosedError
from ringcast.net.link._dial import DialError, dial
from ringcast.net.link._hello import (
    ANSWER_BYTES,
    FIRST_BYTES,
    HELLO_BYTES,
    SECOND_BYTES,
    Release,
    Why,
    answer,
    understood,
)
from ringcast.net.link._noise import Handshake, NoiseError
from tests.network.channels import BOTH, KEY, QUEUE, Door, Wiretap, flip
from tests.support import Background

HANDSHAKE_OUT = HELLO_BYTES + FIRST_BYTES
HANDSHAKE_BACK = ANSWER_BYTES + SECOND_BYTES
SOON = 0.2


def test_the_handshake_and_the_ciphers_are_those_of_the_published_vector() -> None:
    vector = json.loads(Path(__file__).with_name("noise_vector.json").read_text())
    assert vector["protocol_name"].encode() == _noise.PROTOCOL
    sides = [
        Handshake(
            who == "init", bytes.fromhex(vector[f"{who}_prologue"]), bytes.fromhex(vector[f"{who}_psks"][0]),
            X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[f"{who}_ephemeral"])),
        )
        for who in ("init", "resp")
    ]  # fmt: skip
    messages = [(bytes.fromhex(one["payload"]), bytes.fromhex(one["ciphertext"])) for one in vector["messages"]]
    for n, (payload, ciphertext) in enumerate(messages[:2]):
        assert sides[n].write(payload) == ciphertext
        assert sides[1 - n].read(ciphertext) == payload
    assert sides[0].hash == sides[1].hash == bytes.fromhex(vector["handshake_hash"])
    ciphers = [side.split() for side in sides]
    for n, (payload, ciphertext) in enumerate(messages[2:]):
        assert ciphers[n % 2][0].seal(0, payload) == ciphertext
        assert ciphers[1 - n % 2][1].open(0, ciphertext) == payload


def test_another_secret_or_prologue_is_found_out_by_the_first_message() -> None:
    first = Handshake(True, b"hello", KEY).write(b"")
    for prologue, secret in ((b"hallo", KEY), (b"hello", bytes(32))):
        with pytest.raises(NoiseError):
            Handshake(False, prologue, secret).read(first)
    with pytest.raises(NoiseError):
        Handshake(False, b"hello", KEY).read(first[:40])


def test_a_point_of_low_order_is_refused() -> None:
    listens = Handshake(False, b"", KEY)
    dials = Handshake(True, b"", KEY)
    dials.write(b"")
    with pytest.raises(NoiseError):
        dials.read(bytes(32) + bytes(16))
    with pytest.raises(NoiseError):
        listens.read(bytes(48))


def test_ipv6_addresses_are_dialled_and_listened_at() -> None:
    with closing(Door(ip="::1")) as door:
        dialled, accepted = door.pair()
        with closing(dialled), closing(accepted):
            assert dialled.peer.startswith("[::1]:")
            assert accepted.peer.startswith("[::1]:")
            assert dialled.release == accepted.release == Release()


def why(
    address: tuple[str, int], key: bytes = KEY, encrypt: bool = True, queue: int = QUEUE, seconds: float = 30.0
) -> DialError:
    with pytest.raises(DialError) as found:
        dial(address, queue, key, encrypt, Deadline(seconds), control=False)
    return found.value


def test_a_dial_that_fails_says_why() -> None:
    with closing(Door()) as door:
        assert why(door.address, key=bytes(32)).why is Why.WRONG_KEY
        assert why(door.address, encrypt=False).why is Why.OTHER_ENCRYPTION
        assert why(door.address, queue=QUEUE + 1).why is Why.UNKNOWN_QUEUE
        assert door.peers.empty()
    refused = why(door.address)
    assert refused.why is pickle.loads(pickle.dumps(refused)).why is Why.REFUSED
    assert f"127.0.0.1:{door.address[1]}" in str(refused)
    no_route = why(("255.255.255.255", 1), seconds=SOON)
    assert no_route.why is Why.NO_ROUTE
    assert "RINGCAST_ADVERTISE" in str(no_route)


def test_a_dial_without_descriptors_names_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "create_connection", refuse)
    refused = why(("127.0.0.1", 1))
    assert "a socket to 127.0.0.1:1: Too many open files; " in str(refused)
    assert "ulimit -n" in str(refused)
    assert "RINGCAST_ADVERTISE" not in str(refused)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", Why.NOT_A_LINK),
        (b"linked\r\n\x09\0" + bytes(6), Why.OTHER_VERSION),
        (b"linked\r\n\x01\0\x63" + bytes(5), Why.NOT_A_LINK),
        (b"linked\r\n\x01\0\0" + bytes(4) + b"\1" + bytes(SECOND_BYTES), Why.NOT_A_LINK),
        (b"linked\r\n\x01\0" + bytes(6) + bytes(SECOND_BYTES), Why.WRONG_KEY),
        (b"", Why.CLOSED),
        (b"linked", Why.CLOSED),
        (None, Why.TIMED_OUT),
    ],
)
def test_a_dial_says_what_it_found_in_place_of_a_link(said: bytes | None, reason: Why) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def say() -> None:
            sock, _ = listening.accept()
            with sock:
                while len(sock.recv(HANDSHAKE_OUT, socket.MSG_PEEK)) < HANDSHAKE_OUT:
                    pass
                sock.recv(HANDSHAKE_OUT)
                sock.sendall(said or b"")

        answering = None if said is None else Background(say)
        assert why(listening.getsockname(), seconds=30 if said is not None else SOON).why is reason
        if answering is not None:
            answering.result()


@BOTH
def test_a_flipped_bit_anywhere_in_a_handshake_lets_nobody_in(encrypt: bool) -> None:
    with closing(Door(encrypt)) as door:
        places = [(True, at) for at in range(HANDSHAKE_OUT + 24)] + [(False, at) for at in range(HANDSHAKE_BACK)]
        for outwards, at in places:
            with closing(Wiretap(door.address, flip(outwards, at))) as tap:
                try:
                    channel = door.dial(tap.address)
                except DialError:
                    continue
                assert outwards, "who dials has believed what was changed"
                assert at >= HANDSHAKE_OUT, "who listens has believed what was changed"
                with closing(channel), pytest.raises(ChannelClosedError):
                    channel.next()
        assert door.peers.empty()
        dialled, accepted = door.pair()
        dialled.close()
        accepted.close()


def test_a_dial_believes_nothing_of_what_is_no_answer() -> None:
    for seed in range(1000):
        chance = random.Random(seed)
        data = bytearray(answer(None))
        for _ in range(chance.randrange(1, 4)):
            data[chance.choice([8, 10, chance.randrange(ANSWER_BYTES)])] = chance.randrange(256)
        assert understood(bytes(data))[1] is not None or data == answer(None)


def test_keys_travel_or_are_made_of_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGCAST_SECRET", raising=False)
    travels = _keys.to_travel()
    assert travels is not None
    assert travels != _keys.to_travel()
    assert _keys.key_of(5, travels) == travels
    with pytest.raises(LinkError, match="RINGCAST_SECRET, which is not set here"):
        _keys.key_of(5, None)
    with pytest.raises(LinkError, match="3 bytes"):
        _keys.key_of(5, b"key")
    monkeypatch.setenv("RINGCAST_SECRET", "0123456789" * 3)
    assert _keys.to_travel() is None
    keys = [_keys.key_of(epoch, None) for epoch in (5, 6, 5)]
    assert keys[0] == keys[2] != keys[1]
    assert [len(key) for key in keys] == [32] * 3
    with pytest.raises(LinkError, match="set it on the writer's machine, too"):
        _keys.key_of(5, travels)

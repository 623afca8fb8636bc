"""A connection between two links: what is sent comes as it was, or the connection ends and says why."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import pytest

from ringcast._core import Cipher
from ringcast.errors import ArgumentError, LinkError
from ringcast.net._deadline import Deadline
from ringcast.net.link._channel import MAX_RECORD, Channel, ChannelClosedError, ChannelForgedError
from ringcast.net.link._dial import dial
from ringcast.net.link._hello import (
    Release,
)
from tests.network.channels import BOTH, KEY, QUEUE, Door, connected, random_bytes, raw
from tests.support import DEADLINE_S, Background, Child, Link

SOON = 0.2


def received(channel: Channel) -> tuple[int, bytes]:
    kind, length = channel.next()
    payload = bytes(channel.read())
    assert len(payload) == length
    return kind, payload


def send_all(channel: Channel, payloads: Iterable[bytes]) -> None:
    for payload in payloads:
        channel.send(1, payload)


def record(cipher: Cipher, kind: int, payload: bytes, encrypt: bool = True) -> bytes:
    body = cipher.seal(kind, payload) if encrypt else payload + cipher.sign(kind, payload)
    return struct.pack("<IB3x", len(payload), kind) + body


@BOTH
def test_records_of_all_sizes_come_as_they_were_sent_both_ways(encrypt: bool) -> None:
    sizes = [0, 1, 7, 8, 64, 1000, 16383, 16384, 16385, 65536, 100_000, MAX_RECORD - 1, MAX_RECORD]
    with connected(encrypt) as ends:
        for sender, receiver in (ends, ends[::-1]):
            sent = [(1 + n % 255, random_bytes(size)) for n, size in enumerate(sizes * 2)]

            def send(sender: Channel = sender, sent: list[tuple[int, bytes]] = sent) -> None:
                for kind, payload in sent:
                    sender.send(kind, memoryview(payload))

            sending = Background(send)
            assert [received(receiver) for _ in sent] == sent
            sending.result()
            assert sender.sent_bytes == receiver.received_bytes == sum(len(payload) + 24 for _, payload in sent)


@BOTH
def test_payloads_are_received_into_memory_of_the_callers_between_others_that_are_read(encrypt: bool) -> None:
    shuffled = random.Random(7)
    sizes = [shuffled.choice([0, 3, 64, 5000, 70_000, MAX_RECORD]) for _ in range(120)]
    payloads = [random_bytes(size) for size in sizes]
    with connected(encrypt) as (sender, receiver):
        sending = Background(send_all, sender, payloads)
        for payload in payloads:
            kind, length = receiver.next()
            assert (kind, length) == (1, len(payload))
            way = shuffled.choice(["read", "into", "leave out"])
            if way == "read":
                assert receiver.read() == payload
            elif way == "into":
                target = bytearray(length)
                receiver.read_into(memoryview(target))
                assert target == payload
        sending.result()


@BOTH
def test_the_memory_for_a_payload_has_exactly_its_length_and_payloads_are_read_once(encrypt: bool) -> None:
    with connected(encrypt) as (sender, receiver):
        sender.send(1, b"12345")
        assert receiver.next() == (1, 5)
        with pytest.raises(ArgumentError, match=r"6 bytes, the record 5"):
            receiver.read_into(bytearray(6))
        target = bytearray(5)
        receiver.read_into(target)
        assert target == b"12345"
        with pytest.raises(ArgumentError, match="once"):
            receiver.read()


def test_only_records_that_can_be_sent_are() -> None:
    with connected() as (sender, receiver):
        for kind, payload in ((0, b""), (256, b""), (1, bytes(MAX_RECORD + 1))):
            with pytest.raises(ArgumentError, match="a record has a kind from 1 to 255"):
                sender.send(kind, payload)
        sender.send(2, memoryview(bytearray(8)).cast("I"))
        assert received(receiver) == (2, bytes(8))


@BOTH
def test_many_small_records_come_by_few_calls(encrypt: bool) -> None:
    with raw(encrypt) as (sock, receiver, cipher):
        sock.sendall(b"".join(record(cipher, 1, b"%4d" % n, encrypt) for n in range(500)))
        sock.shutdown(socket.SHUT_WR)
        assert [received(receiver)[1] for _ in range(500)] == [b"%4d" % n for n in range(500)]
        assert receiver.receives < 50


@BOTH
def test_a_large_record_in_the_clear_is_received_without_a_copy_in_between(encrypt: bool) -> None:
    with connected(encrypt) as (sender, receiver):
        sending = Background(send_all, sender, [bytes(MAX_RECORD)] * 8)
        target = bytearray(MAX_RECORD)
        for _ in range(8):
            receiver.next()
            receiver.read_into(target)
        sending.result()
        assert (receiver.placed_bytes > 6 * MAX_RECORD) is not encrypt


@BOTH
def test_waiting_ends_with_a_whole_record_or_the_end_and_not_before(encrypt: bool) -> None:
    with raw(encrypt) as (sock, receiver, cipher):
        assert not receiver.wait(0)
        assert not receiver.wait(0.01)
        data = record(cipher, 3, random_bytes(100_000), encrypt) + record(cipher, 4, b"", encrypt)
        for piece in (data[:5], data[5:20], data[20:90_000]):
            sock.sendall(piece)
            assert not receiver.wait(0.01)
        waiting = Background(receiver.wait, DEADLINE_S)
        sock.sendall(data[90_000:])
        assert waiting.result()
        assert receiver.next() == (3, 100_000)
        assert receiver.wait(0)
        receiver.read()
        assert receiver.wait(DEADLINE_S)
        assert received(receiver) == (4, b"")
        waiting = Background(receiver.wait, DEADLINE_S)
        sock.shutdown(socket.SHUT_WR)
        assert waiting.result()
        for _ in range(2):
            with pytest.raises(ChannelClosedError, match="the other side closed it"):
                receiver.next()
            assert receiver.wait(0)


@BOTH
def test_keys_change_after_so_many_bytes_on_both_sides(encrypt: bool) -> None:
    sending, receiving = (Cipher(KEY, rekey_bytes=1000) for _ in range(2))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    unused = Cipher(KEY), Cipher(KEY)
    sender = Channel(here, (sending, unused[1]), encrypt, "there", Release())
    receiver = Channel(there, (unused[0], receiving), encrypt, "here", Release())
    with closing(sender), closing(receiver):
        keys = set()
        for n in range(100):
            sender.send(1, b"%100d" % n)
            assert received(receiver) == (1, b"%100d" % n)
            assert sending.key == receiving.key
            keys.add(sending.key)
    assert len(keys) == 12, "one more for each 1000 of 100 * 116 bytes, and the first"


WAYS = ("openssl", "cryptography", "size")
"""Whose AES-256-GCM it is."""


@pytest.mark.parametrize("nbytes", [0, 1, 16, 1000, 98303, 98304, MAX_RECORD])
def test_whoever_makes_the_records_they_are_the_same(nbytes: int) -> None:
    payload = random_bytes(nbytes)
    ciphers = [Cipher(KEY, rekey_bytes=3000, by=way) for way in WAYS]
    others = [Cipher(KEY, rekey_bytes=3000, by=way) for way in WAYS[::-1]]
    for n in range(6):
        sealed, *same = (one.seal(n, payload) for one in ciphers)
        assert same == [sealed] * 2
        assert [one.open(n, sealed) for one in others] == [payload] * 3
        tag, *same = (one.sign(n, payload) for one in ciphers)
        assert same == [tag] * 2
        assert [one.verify(n, payload, tag) for one in others] == [True] * 3
        assert len({one.key for one in (*ciphers, *others)}) == 1
    sealed = ciphers[0].seal(9, payload)
    for one in others:
        assert one.open(8, sealed) is None
        assert not one.verify(8, payload, sealed[-16:])
        assert one.open(9, sealed) == payload


@BOTH
@pytest.mark.parametrize("way", WAYS[1:])
def test_threads_send_and_receive_at_once_also_where_records_need_the_interpreters_lock(
    way: str, encrypt: bool
) -> None:
    """In the midst of what goes on without it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    keys = [bytes(32), KEY]
    ciphers = [tuple(Cipher(key, by=way) for key in order) for order in (keys, keys[::-1])]
    first = Channel(here, (ciphers[0][0], ciphers[0][1]), encrypt, "there", Release())
    second = Channel(there, (ciphers[1][0], ciphers[1][1]), encrypt, "here", Release())
    payloads = [random_bytes(size) for size in (0, 5, 3000, 70_000, MAX_RECORD)] * 10
    with closing(first), closing(second):
        sending = [Background(send_all, end, payloads) for end in (first, first, second)]
        assert [len(received(first)[1]) for _ in payloads] == [len(payload) for payload in payloads]
        got = sorted(received(second)[1] for _ in range(2 * len(payloads)))
        assert got == sorted(payloads * 2)
        for one in sending:
            one.result()


@BOTH
def test_a_flipped_bit_anywhere_in_a_record_ends_the_connection_before_it_is_believed(encrypt: bool) -> None:
    payload = random_bytes(40)
    for at in range(8 + 40 + 16):
        with raw(encrypt) as (sock, receiver, cipher):
            good, bad = record(cipher, 5, payload, encrypt), bytearray(record(cipher, 6, payload, encrypt))
            bad[at] ^= 1 << at % 8
            sock.sendall(good + bad)
            sock.shutdown(socket.SHUT_WR)
            assert received(receiver) == (5, payload)
            with pytest.raises(LinkError):
                received(receiver)
            with pytest.raises(LinkError):
                receiver.next()


@BOTH
@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 2, 1)], ids=["repeated", "left out", "exchanged"])
def test_records_are_believed_in_their_order_only(encrypt: bool, order: tuple[int, ...]) -> None:
    for into in (False, True):
        with raw(encrypt) as (sock, receiver, cipher):
            records = [record(cipher, 1, bytes([n]) * 30, encrypt) for n in range(3)]
            sock.sendall(b"".join(records[n] for n in order))

            def hear(receiver: Channel = receiver, into: bool = into) -> None:
                for n in range(len(order)):
                    _, length = receiver.next()
                    if into:
                        target = bytearray(length)
                        receiver.read_into(target)
                    else:
                        target = bytearray(receiver.read())
                    assert target == bytes([n]) * 30

            with pytest.raises(ChannelForgedError, match="somebody changed it"):
                hear()
            with pytest.raises(ChannelForgedError, match="somebody changed it"):
                receiver.next()
            with pytest.raises(ChannelForgedError):
                receiver.send(1, b"")


@BOTH
@pytest.mark.parametrize("kept", [1, 7, 8, 20, 47])
def test_a_record_that_is_cut_off_is_never_seen(encrypt: bool, kept: int) -> None:
    with raw(encrypt) as (sock, receiver, cipher):
        sock.sendall(record(cipher, 1, bytes(24), encrypt)[:kept])
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ChannelClosedError, match="the other side closed it"):
            received(receiver)
        with pytest.raises(ChannelClosedError, match="the other side closed it"):
            received(receiver)  # what there was of it is no record either


def test_who_takes_nothing_for_too_long_is_cut_off_and_told_so() -> None:
    with connected() as (here, _):
        here.limit_sending(SOON)
        with pytest.raises(ChannelClosedError, match="the other side takes nothing"):
            send_all(here, [bytes(MAX_RECORD)] * 10_000)
        with pytest.raises(ChannelClosedError, match="the other side takes nothing"):
            here.send(1, b"")


@pytest.mark.parametrize(
    "head", [b"\xff" * 4 + b"\1\0\0\0", struct.pack("<IB3x", MAX_RECORD + 1, 1), bytes(8), b"\1" * 8]
)
def test_who_lies_about_a_length_is_cut_off_and_gets_no_memory(head: bytes) -> None:
    with raw() as (sock, receiver, _):
        sock.sendall(head)
        with pytest.raises(ChannelForgedError, match="no record"):
            receiver.next()
    with raw() as (sock, receiver, _):
        sock.sendall(head)
        assert receiver.wait(DEADLINE_S)
        with pytest.raises(ChannelForgedError, match="no record"):
            receiver.next()


def test_whatever_comes_over_a_connection_ends_it_by_an_error_of_its_own() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        encrypt = chance.random() < 0.5
        with raw(encrypt) as (sock, receiver, cipher):
            data = bytearray(
                b"".join(record(cipher, 1, chance.randbytes(chance.randrange(200)), encrypt) for _ in range(5))
            )
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(data))
                change = chance.choice(["byte", "insert", "delete"])
                if change == "byte":
                    data[at] = (data[at] + chance.randrange(1, 256)) % 256
                elif change == "insert":
                    data[at:at] = chance.randbytes(chance.randrange(1, 30))
                else:
                    del data[at : at + chance.randrange(1, 30)]
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            ways: list[Callable[[Channel, int], object]] = [
                lambda one, _: one.read(), lambda one, length: one.read_into(bytearray(length)),
                lambda one, _: one.wait(0),
            ]  # fmt: skip

            def hear(receiver: Channel = receiver, chance: random.Random = chance, ways: Any = ways) -> None:
                for _ in range(6):
                    _, length = receiver.next()
                    chance.choice(ways)(receiver, length)

            with pytest.raises(LinkError):
                hear()


@BOTH
def test_closing_in_another_thread_ends_a_blocked_send_and_a_blocked_receive(encrypt: bool) -> None:
    with connected(encrypt) as (here, there):
        sending = Background(send_all, here, [bytes(MAX_RECORD)] * 10_000)
        receiving = Background(here.next)
        waiting = Background(there.wait, DEADLINE_S)
        waiting.result()
        before = -1
        while before != here.sent_bytes:  # until the system takes no more
            before = here.sent_bytes
            sending._thread.join(SOON)
        assert sending.running
        assert receiving.running
        here.close()
        for blocked in (sending, receiving):
            with pytest.raises(ChannelClosedError, match="closed here"):
                blocked.result()
        for use in (here.next, lambda: here.send(1, b"")):
            with pytest.raises(ChannelClosedError, match="closed here"):
                use()
        assert here.wait(0)
        here.close()


@BOTH
def test_the_descriptor_is_closed_once_no_call_uses_it(encrypt: bool) -> None:
    with connected(encrypt) as (here, there):
        descriptor = here.fileno()
        receiving = Background(here.next)
        assert not there.wait(SOON)
        here.close()
        with pytest.raises(ChannelClosedError):
            receiving.result()
        assert here.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        assert there.wait(DEADLINE_S)


def test_a_connection_over_which_nothing_goes_is_kept_alive_by_the_system() -> None:
    with connected() as ends:
        for end in ends:
            with socket.socket(fileno=os.dup(end.fileno())) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                idle = 0x10 if sys.platform == "darwin" else socket.TCP_KEEPIDLE  # TCP_KEEPALIVE
                assert sock.getsockopt(socket.IPPROTO_TCP, idle) <= 60


def test_what_was_sent_before_the_other_side_went_is_received_also_after_a_send_has_failed() -> None:
    with connected() as (here, there):
        for n in range(10):
            there.send(1, b"%d" % n)
        there.close()
        with pytest.raises(ChannelClosedError):
            send_all(here, [bytes(1000)] * 10_000)
        assert [received(here)[1] for _ in range(10)] == [b"%d" % n for n in range(10)]
        with pytest.raises(ChannelClosedError):
            here.next()


def _dial_and_send(link: Link, address: tuple[str, int], encrypt: bool) -> None:
    channel = dial(address, QUEUE, KEY, encrypt, Deadline(DEADLINE_S), control=True)
    for n in range(1000):
        channel.send(7, n.to_bytes(4, "little") * (n % 300))
    channel.next()
    link.send("answered")
    channel.next()


@BOTH
def test_two_processes_talk_and_one_learns_of_the_others_end(encrypt: bool) -> None:
    with closing(Door(encrypt)) as door:
        child = Child(_dial_and_send, door.address, encrypt)
        try:
            peer = door.peers.get(timeout=DEADLINE_S)
            assert (peer.queue, peer.control) == (QUEUE, True)
            with closing(peer.channel) as channel:
                for n in range(1000):
                    assert received(channel) == (7, n.to_bytes(4, "little") * (n % 300))
                channel.send(1, b"")
                assert child.receive() == "answered"
                child.signal(signal.SIGKILL)
                with pytest.raises(ChannelClosedError):
                    channel.next()
        finally:
            child.discard()

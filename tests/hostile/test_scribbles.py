"""Shared memory that is overwritten while a queue is in use: typed errors or plain waiting, never a crash.

A segment's own user could do worse (DESIGN.md, section 7); what is promised is that no length, offset or word that was
read from shared memory is believed. Each scenario runs in a process of its own, where a fault shows as a signal.
"""

from __future__ import annotations

import gc
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import mmap
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import CorruptError, QueueTimeoutError, RingcastError
from ringcast.instruments import list_queues
from tests.support import Child, Link, mapped, unique_name

KIB = 1 << 10
SIZES: dict[str, Any] = {"max_chunk_bytes": 256 * KIB, "max_chunks": 4, "max_leases": 8, "max_bytes": 2 << 20}
INLINE = (1 << 64) - 1
EDGES = (0, 1, 7, 8, 31, 64, 255, 256, 4096, 65535, 65536, 1 << 20, 1 << 21, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63)
DESCRIPTOR = struct.Struct("=QQIBBH")  # length, block, row, encoding, framed, padding
CONTROL, SEATS, SEAT_BYTES, SLOT_HEADER_BYTES = 4096, 4096 + 1024, 640, 32


class Layout:
    """Where things lie in a queue's segment, as its header says."""

    def __init__(self, memory: mmap) -> None:
        self.slot_bytes = int(struct.unpack_from("=I", memory, 76)[0])
        self.slots, self.marks, self.data = (int(n) for n in struct.unpack_from("=QQQ", memory, 96))

    def descriptor(self, position: int) -> int:
        return self.slots + position % int(SIZES["max_chunks"]) * self.slot_bytes + 8


def messages() -> list[Any]:
    """Of every encoding, in slots and in blocks, framed and not."""
    large = np.arange(20_000)
    return [b"raw", b"r" * 5000, np.arange(5), large, ["pickle", 1], ["p" * 3000], [large, "framed"], [np.arange(9), 0]]


class Pair:
    def __init__(self, **options: Any) -> None:
        self.writer = MessageQueue(1, **SIZES, **options)
        self.reader = MessageQueue.create_from_handle(self.writer.export_handle(), 0, zero_copy=True)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        with suppress(QueueTimeoutError):  # scribbles may say that readers are missing
            self.writer.close(0)

    def check_usable(self) -> None:
        """After any number of bad messages, good ones arrive."""
        gc.collect()
        for n in range(6):
            self.writer.enqueue(np.full(9000, n), timeout=10)
            assert int(self.reader.dequeue(10)[-1]) == n


def _touch(message: Any) -> None:
    """Reads all of what was received."""
    if isinstance(message, list):
        for part in message:
            _touch(part)
    elif isinstance(message, np.ndarray):
        message.tobytes() if message.nbytes < 8 << 20 else None
    elif isinstance(message, bytes | memoryview):
        bytes(message)


def _receive_anything(reader: MessageQueue) -> str:
    try:
        _touch(reader.dequeue(0.1))
    except RingcastError as error:
        return type(error).__name__
    return "received"


def _patched_descriptors(chance: random.Random) -> Iterator[dict[int, int]]:
    """Each field at its edges, one at a time; then all at random."""
    for field in range(6):
        width = (64, 64, 32, 8, 8, 16)[field]
        for value in {edge & ((1 << width) - 1) for edge in (*EDGES, INLINE, INLINE - 63)}:
            yield {field: value}
    for _ in range(300):
        length, block = (chance.choice((*EDGES, chance.getrandbits(64))) for _ in range(2))
        row, encoding = chance.choice((*range(9), 1 << 31)), chance.randrange(5)
        yield {0: length, 1: chance.choice((block & INLINE, INLINE)), 2: row, 3: encoding, 4: chance.randrange(3)}


def _descriptors(link: Link, codec: str) -> None:
    chance = random.Random(7)
    outcomes: dict[str, int] = {}
    with Pair(name=unique_name(), codec=codec) as pair, mapped(pair.writer.segment) as memory:
        layout = Layout(memory)
        for patch in _patched_descriptors(chance):
            position = pair.writer.stats()["messages"]
            pair.writer.enqueue(chance.choice(messages()), timeout=10)
            fields = list(DESCRIPTOR.unpack_from(memory, layout.descriptor(position)))
            good = fields.copy()
            for field, value in patch.items():
                fields[field] = value
            DESCRIPTOR.pack_into(memory, layout.descriptor(position), *fields)
            outcome = _receive_anything(pair.reader)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if outcome == "CorruptError" and pair.reader.qsize() == 1:  # a message that cannot be found is not consumed
                DESCRIPTOR.pack_into(memory, layout.descriptor(position), *good)
                assert _receive_anything(pair.reader) == "received"
            elif fields[2] != good[2] or fields[1] != good[1]:  # another message's mark was set: set this one's
                struct.pack_into("=Q", memory, layout.marks + 8 * good[2], position + 1)
        pair.check_usable()
    link.send(outcomes)


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
def test_descriptors_with_any_values_are_errors_and_the_reader_goes_on(codec: str, start: Callable[..., Child]) -> None:
    outcomes = start(_descriptors, codec).receive()
    assert all(outcomes[outcome] > 5 for outcome in ("CorruptError", "received", "DecodeError")), outcomes


def _payloads(link: Link, codec: str) -> None:
    chance = random.Random(11)
    outcomes: dict[str, int] = {}
    with Pair(name=unique_name(), codec=codec) as pair, mapped(pair.writer.segment) as memory:
        layout = Layout(memory)
        for number in range(1500):
            position = pair.writer.stats()["messages"]
            pair.writer.enqueue(messages()[number % 8], timeout=10)
            length, block, *_ = DESCRIPTOR.unpack_from(memory, layout.descriptor(position))
            begin = layout.descriptor(position) + 24 if block == INLINE else layout.data + block
            # Tables of frames and headers of arrays are at the beginning.
            for _ in range(chance.randint(1, 3)):
                at = begin + min(chance.randrange(64), length - 1) // 8 * 8
                patch = struct.pack("=Q", chance.choice((*EDGES, INLINE, chance.getrandbits(64))))
                size = min(chance.choice((1, 2, 4, 8)), begin + length - at)
                memory[at : at + size] = patch[:size]
            outcome = _receive_anything(pair.reader)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        pair.check_usable()
        assert pair.reader.qsize() == 0
    link.send(outcomes)


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
def test_payloads_with_any_bytes_are_errors_and_consumed(codec: str, start: Callable[..., Child]) -> None:
    outcomes = start(_payloads, codec).receive()
    assert all(outcomes[outcome] > 10 for outcome in ("CorruptError", "received", "DecodeError")), outcomes


def _words(link: Link, whose: str) -> None:
    """Garbage in the words that one side writes and the other reads, while both call whatever there is to call."""
    chance = random.Random(13)
    # state, pid namespace, join position, rank and pid, cursor, leased blocks and bytes, parked, CPUs, whose counts of
    # waits are, two of these; of any seat
    seat = (0, 8, 16, 24, 28, 128, 136, 144, 256, 384, 512, 520, 576)
    for _ in range(20):
        with Pair(name=unique_name(), wait="park") as pair, mapped(pair.writer.segment) as memory:
            layout = Layout(memory)
            places = {
                "seats": [SEATS + SEAT_BYTES * n + word for n in (0, 1, 8) for word in seat],
                "control": [CONTROL + word for word in (0, 128, 256, 260, 384, 392, 400, 408, 416, 512, 896, 904, 960)],
                "marks": list(range(layout.marks, layout.data, 8))[:200],
                "sequences": [layout.descriptor(n) - 8 for n in range(4)],
            }[whose]
            for number in range(12):
                for _ in range(chance.randint(1, 4)):
                    value = chance.choice((*EDGES, INLINE, INLINE - 1, chance.getrandbits(64), chance.randrange(1024)))
                    struct.pack_into("=Q", memory, chance.choice(places), value)
                calls: list[Callable[[], Any]] = [
                    lambda: pair.writer.enqueue(np.arange(9000), timeout=0.005),
                    lambda: pair.writer.enqueue(b"x", timeout=0.005),
                    lambda: _touch(pair.reader.dequeue(timeout=0.005)),
                    pair.writer.stats,
                    pair.reader.stats,
                    lambda: (pair.writer.qsize(), pair.reader.qsize(), repr(pair.reader)),
                    lambda: pair.writer.wait_until_ready(0.005),
                    lambda: pair.reader.wait_until_ready(0.005),
                    list_queues,
                ]
                if number == 11:
                    calls.append(lambda: pair.writer.evict(0))
                chance.shuffle(calls)
                for call in calls:
                    with suppress(RingcastError):
                        call()
            assert pair.writer.name is not None
            with suppress(RingcastError):
                MessageQueue.attach(pair.writer.name, timeout=0).close()
    link.send("survived")


@pytest.mark.parametrize("whose", ["seats", "control", "marks", "sequences"])
def test_words_with_any_values_stall_or_raise_but_crash_nobody(whose: str, start: Callable[..., Child]) -> None:
    assert start(_words, whose).receive() == "survived"


def test_a_message_larger_than_any_writer_could_send_is_refused_before_memory_is_taken_for_it() -> None:
    with Pair(name=unique_name()) as pair, mapped(pair.writer.segment) as memory:
        budget = pair.writer.stats()["memory"]["data_budget"]
        pair.writer.enqueue(b"r" * 5000)
        layout = Layout(memory)
        struct.pack_into("=QQ", memory, layout.descriptor(0), budget + 1, 0)  # inside the data part's address space
        with pytest.raises(CorruptError, match="impossible descriptor"):
            pair.reader.dequeue(1)

"""The freeze test: sustained load without a pause, mixed sizes, every byte and every position checked.

The reference froze at about its 492nd message and any instrumentation hid it. Here each reader computes what message
number n has to be and compares. RINGCAST_SOAK_BATCH is the number of messages in each of the 1,440 batches: 1,000 in
`make soak`, few in a default run. RINGCAST_MARATHON multiplies the messages of the marathons, which are sent as fast as
batches go: by 1,000 in `make soak`.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable

import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import QueueClosedError
from tests.support import FORGIVEN_RESCUES, Child, Link

BATCHES = 1440
BATCH = int(os.environ.get("RINGCAST_SOAK_BATCH", "40"))
TOTAL = BATCHES * BATCH

_NOISE = random.Random(1).randbytes((1 << 20) + 4096)
_SIZES = [40, 64, 100, 333, 1000, 1104, 1105, 2000, 9000, 40_000, 65_536, 200_000, 700_000]
_WEIGHTS = [30, 20, 20, 10, 8, 3, 3, 3, 2, 0.6, 0.2, 0.15, 0.05]
_PLAN = random.Random(2).choices(_SIZES, _WEIGHTS, k=9973)  # a prime, so that sizes meet every slot
HEADER_BYTES = 16


def message(number: int) -> bytes:
    """Sequence number, checksum of the rest, and noise of a size that follows from the number."""
    size = _PLAN[number % len(_PLAN)]
    start = number * 61 % 4096
    body = _NOISE[start : start + size - HEADER_BYTES]
    return number.to_bytes(8, "little") + zlib.crc32(body, number & 0xFFFF).to_bytes(8, "little") + body


def check(number: int, received: bytes) -> None:
    assert int.from_bytes(received[:8], "little") == number, "lost, repeated or out of order"
    assert len(received) == _PLAN[number % len(_PLAN)]
    checksum = zlib.crc32(memoryview(received)[HEADER_BYTES:], number & 0xFFFF)
    assert checksum == int.from_bytes(received[8:16], "little"), f"message {number} is torn"


def _receive(link: Link, handle: Handle, rank: int, batches: bool) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    link.send("attached")
    number = 0
    try:
        while True:
            for received in reader.dequeue_many(50) if batches else [reader.dequeue()]:
                check(number, received)
                number += 1
    except QueueClosedError:
        pass
    link.send((number, reader.stats()["rescued_wakes"]))


@pytest.mark.parametrize("n_reader", [1, 3, 8])
def test_sustained_load_of_mixed_sizes_arrives_whole_and_in_order(n_reader: int, start: Callable[..., Child]) -> None:
    with MessageQueue(n_reader) as writer:
        handle = writer.export_handle()
        readers = [start(_receive, handle, rank, rank % 2 == 1) for rank in range(n_reader)]
        for reader in readers:
            assert reader.receive() == "attached"
        writer.wait_until_ready(60)
        for number in range(TOTAL):
            writer.enqueue(message(number), timeout=120)
        stats = writer.stats()
        writer.close()
        assert stats["messages"] == TOTAL
        assert stats["rescued_wakes"] <= FORGIVEN_RESCUES
        for reader in readers:
            received, rescued = reader.receive(timeout=300)
            assert received == TOTAL
            assert rescued <= FORGIVEN_RESCUES
            assert reader.join() == 0


@pytest.mark.parametrize("wait", ["park", "yield"])
def test_sustained_load_on_a_short_ring_parks_on_both_ends_and_loses_no_wake_up(
    wait: str, start: Callable[..., Child]
) -> None:
    with MessageQueue(2, max_chunks=2, wait=wait) as writer:
        readers = [start(_receive, writer.export_handle(), rank, False, env={"RINGCAST_WAIT": wait}) for rank in (0, 1)]
        writer.wait_until_ready(60)
        total = max(TOTAL // 10, 2000)
        for number in range(total):
            writer.enqueue(message(number), timeout=120)
        assert writer.stats()["rescued_wakes"] <= FORGIVEN_RESCUES
        writer.close()
        for reader in readers:
            assert reader.receive() == "attached"
            received, rescued = reader.receive(timeout=300)
            assert received == total
            assert rescued <= FORGIVEN_RESCUES


MARATHON = int(os.environ.get("RINGCAST_MARATHON", "1"))
# What is sent round and round. A prime, so that a message meets every slot; reader and writer make the same.
_CYCLE = [_NOISE[7 * n : 7 * n + 24 + n % 80] for n in range(9973)]
_STRETCH = 64


def _run(link: Link, handle: Handle, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    reader.wait_until_ready(60)
    twice = _CYCLE + _CYCLE[:_STRETCH]
    total = position = 0
    try:
        while True:
            received = reader.dequeue_many(_STRETCH)
            # Byte for byte, which is more than a checksum says.
            assert received == twice[position : position + len(received)], f"not what follows message {total}"
            total += len(received)
            position = total % len(_CYCLE)
    except QueueClosedError:
        pass
    link.send((total, reader.stats()["rescued_wakes"]))


@pytest.mark.parametrize(("n_reader", "thousands"), [(2, 100), (8, 20)])
def test_a_marathon_without_a_pause(n_reader: int, thousands: int, start: Callable[..., Child]) -> None:
    total = 1000 * thousands * MARATHON
    with MessageQueue(n_reader, max_chunks=1024) as writer:
        readers = [start(_run, writer.export_handle(), rank) for rank in range(n_reader)]
        writer.wait_until_ready(60)
        begin = time.monotonic()
        for _ in range(total // len(_CYCLE)):
            writer.enqueue_many(_CYCLE, timeout=120)
        writer.enqueue_many(_CYCLE[: total % len(_CYCLE)], timeout=120)
        rescued = writer.stats()["rescued_wakes"]
        writer.close()
        assert rescued <= FORGIVEN_RESCUES
        for reader in readers:
            received, rescued = reader.receive(timeout=600)
            assert received == total
            assert rescued <= FORGIVEN_RESCUES
        took = time.monotonic() - begin
    print(f"\n{total:,} messages to {n_reader} readers in {took:.1f} s, {total / took / 1e6:.2f} million a second")

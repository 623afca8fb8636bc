"""A stream of large payloads from one writer to its readers, timed and checked: the engine of the payload workloads.

The writer sends the same few messages in turn for a given time; then a mark ends the stream. The time runs from the
first message that any reader received to the mark at the slowest reader; the rate is of the messages after the first.
A warm-up in the same manner comes before, so that memory has been touched and each library has found its buffers.

Every reader looks at every message: at one element of every 4,096-byte page and at the last element, which differ from
message to message. Any message that is lost, repeated, out of order, torn or stale shows. Then it drops the message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bench import Bench
from ..crew import Member
from ..measure import Metric, Outcome
from ..peers.base import Payload, Subject
from ..settings import PAYLOAD_DEPTH, PAYLOAD_DESTINATIONS, PAYLOAD_SOURCES
from .base import Case, Workload, check, settle

PAGE_BYTES = 4096
#: Of the measurement's time, for the warm-up.
_WARM_UP_SHARE = 0.3
#: Room in a message for what a pickle adds.
_ROOM_BYTES = 64 << 10

FLOOR_LABEL = "native memcpy to shm"
RATE = Metric("rate", "GB/s a reader", "GB/s", better="higher")

Array = NDArray[Any]
Look = Callable[[Any], object]


@dataclass(frozen=True)
class Traffic:
    """The messages sent in turn, the mark that ends a stream, and how a reader looks at either.

    ``nbytes`` is what a message counts for.
    """

    messages: Sequence[Any]
    mark: Any
    look: Look
    nbytes: int
    payload: Payload


class PayloadWorkload(Workload):
    """What the workloads with large payloads share."""

    metrics = (RATE,)
    floor_label = FLOOR_LABEL


@lru_cache(maxsize=1)
def sources(nbytes: int, dtype: str) -> tuple[Array, ...]:
    """Arrays to send, touched, each with contents of its own, never 0 at their ends; kept from subject to subject."""
    made = []
    for number in range(1, PAYLOAD_SOURCES + 1):
        random = np.random.default_rng(number)
        length = nbytes // np.dtype(dtype).itemsize
        array: Array = (
            random.random(length, np.float32)
            if dtype == "float32"
            else random.integers(0, 256, length, dtype=np.dtype(dtype))
        )
        array[0] = array[-1] = number
        made.append(array)
    return tuple(made)


def mark(dtype: str) -> Array:
    """A page of zeros, as no source is."""
    return np.zeros(PAGE_BYTES // np.dtype(dtype).itemsize, dtype)


def look_at(array: Array) -> tuple[bytes, Any]:
    """One element of every page, and the last element."""
    return array[:: PAGE_BYTES // array.itemsize].tobytes(), array[-1]


def deliver(subject: Subject, case: Case, traffic: Traffic, bench: Bench) -> Outcome:
    """GB/s that the slowest of the readers received."""
    seconds = bench.settings.payload_seconds
    spec = bench.spec(case.n_readers, PAYLOAD_DEPTH, traffic.nbytes + _ROOM_BYTES, traffic.payload)
    address = subject.place(spec)

    def writer(member: Member) -> int:
        sender = subject.sender(spec, address, member.links)
        settle(sender)
        _send_for(seconds * _WARM_UP_SHARE, sender.send, traffic.messages)
        sender.send(traffic.mark)
        member.meet()
        count = _send_for(seconds, sender.send, traffic.messages)
        sender.send(traffic.mark)
        member.meet()
        sender.close()
        return count

    def reader(member: Member) -> tuple[int, int, int]:
        receiver = subject.receiver(spec, address, member.rank, member.links[0])
        settle(receiver)
        expected = [traffic.look(message) for message in traffic.messages]
        end = traffic.look(traffic.mark)
        _receive(receiver.recv, traffic.look, expected, end)
        member.meet()
        received = _receive(receiver.recv, traffic.look, expected, end)
        member.meet()
        receiver.close()
        return received

    sent, *all_received = bench.run(writer, [reader] * case.n_readers)
    check(all(count == sent for count, _, _ in all_received), f"of {sent} messages not all were received")
    begin = min(first for _, first, _ in all_received)
    finish = max(last for _, _, last in all_received)
    return Outcome({RATE.key: (sent - 1) * traffic.nbytes / (finish - begin)})


def floor(nbytes: int, bench: Bench) -> Outcome | None:
    """One memcpy between as many sources and destinations, in GB/s; the same for any number of readers."""
    if bench.floor is None:
        return None
    seconds = bench.settings.payload_seconds
    return Outcome({RATE.key: bench.floor.copy_between(nbytes, PAYLOAD_SOURCES, PAYLOAD_DESTINATIONS, seconds)})


def named(nbytes: int) -> str:
    """A size for tables."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def sized_cases(sizes: Iterable[int], n_readers: int = 1, group: str = "") -> list[Case]:
    """One case a size."""
    key = f"/{n_readers}" if group else ""
    return [Case(f"{named(size).replace(' ', '')}{key}", named(size), n_readers, group, size) for size in sizes]


def _send_for(seconds: float, send: Callable[[Any], object], messages: Sequence[Any]) -> int:
    """Send all messages again and again for so long, once at least; how many were sent."""
    now = time.perf_counter
    count = 0
    end = now() + seconds
    while True:
        for message in messages:
            send(message)
        count += len(messages)
        if now() >= end:
            return count


def _receive(recv: Callable[[], Any], look: Look, expected: Sequence[object], end: object) -> tuple[int, int, int]:
    """Receive up to the mark: how many messages came before it, and when the first and the mark came."""
    now = time.perf_counter_ns
    first = recv()
    begin = now()
    check(look(first) == expected[0], "message 0 is not the one sent")
    del first
    count = 1
    turns = cycle(expected)
    next(turns)
    for wanted in turns:
        got = look(recv())
        if got != wanted:
            break
        count += 1
    finish = now()
    check(got == end, f"message {count} is not the one sent")
    check(count % len(expected) == 0, f"after {count} messages the next one is missing")
    return count, begin, finish

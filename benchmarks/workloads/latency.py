"""One-way latency of a small message: two queues, there and back, half of each round trip.

Python has a message at both ends of each trip. The median is of blocks of trips, because one call of the clock costs
some tens of nanoseconds; the floor, a cache line that does the same in native code, is measured in the same way. Tails
are of single trips, each with its call of the clock.
"""

from __future__ import annotations

import time
from itertools import pairwise, repeat
from statistics import median

from ..bench import Bench
from ..crew import Member
from ..measure import Metric, Outcome
from ..peers.base import Receiver, Sender, Subject
from ..settings import DEPTH, MESSAGE_BYTES
from .base import Case, Workload, check, settle

#: Trips of a block, here and in the floor program.
_BLOCK = 16
_END = b"end".ljust(MESSAGE_BYTES)


class Latency(Workload):
    """See the module."""

    key = "latency"
    title = "One-way latency"
    explain = f"{MESSAGE_BYTES}-byte bytes, half of a round trip over two queues"
    metrics = (
        Metric("p50", "p50", "ns"),
        Metric("p99", "p99", "ns", pooled=99.0),
        Metric("p99_9", "p99.9", "ns", pooled=99.9),
    )
    floor_label = "native cache-line ping-pong"

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send so many messages there and back, one at a time."""
        trips = bench.settings.latency_trips
        warm_up, blocks = trips // 5, trips // _BLOCK
        there = bench.spec(1, DEPTH, MESSAGE_BYTES)
        back = there.second()
        to_there, to_back = subject.place(there), subject.place(back)

        def writer(member: Member) -> tuple[float, list[int]]:
            sender = subject.sender(there, to_there, member.links)
            receiver = subject.receiver(back, to_back, 0, member.links[0])
            settle(sender, receiver)
            member.meet()
            _warm_up(sender, receiver, warm_up)
            typical = _block_median(sender, receiver, blocks)
            samples = _single_trips(sender, receiver, trips)
            sender.send(_END)
            check(receiver.recv() == _END, "the number of messages that came back is not the number sent")
            member.meet()
            sender.close()
            receiver.close()
            return typical, samples

        def reader(member: Member) -> None:
            receiver = subject.receiver(there, to_there, 0, member.links[0])
            sender = subject.sender(back, to_back, member.links)
            settle(receiver, sender)
            member.meet()
            _echo(sender, receiver, warm_up + blocks * _BLOCK + trips)
            member.meet()
            receiver.close()
            sender.close()

        typical, samples = bench.run(writer, [reader])[0]
        return Outcome({"p50": typical}, samples)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """A cache line between the same two CPUs."""
        if bench.floor is None:
            return None
        return Outcome({"p50": bench.floor.ping_pong(bench.settings.floor_blocks)})


def _warm_up(sender: Sender, receiver: Receiver, trips: int) -> None:
    """Check every message on its way."""
    for number in range(trips):
        sent = number.to_bytes(8, "little").ljust(MESSAGE_BYTES)
        sender.send(sent)
        check(receiver.recv() == sent, "another message came back than was sent")


def _block_median(sender: Sender, receiver: Receiver, blocks: int) -> float:
    """The median over blocks of the mean one-way latency in a block, in ns."""
    send, recv, now = sender.send, receiver.recv, time.perf_counter_ns
    message = b"m" * MESSAGE_BYTES
    stamps = [0] * (blocks + 1)
    stamps[0] = now()
    for block in range(1, blocks + 1):
        for _ in repeat(None, _BLOCK):
            send(message)
            recv()
        stamps[block] = now()
    return median((after - before) / (2 * _BLOCK) for before, after in pairwise(stamps))


def _single_trips(sender: Sender, receiver: Receiver, trips: int) -> list[int]:
    """The one-way latency of each trip, in ns."""
    send, recv, now = sender.send, receiver.recv, time.perf_counter_ns
    message = b"m" * MESSAGE_BYTES
    returned = message
    stamps = [0] * (trips + 1)
    stamps[0] = now()
    for trip in range(1, trips + 1):
        send(message)
        returned = recv()
        stamps[trip] = now()
    check(returned == message, "another message came back than was sent")
    return [(after - before) // 2 for before, after in pairwise(stamps)]


def _echo(sender: Sender, receiver: Receiver, trips: int) -> None:
    """Send back what is received."""
    send, recv = sender.send, receiver.recv
    for _ in repeat(None, trips):
        send(recv())
    last = recv()
    check(last == _END, "the number of messages received is not the number sent")
    send(last)

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
from ..measure import Metric, Outcome, histogram, percentile
from ..peers.base import Receiver, Sender, Subject
from ..settings import DEPTH, MESSAGE_BYTES
from .base import Case, Workload
from .trips import checked_trips, echo_all, there_and_back, timed_trips

#: Trips of a block, here and in the floor program.
_BLOCK = 16
_END = b"end".ljust(MESSAGE_BYTES)
#: For the warm-up, in which each is checked.
_NUMBERED = [number.to_bytes(8, "little").ljust(MESSAGE_BYTES) for number in range(1000)]
_MESSAGE = b"m" * MESSAGE_BYTES


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

        def drive(sender: Sender, receiver: Receiver) -> tuple[float, list[int]]:
            checked_trips(sender, receiver, _NUMBERED, warm_up)
            typical = _block_median(sender, receiver, blocks)
            return typical, timed_trips(sender, receiver, (_MESSAGE,), trips)

        def answer(receiver: Receiver, sender: Sender) -> None:
            echo_all(receiver, sender, warm_up + blocks * _BLOCK + trips)

        there = bench.spec(1, DEPTH, MESSAGE_BYTES)
        (typical, samples), _ = there_and_back(subject, there, drive, answer, _END, bench)
        return Outcome({"p50": typical, "p99": percentile(histogram(samples), 99.0)}, samples)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """A cache line between the same two CPUs."""
        if bench.floor is None:
            return None
        return Outcome({"p50": bench.floor.ping_pong(bench.settings.floor_blocks)})


def _block_median(sender: Sender, receiver: Receiver, blocks: int) -> float:
    """The median over blocks of the mean one-way latency in a block, in ns."""
    send, recv, now = sender.send, receiver.recv, time.perf_counter_ns
    message = _MESSAGE
    stamps = [0] * (blocks + 1)
    stamps[0] = now()
    for block in range(1, blocks + 1):
        for _ in repeat(None, _BLOCK):
            send(message)
            recv()
        stamps[block] = now()
    return median((after - before) / (2 * _BLOCK) for before, after in pairwise(stamps))

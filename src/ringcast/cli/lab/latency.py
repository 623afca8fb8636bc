"""One-way latency of a small message: there and back, half of each round trip.

Python has a message at both ends of each trip; with several readers the trip is over when all of them have answered,
each over a queue of its own. The median is of blocks of trips, because one call of the clock costs some tens of
nanoseconds. Tails are of single trips, each with its call of the clock.
"""

from __future__ import annotations

import time
from itertools import pairwise, repeat
from statistics import median
from typing import ClassVar

from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench
from ringcast.cli.lab.measure import P50, P99, Metric, Outcome, latencies
from ringcast.cli.lab.subject import Receiver, Sender, Subject
from ringcast.cli.lab.trips import checked_trips, echo_all, there_and_back, timed_trips
from ringcast.cli.lab.workload import Case, Workload

#: Trips of a block, here and in the floor program.
BLOCK = 16
_END = b"end".ljust(MESSAGE_BYTES)
#: For the warm-up, in which each is checked.
_NUMBERED = [number.to_bytes(8, "little").ljust(MESSAGE_BYTES) for number in range(1000)]
_MESSAGE = b"m" * MESSAGE_BYTES


class Latency(Workload):
    """See the module."""

    key = "latency"
    title = "One-way latency"
    explain: ClassVar[str] = f"{MESSAGE_BYTES}-byte bytes, half of a round trip"
    metrics: ClassVar[tuple[Metric, ...]] = (P50, P99)
    trips: ClassVar[int] = 10_000

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send so many messages there and back, one at a time."""
        trips = bench.settings.count(self.trips)
        warm_up, blocks = -(-trips // 5), -(-trips // BLOCK)

        def drive(sender: Sender, receiver: Receiver) -> tuple[float, list[int]]:
            checked_trips(sender, receiver, _NUMBERED, warm_up)
            typical = _block_median(sender, receiver, blocks)
            return typical, timed_trips(sender, receiver, (_MESSAGE,), trips)

        def answer(receiver: Receiver, sender: Sender) -> None:
            echo_all(receiver, sender, warm_up + blocks * BLOCK + trips)

        there = bench.spec(case.n_readers, DEPTH, MESSAGE_BYTES)
        (typical, samples), _ = there_and_back(subject, there, drive, answer, _END, bench)
        return latencies(samples, p50=typical)


def _block_median(sender: Sender, receiver: Receiver, blocks: int) -> float:
    """The median over blocks of the mean one-way latency in a block, in ns."""
    send, recv, now = sender.send, receiver.recv, time.perf_counter_ns
    message = _MESSAGE
    stamps = [0] * (blocks + 1)
    stamps[0] = now()
    for block in range(1, blocks + 1):
        for _ in repeat(None, BLOCK):
            send(message)
            recv()
        stamps[block] = now()
    return median((after - before) / (2 * BLOCK) for before, after in pairwise(stamps))

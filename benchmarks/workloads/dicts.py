"""A dict there and back, as a scheduler's step and its answer: two queues, half of each round trip.

From just before the dict is sent to when it has come back as a Python object; so each end encodes and decodes it once
a trip, and nothing else is done in between. Every trip has its call of the clock. ringcast encodes dicts itself, its
peers pickle them.
"""

from __future__ import annotations

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.measure import P50, P99, Outcome, latencies
from ringcast.cli.lab.subject import Receiver, Sender, Subject
from ringcast.cli.lab.trips import checked_trips, echo_all, there_and_back, timed_trips
from ringcast.cli.lab.workload import Case, Workload

from .messages import END, STEP_DEPTH, most_bytes, pickled_bytes, step_of_work

#: Sent in turn.
DICTS = [step_of_work(number, 9) for number in range(64)]
DICT_BYTES = most_bytes(DICTS)
_TRIPS = 5_000


class Dicts(Workload):
    """See the module."""

    key = "dict"
    title = "A dict there and back"
    explain = f"{pickled_bytes(DICTS):,} bytes pickled, depth {STEP_DEPTH}, half of a round trip over two queues"
    metrics = (P50, P99)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send so many dicts there and back, one at a time."""
        trips = bench.settings.count(_TRIPS)
        warm_up = -(-trips // 5)

        def drive(sender: Sender, receiver: Receiver) -> list[int]:
            checked_trips(sender, receiver, DICTS, warm_up)
            return timed_trips(sender, receiver, DICTS, trips)

        def answer(receiver: Receiver, sender: Sender) -> None:
            echo_all(receiver, sender, warm_up + trips)

        there = bench.spec(1, STEP_DEPTH, DICT_BYTES, "object")
        samples, _ = there_and_back(subject, there, drive, answer, END, bench)
        return latencies(samples)

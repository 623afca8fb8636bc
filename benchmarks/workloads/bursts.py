"""Bursts of dicts there and back, then a pause: what an end pays that is idle most of the time, but not long.

A trip is timed as in the workload "dict": half of the time from just before a dict is sent to when it has come back.
The CPU time is the echo's, its whole process with helper threads, from the first burst to the last, pauses included, in
percent of one CPU.
"""

from __future__ import annotations

import time
from itertools import repeat

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.measure import P99, Metric, Outcome, latencies
from ringcast.cli.lab.subject import Receiver, Sender, Subject
from ringcast.cli.lab.trips import checked_trips, echo_all, there_and_back, timed_trips
from ringcast.cli.lab.workload import Case, Workload

from ..usage import Usage
from .dicts import DICT_BYTES, DICTS
from .messages import END, INTERVAL_SECONDS, STEP_DEPTH, pickled_bytes

_TRIPS = 20
_BURSTS = 100
_WARM_UP_BURSTS = 20


class Bursts(Workload):
    """See the module."""

    key = "bursts"
    title = "Bursts of dicts"
    explain = f"{_TRIPS} there and back, then 5 ms of idleness; {pickled_bytes(DICTS):,} bytes pickled"
    metrics = (
        Metric("p50", "p50 of a way", "ns"),
        Metric("cpu", "CPU of the echo", "%"),
        P99,
    )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """So many bursts, after some that do not count."""
        bursts, pause = bench.settings.count(_BURSTS), INTERVAL_SECONDS

        def drive(sender: Sender, receiver: Receiver) -> list[int]:
            for _ in repeat(None, _WARM_UP_BURSTS):
                checked_trips(sender, receiver, DICTS, _TRIPS)
                time.sleep(pause)  # the idleness between two bursts is what is measured
            samples: list[int] = []
            for _ in repeat(None, bursts):
                samples += timed_trips(sender, receiver, DICTS, _TRIPS)
                time.sleep(pause)  # as above
            return samples

        def answer(receiver: Receiver, sender: Sender) -> float:
            echo_all(receiver, sender, _WARM_UP_BURSTS * _TRIPS)
            before = Usage.own()
            echo_all(receiver, sender, bursts * _TRIPS)
            return Usage.own().since(before).cpu_percent

        there = bench.spec(1, STEP_DEPTH, DICT_BYTES, "object")
        samples, (cpu,) = there_and_back(subject, there, drive, answer, END, bench)
        return latencies(samples, cpu=cpu)

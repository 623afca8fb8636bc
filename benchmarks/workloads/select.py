"""Waiting for n queues at once, and one of them gets a message: from its time stamp to the reader's.

The reader has slept before ("idle"), or is taking, one at a time, what floods another of the queues ("flood"): 64
messages lie there when the one comes that counts.
"""

from __future__ import annotations

import random
import time

from benchmarks.peers.waiters import Waiter
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, P99, Outcome, latencies
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check

_COUNT = 300
_WARM_UP = 20
_IDLE_SECONDS = 0.005
_FLOOD = 64
_OTHER = b"flood..."


class Select(Workload):
    """See the module."""

    key = "select"
    title = "Waiting for many queues at once"
    explain = "one way, 8-byte bytes for one of n queues that one reader waits for, idle or flooded"
    metrics = (P50, P99)

    def takes(self, subject: Subject) -> bool:
        """Those alone that are made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """So many queues."""
        idle = tuple(Case(f"idle/{n}", f"{n} queue{'s' if n > 1 else ''}, idle", n) for n in self._readers)
        return idle + tuple(Case(f"flood/{n}", f"{n} queues, one flooded", n) for n in self._readers if n > 1)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send to one, wait until it has come, and so on."""
        assert isinstance(subject, Waiter)
        count = bench.settings.count(_COUNT) + _WARM_UP
        flood = _FLOOD if case.key.startswith("flood") else 0
        place = subject.many(case.n_readers, bench.workdir)

        def writer(member: Member) -> None:
            sends = subject.writers(place)
            member.meet()
            chosen = random.Random(count)
            for _ in range(count):
                time.sleep(_IDLE_SECONDS)  # the idleness from which the reader is woken
                for _ in range(flood):
                    sends[0](_OTHER)
                sends[chosen.randrange(1 if flood else 0, len(sends))](time.monotonic_ns().to_bytes(8, "little"))
                member.meet()
            member.meet()

        def reader(member: Member) -> list[int]:
            take = subject.reader(place)
            member.meet()
            samples, now = [], time.monotonic_ns
            for _ in range(count):
                left = flood + 1
                while left > 0:
                    messages = take()
                    at = now()
                    for message in messages:
                        left -= 1
                        if message != _OTHER:
                            samples.append(at - int.from_bytes(message, "little"))
                member.meet()
            member.meet()
            check(len(samples) == count, "a message did not come, or came twice")
            return samples[_WARM_UP:]

        return latencies(bench.run(writer, [reader], bench.placement.free())[1])

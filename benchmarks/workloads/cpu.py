"""What a waiting reader costs: CPU time of its whole process, helper threads included, in percent of one CPU.

First a reader to which nothing is sent for some seconds, then one that gets a message every 5 ms. The kernel's count of
the process's CPU time (CLOCK_PROCESS_CPUTIME_ID) is exact to the nanosecond, unlike the ticks of ``/proc/<pid>/stat``.
"""

from __future__ import annotations

import time
from itertools import repeat

from ..bench import Bench
from ..crew import Member
from ..measure import Metric, Outcome
from ..peers.base import Subject
from ..settings import DEPTH, MESSAGE_BYTES
from .base import Case, Workload, check, settle

_WARM_UP = 100


class Cpu(Workload):
    """See the module."""

    key = "cpu"
    title = "CPU of a waiting reader"
    explain = "percent of one CPU, all threads of the reader's process"
    metrics = (
        Metric("idle", "idle", "%"),
        Metric("cadence", "a message every 5 ms", "%"),
    )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Idle first, then the cadence."""
        settings = bench.settings
        idle, interval = settings.idle_seconds, settings.cadence_interval_seconds
        beats = round(settings.cadence_seconds / interval)
        spec = bench.spec(1, DEPTH, MESSAGE_BYTES)
        address = subject.place(spec)
        message = b"m" * MESSAGE_BYTES

        def writer(member: Member) -> None:
            sender = subject.sender(spec, address, member.links)
            settle(sender)
            for _ in repeat(None, _WARM_UP):
                sender.send(message)
            member.meet()
            time.sleep(idle)
            sender.send(message)
            due = time.monotonic()
            for _ in repeat(None, beats):
                due += interval
                time.sleep(max(0.0, due - time.monotonic()))
                sender.send(message)
            member.meet()
            sender.close()

        def reader(member: Member) -> dict[str, float]:
            receiver = subject.receiver(spec, address, 0, member.links[0])
            settle(receiver)
            recv = receiver.recv
            for _ in repeat(None, _WARM_UP):
                check(recv() == message, "a message is not the one sent")
            member.meet()
            start = _clocks()
            recv()
            between = _clocks()
            for _ in repeat(None, beats):
                recv()
            end = _clocks()
            member.meet()
            receiver.close()
            return {"idle": _percent(start, between), "cadence": _percent(between, end)}

        values: dict[str, float] = bench.run(writer, [reader])[1]
        return Outcome(values)


def _clocks() -> tuple[int, int]:
    return time.process_time_ns(), time.monotonic_ns()


def _percent(before: tuple[int, int], after: tuple[int, int]) -> float:
    return 100.0 * (after[0] - before[0]) / (after[1] - before[1])

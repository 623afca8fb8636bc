"""What a waiting reader costs: CPU time of its whole process, helper threads included, in percent of one CPU.

First a reader to which nothing is sent: measured from outside, from when it has waited for 1.1 s to a moment
before its next message, CPU time and how often its threads wake up. Then one that gets a message every 5 ms: measured
by itself, from the message that ended its idleness to the last one.
"""

from __future__ import annotations

import os
import time
from itertools import repeat

from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check, settle

from ..usage import Usage
from .messages import INTERVAL_SECONDS

_WARM_UP = 100
_IDLE_SECONDS = 2.0
_CADENCE_SECONDS = 1.5
#: An end may look more often while it has not waited for long (vLLM's for a second).
_SETTLING_SECONDS = 1.1


class Cpu(Workload):
    """See the module."""

    key = "cpu"
    title = "CPU of a waiting reader"
    explain = "percent of one CPU, all threads of the reader's process"
    metrics = (
        Metric("idle", "idle", "%"),
        Metric("cadence", "a message every 5 ms", "%"),
        Metric("wakes", "idle, wake-ups", "/s"),
    )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Idle first, then the cadence."""
        idle, interval = bench.settings.seconds(_IDLE_SECONDS), INTERVAL_SECONDS
        beats = round(bench.settings.seconds(_CADENCE_SECONDS) / interval)
        spec = bench.spec(1, DEPTH, MESSAGE_BYTES)
        address = subject.place(spec)
        message = b"m" * MESSAGE_BYTES

        def writer(member: Member) -> Usage:
            sender = subject.sender(spec, address, member.links)
            settle(sender)
            for _ in repeat(None, _WARM_UP):
                sender.send(message)
            (link,) = member.links
            pid = link.recv()
            member.meet()
            time.sleep(_SETTLING_SECONDS)  # ends that have just been busy are not idle yet
            before = Usage.of(pid)
            time.sleep(idle)  # what is measured: an end that waits for so long
            used = Usage.of(pid).since(before)
            sender.send(message)
            due = time.monotonic()
            for _ in repeat(None, beats):
                due += interval
                time.sleep(max(0.0, due - time.monotonic()))  # the cadence
                sender.send(message)
            member.meet()
            sender.close()
            return used

        def reader(member: Member) -> Usage:
            receiver = subject.receiver(spec, address, 0, member.links[0])
            settle(receiver)
            recv = receiver.recv
            for _ in repeat(None, _WARM_UP):
                check(recv() == message, "a message is not the one sent")
            member.links[0].send(os.getpid())
            member.meet()
            recv()
            before = Usage.own()
            for _ in repeat(None, beats):
                recv()
            used = Usage.own().since(before)
            member.meet()
            receiver.close()
            return used

        idling, beating = bench.run(writer, [reader])
        return Outcome(
            {"idle": idling.cpu_percent, "cadence": beating.cpu_percent, "wakes": idling.sleeps_a_second},
        )

"""Waking a sleeping reader: after a time of idleness, from the writer's time stamp to the reader's.

The stamp is taken just before the message that carries it is made and sent; the reader's as soon as it has it. Both
sides have slept, as in life. The floor is a futex wake in native code after the same idleness.
"""

from __future__ import annotations

import time
from itertools import pairwise

from ..bench import Bench
from ..crew import Member
from ..measure import Metric, Outcome, histogram, percentile
from ..peers.base import Subject
from ..settings import DEPTH, MESSAGE_BYTES
from .base import Case, Workload, check, settle

_WARM_UP = 3
_STAMP_BYTES = 8
_PAD = b"." * (MESSAGE_BYTES - _STAMP_BYTES)


class Wake(Workload):
    """See the module."""

    key = "wake"
    title = "Wake-up after 20 ms of idleness"
    explain = f"one way, {MESSAGE_BYTES}-byte bytes to a blocked reader"
    metrics = (
        Metric("p50", "p50", "ns"),
        Metric("p99", "p99", "ns", pooled=99.0),
    )
    floor_label = "native futex wake"

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send a time stamp, sleep, and so on."""
        count = bench.settings.wake_count
        idle = bench.settings.wake_idle_seconds
        spec = bench.spec(1, DEPTH, MESSAGE_BYTES)
        address = subject.place(spec)

        def writer(member: Member) -> None:
            sender = subject.sender(spec, address, member.links)
            settle(sender)
            member.meet()
            send, now = sender.send, time.monotonic_ns
            for _ in range(count + _WARM_UP):
                time.sleep(idle)
                send(now().to_bytes(_STAMP_BYTES, "little") + _PAD)
            member.meet()
            sender.close()

        def reader(member: Member) -> list[int]:
            receiver = subject.receiver(spec, address, 0, member.links[0])
            settle(receiver)
            member.meet()
            recv, now = receiver.recv, time.monotonic_ns
            received: list[tuple[bytes, int]] = []
            for _ in range(count + _WARM_UP):
                received.append((recv(), now()))
            member.meet()
            receiver.close()
            check(all(message.endswith(_PAD) for message, _ in received), "a message is not the one sent")
            sent = [int.from_bytes(message[:_STAMP_BYTES], "little") for message, _ in received]
            check(all(a < b for a, b in pairwise(sent)), "messages came out of order")
            return [at - was for (_, at), was in zip(received, sent, strict=True)][_WARM_UP:]

        samples: list[int] = bench.run(writer, [reader])[1]
        return _outcome(samples)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """A futex."""
        if bench.floor is None:
            return None
        return _outcome(bench.floor.wakes(bench.settings.wake_count, bench.settings.wake_idle_seconds))


def _outcome(samples: list[int]) -> Outcome:
    return Outcome({"p50": percentile(histogram(samples), 50.0)}, samples)

"""Waking a sleeping reader: after a time of idleness, from the writer's time stamp to the reader's.

The stamp is taken just before the message that carries it is made and sent; the reader's as soon as it has it. Both
sides have slept, as in life. The floor is a futex wake in native code after the same idleness.
"""

from __future__ import annotations

import time
from itertools import pairwise

from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, P90, Outcome, latencies
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check, settle

_WARM_UP = 3
_COUNT = 50
_IDLE_SECONDS = 0.020
_STAMP_BYTES = 8
_PAD = b"." * (MESSAGE_BYTES - _STAMP_BYTES)


class Wake(Workload):
    """See the module."""

    key = "wake"
    title = "Wake-up after 20 ms of idleness"
    explain = f"one way, {MESSAGE_BYTES}-byte bytes to a blocked reader"
    metrics = (P50, P90)
    floor_label = "native futex wake"

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send a time stamp, sleep, and so on."""
        count, idle = bench.settings.count(_COUNT), _IDLE_SECONDS
        spec = bench.spec(1, DEPTH, MESSAGE_BYTES)
        address = subject.place(spec)

        def writer(member: Member) -> None:
            sender = subject.sender(spec, address, member.links)
            settle(sender)
            member.meet()
            send, now = sender.send, time.monotonic_ns
            for _ in range(count + _WARM_UP):
                time.sleep(idle)  # the idleness from which the reader is woken
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
        return latencies(samples)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """A futex."""
        return latencies(bench.floor.wakes(bench.settings.count(_COUNT), _IDLE_SECONDS))

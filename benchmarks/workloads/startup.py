"""How long until a queue works: made, given to a reader that is already running, attached there, ready on both sides.

No process is started while the clock runs and every library is imported before. A library without a notion of ready is
ready once a first message has been received. The reader's word that it is ready comes back through a pipe, which adds
some tens of microseconds, to all alike.
"""

from __future__ import annotations

import time
from statistics import median

from ringcast.cli.lab.bench import MESSAGE_BYTES, Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

from .messages import STEP_DEPTH

_COUNT = 10
_FIRST = b"f" * MESSAGE_BYTES


class Startup(Workload):
    """See the module."""

    key = "startup"
    title = "Queue made, attached, ready"
    explain = "one reader, in a process that is already running"
    metrics = (
        Metric("ready", "ready", "ms"),
        Metric("first", "the process's first", "ms"),
    )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Make and close some queues, one after the other."""
        specs = [bench.spec(1, STEP_DEPTH, MESSAGE_BYTES) for _ in range(bench.settings.count(_COUNT))]

        def writer(member: Member) -> list[float]:
            (link,) = member.links
            times: list[float] = []
            member.meet()
            for spec in specs:
                begin = time.perf_counter_ns()
                address = subject.place(spec)
                link.send(address)
                sender = subject.sender(spec, address, member.links)
                if sender.ready is not None:
                    sender.ready()
                else:
                    sender.send(_FIRST)
                link.recv_bytes()
                times.append((time.perf_counter_ns() - begin) / 1e6)
                link.send_bytes(b"measured")
                link.recv_bytes()
                sender.close()
            return times

        def reader(member: Member) -> None:
            (link,) = member.links
            member.meet()
            for spec in specs:
                receiver = subject.receiver(spec, link.recv(), 0, link)
                if receiver.ready is not None:
                    receiver.ready()
                else:
                    receiver.recv()
                link.send_bytes(b"ready")
                link.recv_bytes()
                receiver.close()
                link.send_bytes(b"closed")

        times: list[float] = bench.run(writer, [reader])[0]
        return Outcome({"ready": median(times), "first": times[0]})

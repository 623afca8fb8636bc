"""The rate of small messages to several numbers of readers, each of which gets every message."""

from __future__ import annotations

from typing import ClassVar

from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

RATE = Metric("rate", "messages/s", "/s", better="higher")
SECONDS = 0.5

#: Distinct messages, sent again and again, so that making them costs nothing while the clock runs.
MESSAGES = [number.to_bytes(8, "little").ljust(MESSAGE_BYTES) for number in range(1024)]
END = b"end".ljust(MESSAGE_BYTES)
#: Messages of a batch, for the subjects that send and receive many at once.
_BATCH = 64


class Rate(Workload):
    """See the module."""

    key = "rate"
    title = "Rate of small messages"
    explain: ClassVar[str] = f"{MESSAGE_BYTES}-byte bytes, depth {DEPTH:,}, every reader gets every message"
    metrics: ClassVar[tuple[Metric, ...]] = (RATE,)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Stream for about as long as set."""
        traffic = Traffic(MESSAGES, END, MESSAGE_BYTES, batch=_BATCH if subject.key.endswith("-many") else 0)
        spec = bench.spec(case.n_readers, DEPTH, MESSAGE_BYTES)
        return Outcome({RATE.key: deliver(subject, spec, traffic, bench.settings.seconds(SECONDS), bench).rate})

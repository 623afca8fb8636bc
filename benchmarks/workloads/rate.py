"""The rate of small messages to one, two, four and eight readers, each of which gets every message.

The floor is the project's own ring in native code, with the same number of readers, message size, depth and CPUs.
"""

from __future__ import annotations

from ..bench import Bench
from ..floor import NotInThisBuildError
from ..measure import Metric, Outcome
from ..peers.base import Subject
from ..settings import DEPTH, MESSAGE_BYTES, Settings
from .base import Case, Workload, readers_cases
from .stream import stream

#: Distinct messages, sent again and again, so that making them costs nothing while the clock runs.
_MESSAGES = [number.to_bytes(8, "little").ljust(MESSAGE_BYTES) for number in range(1024)]
_END = b"end".ljust(MESSAGE_BYTES)

#: The ring is so quick that fewer messages are over before the readers' turns have evened out.
_FLOOR_MESSAGES = 1_000_000


class Rate(Workload):
    """See the module."""

    key = "rate"
    title = "Rate of small messages"
    explain = f"{MESSAGE_BYTES}-byte bytes, depth {DEPTH:,}, every reader gets every message"
    metrics = (Metric("rate", "messages/s", "/s", better="higher"),)
    floor_label = "native ring"
    needs_trial = True

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The numbers of readers."""
        return readers_cases(settings.fan_outs)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Stream for about as long as set."""
        who = (self.key, case.key, subject.key)
        batch = bench.settings.batch if subject.key.endswith("-many") else 0
        passes = -(-bench.messages_for(*who) // len(_MESSAGES))
        spec = bench.spec(case.n_readers, DEPTH, MESSAGE_BYTES)
        rate = stream(subject, spec, _MESSAGES, _END, passes, batch, bench)
        bench.remember_rate(rate, *who)
        return Outcome({"rate": rate})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """The native ring."""
        if bench.floor is None:
            return None
        messages = min(_FLOOR_MESSAGES, int(bench.settings.rate_seconds * 2 * _FLOOR_MESSAGES))
        try:
            return Outcome({"rate": bench.floor.ring(case.n_readers, messages, MESSAGE_BYTES, DEPTH)})
        except NotInThisBuildError:
            return None

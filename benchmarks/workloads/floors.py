"""The engine's own workloads beside what the machine can do without Python: the native floors under them.

Latency: a cache line between the same two CPUs. Rate: the project's own ring in native code, with the same number of
readers, message size, depth and CPUs. Large payloads: one memcpy by the writer from the same number of sources to five
destinations in shared memory in turn, for any number of readers: a transport that readers map needs no more.
"""

from __future__ import annotations

from ringcast.cli.lab import arrays, latency, rate
from ringcast.cli.lab.arrays import GIGABYTES, PayloadWorkload
from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench
from ringcast.cli.lab.measure import P50, P99, P99_9, Outcome
from ringcast.cli.lab.rate import RATE
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case

from ..floor import NotInThisBuildError

#: Blocks of `latency.BLOCK` trips.
_BLOCKS = 20_000
#: The ring is so quick that fewer messages are over before the readers' turns have evened out.
_RING_MESSAGES = 1_000_000
#: As many as a transport needs that keeps its queue full, while its reader looks at one message more.
_DESTINATIONS = arrays.DEPTH + 1
_SIZES_OF_EXTRA_ROWS = (64 << 10, 1 << 20, 16 << 20)


class Latency(latency.Latency):
    """See the module."""

    metrics = (P50, P99, P99_9)
    floor_label = "native cache-line ping-pong"

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """A cache line."""
        return Outcome({P50.key: bench.floor.ping_pong(bench.settings.count(_BLOCKS))})


class Rate(rate.Rate):
    """See the module."""

    floor_label = "native ring"

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """The native ring."""
        messages = bench.settings.count(_RING_MESSAGES)
        try:
            return Outcome({RATE.key: bench.floor.ring(case.n_readers, messages, MESSAGE_BYTES, DEPTH)})
        except NotInThisBuildError:
            return None


class CopiedOnce(PayloadWorkload):
    """A workload with large payloads."""

    floor_label = "native memcpy to shm"

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy."""
        nbytes, seconds = self.copied(case), bench.settings.seconds(arrays.SECONDS)
        return Outcome({GIGABYTES.key: bench.floor.copy_between(nbytes, arrays.SOURCES, _DESTINATIONS, seconds)})

    def copied(self, case: Case) -> int:
        """How many bytes a message counts for."""
        return case.nbytes


class Arrays(CopiedOnce, arrays.Arrays):
    """See the module."""

    def covers(self, subject: Subject, case: Case) -> bool:
        """Extra rows only where they differ from their neighbours, to bound a run's time."""
        return subject.standing != "extra" or (case.n_readers <= 2 and case.nbytes in _SIZES_OF_EXTRA_ROWS)

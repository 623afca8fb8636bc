"""NumPy arrays of 64 KiB to 64 MiB to one, two and four readers, each of which gets every array.

The figure is GB/s that the slowest reader got. Every reader touches every page of every array, then drops it. The floor
is one memcpy by the writer from the same number of sources to five destinations in shared memory, for any number of
readers: a transport that readers map needs no more. Arrays below 1 MiB are uint8, the others float32.
"""

from __future__ import annotations

from ..bench import Bench
from ..measure import Outcome
from ..peers.base import Subject
from ..settings import PAYLOAD_DEPTH, Settings
from .base import Case
from .payload import PayloadWorkload, Traffic, deliver, floor, look_at, mark, sized_cases, sources

_SIZES_OF_EXTRA_ROWS = (64 << 10, 1 << 20, 16 << 20)


class Arrays(PayloadWorkload):
    """See the module."""

    key = "arrays"
    title = "NumPy arrays"
    explain = f"every page touched by every reader, depth {PAYLOAD_DEPTH}"

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes, for each number of readers."""
        cases: list[Case] = []
        for n_readers, sizes in settings.array_sizes.items():
            cases += sized_cases(sizes, n_readers, f"{n_readers} reader{'s' if n_readers > 1 else ''}")
        return tuple(cases)

    def covers(self, subject: Subject, case: Case) -> bool:
        """Extra rows only where they differ from their neighbours, to bound a run's time."""
        return subject.standing != "extra" or (case.n_readers <= 2 and case.nbytes in _SIZES_OF_EXTRA_ROWS)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send for about as long as set."""
        return deliver(subject, case, array_traffic(case.nbytes), bench)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy."""
        return floor(case.nbytes, bench)


def array_traffic(nbytes: int) -> Traffic:
    """Arrays of this size."""
    dtype = "uint8" if nbytes < 1 << 20 else "float32"
    return Traffic(sources(nbytes, dtype), mark(dtype), look_at, nbytes, "array")

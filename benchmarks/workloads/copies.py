"""One memcpy by size, in native code: no subject takes part. What workloads with large payloads are compared with."""

from __future__ import annotations

from ..bench import Bench
from ..measure import Metric, Outcome
from ..peers.base import Subject
from .base import Case, Workload

_SIZES = {
    "64 KiB": 64 << 10,
    "256 KiB": 256 << 10,
    "1 MiB": 1 << 20,
    "4 MiB": 4 << 20,
    "16 MiB": 16 << 20,
    "64 MiB": 64 << 20,
}


class Copies(Workload):
    """See the module."""

    key = "memcpy"
    title = "One memcpy"
    explain = "native, one thread, both buffers touched before"
    metrics = tuple(Metric(f"{size}", title, "GB/s", better="higher") for title, size in _SIZES.items())
    floor_label = "native memcpy"
    has_subjects = False

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Nobody takes part."""
        raise NotImplementedError

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """All sizes."""
        if bench.floor is None:
            return None
        rates = bench.floor.copies(bench.settings.floor_copy_seconds)
        return Outcome({str(size): rate for size, rate in rates.items()})

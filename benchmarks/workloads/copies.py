"""One memcpy by size, in native code: no subject takes part. What workloads with large payloads are compared with."""

from __future__ import annotations

from ringcast.cli.lab.arrays import named
from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

_SIZES = tuple((64 << 10) * 4**power for power in range(6))
_SECONDS = 0.05


class Copies(Workload):
    """See the module."""

    key = "memcpy"
    title = "One memcpy"
    explain = "native, one thread, both buffers touched before"
    metrics = tuple(Metric(f"{size}", named(size), "GB/s", better="higher") for size in _SIZES)
    floor_label = "native memcpy"
    has_subjects = False

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Nobody takes part."""
        raise NotImplementedError  # never called: has_subjects is False

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """All sizes."""
        rates = bench.floor.copies(bench.settings.seconds(_SECONDS))
        return Outcome({str(size): rate for size, rate in rates.items()})

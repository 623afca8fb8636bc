"""The demo's workload: every file of a corpus, as a dict, to all workers, which compare what they get with it.

A pass is the whole corpus. The figures are files a second and MB a second that the slowest worker has received, and the
CPU time of all processes together for one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.demo_corpus import SourceFile
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

DEPTH = 64
SECONDS = 1.0
#: More than a file's path and the form of its message take.
_ROOM_BYTES = 64 << 10
_END = {"path": "", "source": b""}


class Files(Workload):
    """See the module."""

    key = "files"
    title = "Source files"
    explain: ClassVar[str] = "the standard library's, as dicts, to every worker"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("rate", "files/s", "/s", better="higher"),
        Metric("bytes", "MB/s", "MB/s", better="higher"),
        Metric("cpu", "CPU a file", "ns"),
        Metric("received", "files received", "", better="higher"),
    )

    def __init__(self, files: Sequence[SourceFile], workers: int) -> None:
        """These files to so many workers."""
        super().__init__((workers,))
        self._messages = [{"path": file.path, "source": file.data} for file in files]
        self._largest = max(len(file.data) for file in files) + _ROOM_BYTES
        self._mean = sum(len(file.data) for file in files) / len(files)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send all files, again and again, for about as long as set."""
        traffic = Traffic(self._messages, _END, round(self._mean), "object", every=True)
        spec = bench.spec(case.n_readers, DEPTH, self._largest, "object")
        delivered = deliver(subject, spec, traffic, bench.settings.seconds(SECONDS), bench)
        values = {
            "rate": delivered.rate,
            "bytes": delivered.rate * self._mean / 1e6,
            "cpu": delivered.cpu_seconds / delivered.messages * 1e9,
            "received": delivered.messages + 1,
        }
        return Outcome(values)

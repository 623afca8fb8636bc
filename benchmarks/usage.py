"""What a process has used so far, all its threads together: CPU time, and how often it went to sleep.

CPU time is the kernel's own count (the process's CPU clock), exact to the nanosecond, unlike the ticks of
`/proc/<pid>/stat`; it can be read from outside, without waking the process. A thread that wakes up went to sleep
before: wake-ups are counted as voluntary context switches.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """At a moment, or, from `since`, between two of them."""

    at_ns: int
    cpu_ns: int
    sleeps: int

    @classmethod
    def own(cls) -> Usage:
        """Of the calling process."""
        sleeps = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        return cls(time.monotonic_ns(), time.process_time_ns(), sleeps)

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Of another process of ours; Linux only, OSError elsewhere."""
        return cls(time.monotonic_ns(), time.clock_gettime_ns(_cpu_clock(pid)), _voluntary_switches(pid))

    def since(self, before: Usage) -> Usage:
        """What was used between the two."""
        return Usage(self.at_ns - before.at_ns, self.cpu_ns - before.cpu_ns, self.sleeps - before.sleeps)

    @property
    def cpu_percent(self) -> float:
        """Of one CPU."""
        return 100.0 * self.cpu_ns / self.at_ns

    @property
    def sleeps_a_second(self) -> float:
        """How often one of the threads went to sleep."""
        return 1e9 * self.sleeps / self.at_ns


def _cpu_clock(pid: int) -> int:
    """What POSIX's clock_getcpuclockid gives on Linux: the clock's number holds the process's."""
    return (~pid << 3) | 2


def _voluntary_switches(pid: int) -> int:
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text(encoding="ascii").splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )

"""Which process runs on which CPU.

The writer has the first CPU this run may use; readers take the others in turn, so with two CPUs all readers share the
second one. With a single CPU everything shares it. Helper threads of a subject (a feeder thread, a socket library's I/O
thread) run on the CPU of their process. Pinning is what makes two runs comparable; `--no-pin` leaves it to the
scheduler.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace


def usable_cpus() -> list[int]:
    """The CPUs this process may run on, lowest first."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Placement:
    """The CPU of the writer and of each reader; `pinned` is false if nobody is to be pinned."""

    cpus: tuple[int, ...]
    pinned: bool = True

    @classmethod
    def here(cls, pinned: bool = True) -> Placement:
        """The placement for the CPUs that this process may use."""
        return cls(tuple(usable_cpus()), pinned and hasattr(os, "sched_setaffinity"))

    @property
    def writer(self) -> int:
        """The writer's CPU."""
        return self.cpus[0]

    def reader(self, rank: int) -> int:
        """The CPU of the reader with this rank."""
        others = self.cpus[1:] or self.cpus
        return others[rank % len(others)]

    def most_readers_of_a_cpu(self, n_readers: int) -> int:
        """How many of so many readers share a CPU."""
        return -(-n_readers // max(1, len(self.cpus) - 1))

    def free(self) -> Placement:
        """The same CPUs, nobody pinned."""
        return replace(self, pinned=False)

    def on_one_cpu(self) -> Placement:
        """Everybody pinned to the writer's CPU."""
        return Placement((self.writer,), hasattr(os, "sched_setaffinity"))

    def of_process(self, index: int) -> int:
        """The CPU of a crew's process: 0 is the writer, 1 the reader of rank 0, and so on."""
        return self.writer if index == 0 else self.reader(index - 1)

    def pin(self, index: int) -> None:
        """Pin the calling process, which is the one of this index in its crew."""
        if self.pinned:
            os.sched_setaffinity(0, {self.of_process(index)})

    def describe(self) -> str:
        """One line for the report."""
        if not self.pinned:
            return f"not pinned, {len(self.cpus)} CPUs"
        readers = ", ".join(str(cpu) for cpu in self.cpus[1:] or self.cpus)
        return f"pinned: writer on CPU {self.writer}, readers in turn on CPU {readers}"

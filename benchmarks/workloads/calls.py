"""A method called in all of n processes, from the call to the last answer: what an engine's step begins and ends with.

A small dict there, a small dict back. Nobody is pinned. Every call has its call of the clock, and is checked.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from benchmarks.peers.callers import Caller
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, P99, Outcome, latencies
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, CheckError, Workload

_CALLS = 3_000


class Calls(Workload):
    """See the module."""

    key = "calls"
    title = "A method called in all workers"
    explain = "a small dict there, a small dict back, until all have answered; nobody pinned"
    metrics = (P50, P99)

    def takes(self, subject: Subject) -> bool:
        """Those alone that are made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """So many workers."""
        return tuple(Case(f"{n}", f"{n} worker{'s' if n > 1 else ''}", n) for n in self._readers)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Call so many times."""
        assert isinstance(subject, Caller)
        count = bench.settings.count(_CALLS)

        def caller(member: Member) -> list[int]:
            process: Any = multiprocessing.current_process()
            process._config["daemon"] = False  # a crew's members are, and those must not have children
            call, close = subject.make(case.n_readers)
            try:
                samples = []
                for number in range(-(count // 5), count):
                    batch = {"x": 1.5, "n": number}
                    begin = time.perf_counter_ns()
                    answers = call(batch)
                    took = time.perf_counter_ns() - begin
                    if answers != [{"n": number}] * case.n_readers:
                        raise CheckError(f"call {number} was answered by {answers}")
                    if number >= 0:
                        samples.append(took)
                return samples
            finally:
                close()

        return latencies(bench.run(caller, [], bench.placement.free())[0])

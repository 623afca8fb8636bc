"""A method called in all of n processes, from the call to the last answer: what an engine's step begins and ends with.

One at a time, a small dict there and a small dict back; so many calls a second, with some under way; and answers of 16
MiB, held against one memcpy of that size, which is what they cannot do without. Nobody is pinned. Every answer is
checked: of an array one element of each page and the last one.
"""

from __future__ import annotations

import multiprocessing
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from benchmarks.peers.callers import ARRAY_BYTES, ARRAYS, Caller, Calling
from ringcast.cli.lab.arrays import GIGABYTES, PAGE_BYTES
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, P99, Metric, Outcome, latencies, percentile
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check

_CALLS = 3_000
_RATE_CALLS = 6_000
_UNDER_WAY = 32
_ARRAYS = 60
_MEMCPY_SECONDS = 0.05


class _OfCallers(Workload):
    def takes(self, subject: Subject) -> bool:
        """Those alone that are made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """So many workers."""
        return tuple(Case(f"{n}", f"{n} worker{'s' if n > 1 else ''}", n) for n in self._readers)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """In a process that has so many workers."""
        assert isinstance(subject, Caller)
        make = subject.make
        assert make is not None

        def caller(member: Member) -> Outcome:
            process: Any = multiprocessing.current_process()
            process._config["daemon"] = False  # a crew's members are, and those must not have children
            calling = make(case.n_readers)
            try:
                return self.asked(calling, case.n_readers, bench.settings)
            finally:
                calling.close()

        outcome: Outcome = bench.run(caller, [], bench.placement.free())[0]
        return outcome

    @abstractmethod
    def asked(self, calling: Calling, n: int, settings: Settings) -> Outcome:
        """Call so many times."""


class Calls(_OfCallers):
    """One at a time."""

    key = "calls"
    title = "A method called in all workers"
    explain = "a small dict there, a small dict back, until all have answered; nobody pinned"
    metrics = (P50, P99)

    def asked(self, calling: Calling, n: int, settings: Settings) -> Outcome:
        """Each has its call of the clock."""
        count = settings.count(_CALLS)
        samples = []
        for number in range(-(count // 5), count):
            batch = {"x": 1.5, "n": number}
            begin = time.perf_counter_ns()
            answers = calling.call("step", batch)
            took = time.perf_counter_ns() - begin
            check(answers == [{"n": number}] * n, f"call {number} was answered by {answers}")
            if number >= 0:
                samples.append(took)
        return latencies(samples)


class CallsRate(_OfCallers):
    """Some under way."""

    key = "calls_rate"
    title = "Calls of all workers a second"
    explain = f"as above, {_UNDER_WAY} under way"
    metrics = (Metric("rate", "calls a second", "/s", better="higher"),)

    def asked(self, calling: Calling, n: int, settings: Settings) -> Outcome:
        """The time of them all."""
        count = settings.count(_RATE_CALLS)
        self._run(calling, n, count // 5)
        begin = time.perf_counter_ns()
        self._run(calling, n, count)
        return Outcome({"rate": count / (time.perf_counter_ns() - begin) * 1e9})

    def _run(self, calling: Calling, n: int, count: int) -> None:
        under_way: deque[tuple[int, Callable[[], Sequence[Any]]]] = deque()
        for number in range(count):
            if len(under_way) == _UNDER_WAY:
                self._take(under_way, n)
            under_way.append((number, calling.submit("step", {"x": 1.5, "n": number})))
        while under_way:
            self._take(under_way, n)

    def _take(self, under_way: deque[tuple[int, Callable[[], Sequence[Any]]]], n: int) -> None:
        number, take = under_way.popleft()
        answers = take()
        check(answers == [{"n": number}] * n, f"call {number} was answered by {answers}")


class CallsArray(_OfCallers):
    """Large answers."""

    key = "calls_array"
    title = "Answers of 16 MiB"
    explain = "from the call until the array is there, of one worker"
    metrics = (GIGABYTES,)
    floor_label = "native memcpy"

    def lacking(self) -> str:
        """NumPy is an extra."""
        return "" if find_spec("numpy") else "NumPy is not installed"

    def asked(self, calling: Calling, n: int, settings: Settings) -> Outcome:
        """What is looked at, is so after the clock."""
        count = settings.count(_ARRAYS)
        samples = []
        for number in range(-ARRAYS, count):
            begin = time.perf_counter_ns()
            answers = calling.call("array", number)
            took = time.perf_counter_ns() - begin
            for array in answers:
                whole = len(array) == ARRAY_BYTES and array[-1] == number % ARRAYS
                check(whole and bool((array[::PAGE_BYTES] == number % ARRAYS).all()), f"array {number} is another one")
            if number >= 0:
                samples.append(took)
            del answers, array
        return Outcome({GIGABYTES.key: n * ARRAY_BYTES / percentile(samples, 50.0)})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy."""
        return Outcome({GIGABYTES.key: bench.floor.copies(bench.settings.seconds(_MEMCPY_SECONDS))[ARRAY_BYTES]})

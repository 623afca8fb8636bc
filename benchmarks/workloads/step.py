"""A step of work, as a driver and its workers have it: a dict to all, some computing in each, an answer from each.

A driver broadcasts a small dict through one queue to two workers. Each computes for so much CPU time and then sends a
small dict through a queue of its own; the driver waits for both. A step is timed from just before the driver sends to
when it has the second answer; the CPU time is of all three processes together, helper threads included, from the first
step that is timed to the last, divided by the steps. Work is a fixed count of loops: who has no CPU meanwhile takes
longer. Nobody is pinned, as engines run, except where all three share one CPU; busy neighbours are other processes at
normal priority, one free to run anywhere, or one pinned to each CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import median
from typing import Any

from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, Metric, Outcome
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check, settle

from ..neighbours import neighbours
from ..usage import Usage
from ..work import loops_of, work
from .messages import STEP_DEPTH

_WORKERS = 2
_FEWEST_STEPS = 10
_WARM_UP_SECONDS = 0.3
_SECONDS = 0.7
_MAX_BYTES = 1024


@dataclass(frozen=True)
class _Situation:
    """What surrounds the three processes. `work` is in ms of CPU time of each worker."""

    key: str
    title: str
    work: tuple[int, ...]

    def placement(self, usual: Placement) -> Placement:
        """Where they run."""
        return usual.on_one_cpu() if self.key == "shared" else usual.free()

    def neighbours(self, usual: Placement) -> Sequence[int | None]:
        """The CPU of each busy neighbour, None for any."""
        if self.key == "crowded":
            return usual.cpus
        return [None] if self.key == "beside" else []


_SITUATIONS = (
    _Situation("alone", "alone", (0, 1, 5)),
    _Situation("beside", "beside one busy process", (1, 5)),
    _Situation("crowded", "beside one on every CPU", (1,)),
    _Situation("shared", "all on one CPU", (0, 1)),
)


class Step(Workload):
    """See the module."""

    key = "step"
    title = "A step"
    explain = f"a dict to {_WORKERS} workers, each works and answers; not pinned unless so said"
    metrics = (
        Metric("mean", "mean", "ns"),
        Metric("cpu", "CPU", "ns"),
        P50,
    )

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """Each situation, with each amount of work."""
        return tuple(
            Case(f"{situation.key}/{work}ms", f"work {work} ms", _WORKERS, situation.title)
            for situation in _SITUATIONS
            for work in situation.work
        )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Steps for as long as set, after some that do not count."""
        name, _, amount = case.key.partition("/")
        situation = next(each for each in _SITUATIONS if each.key == name)
        crew = _Crew(subject, loops_of(int(amount.removesuffix("ms"))), bench)
        with neighbours(situation.neighbours(bench.placement)):
            found = bench.run(crew.driver, [crew.worker] * _WORKERS, situation.placement(bench.placement))
        (times, used), *used_by_workers = found
        cpu = used + sum(used_by_workers)
        return Outcome({"mean": sum(times) / len(times), "p50": median(times), "cpu": cpu / len(times)})


class _Crew:
    """The driver and its workers."""

    def __init__(self, subject: Subject, loops: int, bench: Bench) -> None:
        self._subject, self._loops, self._settings = subject, loops, bench.settings
        self._steps = bench.spec(_WORKERS, STEP_DEPTH, _MAX_BYTES, "object")
        self._answers = [bench.spec(1, STEP_DEPTH, _MAX_BYTES, "object") for _ in range(_WORKERS)]
        self._to_steps = subject.place(self._steps)
        self._to_answers = [subject.place(spec) for spec in self._answers]

    def driver(self, member: Member) -> tuple[list[int], int]:
        """The time of each step, and this process's CPU time, in ns."""
        sender = self._subject.sender(self._steps, self._to_steps, member.links)
        places = zip(self._answers, self._to_answers, member.links, strict=True)
        receivers = [self._subject.receiver(spec, to, 0, link) for spec, to, link in places]
        settle(sender, *receivers)
        member.meet()
        send, recvs, now = sender.send, [receiver.recv for receiver in receivers], time.perf_counter_ns

        def steps(numbers: count[int], seconds: float, timed: bool) -> list[int]:
            stamps = [now()]
            end = stamps[0] + round(seconds * 1e9)
            while stamps[-1] < end or len(stamps) <= _FEWEST_STEPS:
                number = next(numbers)
                send({"step": number, "timed": timed, "method": "execute", "args": [number, "decode"]})
                for rank, recv in enumerate(recvs):
                    answer = recv()
                    if answer["step"] != number or answer["rank"] != rank:
                        check(False, f"to step {number} of worker {rank} the answer is {answer}")
                stamps.append(now())
            return [after - before for before, after in pairwise(stamps)]

        numbers = count()
        steps(numbers, self._settings.seconds(_WARM_UP_SECONDS), timed=False)
        before = Usage.own()
        times = steps(numbers, self._settings.seconds(_SECONDS), timed=True)
        used = Usage.own().since(before)
        send({"step": -1, "timed": False, "method": "end", "args": []})
        member.meet()
        sender.close()
        for receiver in receivers:
            receiver.close()
        return times, used.cpu_ns

    def worker(self, member: Member) -> int:
        """This process's CPU time in ns, while the steps were timed."""
        rank, loops = member.rank, self._loops
        receiver = self._subject.receiver(self._steps, self._to_steps, rank, member.links[0])
        sender = self._subject.sender(self._answers[rank], self._to_answers[rank], member.links)
        settle(receiver, sender)
        member.meet()
        before: Usage | None = None
        recv: Callable[[], dict[str, Any]] = receiver.recv
        while (message := recv())["step"] >= 0:
            if before is None and message["timed"]:
                before = Usage.own()
            work(loops)
            sender.send({"step": message["step"], "rank": rank, "output": message["args"]})
        assert before is not None
        used = Usage.own().since(before)
        member.meet()
        receiver.close()
        sender.close()
        return used.cpu_ns

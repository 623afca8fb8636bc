"""A run: rounds of every workload, case and subject in turn, so that a disturbance of the machine meets all alike.

The order of the subjects moves on by one each round. A subject that fails is reported with its error and tried again in
the next round, but not a third time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .bench import Bench
from .floor import FloorError
from .measure import Outcome
from .progress import Progress
from .results import FLOOR, Results
from .workloads.base import Case, Workload

_MOST_ERRORS = 2


@dataclass(frozen=True)
class _Step:
    """One measurement to make."""

    workload: Workload
    case: Case
    subject: str
    label: str
    measure: Callable[[], Outcome | None]


def run(results: Results, bench: Bench, progress: Progress) -> None:
    """Make all measurements of a run, into ``results``."""
    rounds = bench.settings.rounds
    trial = [step for step in _steps(results, bench, 0) if step.workload.needs_trial and step.subject != FLOOR]
    plans = [trial, *([*_steps(results, bench, number)] for number in range(rounds))]
    progress.begin(sum(map(len, plans)))
    for number, plan in enumerate(plans):
        for step in plan:
            where = " ".join(filter(None, (step.workload.key, step.case.full_title)))
            progress.step(f"{f'round {number}/{rounds}' if number else 'trial'}: {where}: {step.label}")
            _take(results, step, counts=number > 0)
        results.rounds_done = number
    progress.end()


def _steps(results: Results, bench: Bench, number: int) -> list[_Step]:
    """One round's measurements in order."""
    steps: list[_Step] = []
    for workload, cases in results.workloads:
        for case in cases:
            floor = partial(workload.measure_floor, case, bench)
            steps.append(_Step(workload, case, FLOOR, workload.floor_label, floor))
            turn = number % max(1, len(results.subjects))
            for subject in (*results.subjects[turn:], *results.subjects[:turn]):
                if workload.takes(subject) and workload.covers(subject, case):
                    measure = partial(workload.measure, subject, case, bench)
                    steps.append(_Step(workload, case, subject.key, subject.label, measure))
    return steps


def _take(results: Results, step: _Step, counts: bool) -> None:
    series = results.of(step.workload.key, step.case.key, step.subject)
    if len(series.errors) >= _MOST_ERRORS:
        return
    try:
        outcome = step.measure()
    except (RuntimeError, AssertionError, OSError, FloorError) as error:
        series.errors.append(f"{type(error).__name__}: {error}")
        return
    if outcome is not None and counts:
        series.add(outcome)

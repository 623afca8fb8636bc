"""A run: rounds of every workload, case and subject in turn, so that a disturbance of the machine meets all alike.

The order of the subjects moves on by one each round. A subject that fails is reported with its error and tried again in
the next round, but not a third time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.measure import Outcome
from ringcast.cli.lab.progress import Progress
from ringcast.cli.lab.results import FLOOR, Results
from ringcast.cli.lab.workload import Case, Workload

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
    """Make all measurements of a run, into `results`."""
    rounds = bench.settings.rounds
    plans = [_steps(results, bench, number) for number in range(rounds)]
    progress.begin(sum(map(len, plans)))
    for number, plan in enumerate(plans, 1):
        for step in plan:
            where = " ".join(filter(None, (step.workload.key, step.case.full_title)))
            progress.step(f"round {number}/{rounds}: {where}: {step.label}")
            _take(results, step)
        results.rounds_done = number
    progress.end()


def _steps(results: Results, bench: Bench, number: int) -> list[_Step]:
    """One round's measurements in order."""
    steps: list[_Step] = []
    for workload, cases in results.workloads:
        for case in cases:
            if bench.floor is not None or workload.floor_in_python:
                floor = partial(workload.measure_floor, case, bench)
                steps.append(_Step(workload, case, FLOOR, workload.floor_label, floor))
            turn = number % max(1, len(results.subjects))
            for subject in (*results.subjects[turn:], *results.subjects[:turn]):
                if workload.takes(subject) and workload.covers(subject, case):
                    measure = partial(workload.measure, subject, case, bench)
                    steps.append(_Step(workload, case, subject.key, subject.label, measure))
    return steps


def _take(results: Results, step: _Step) -> None:
    series = results.of(step.workload.key, step.case.key, step.subject)
    if len(series.errors) >= _MOST_ERRORS:
        return
    try:
        outcome = step.measure()
    except (RuntimeError, AssertionError, OSError) as error:
        series.errors.append(f"{type(error).__name__}: {error}")
        return
    if outcome is not None:
        series.add(outcome)

"""The project's goals for small messages, waking, CPU, start-up, arrays and tensors, held against a run.

Ratios are of the run's own native floor. The round figures that the design gives for rates are held against the run
too, as goals of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .results import FLOOR, Results
from .text import figure
from .workloads.base import Case, Workload

RINGCAST = "ringcast"
Verdict = Literal["reached", "missed", "not measured"]


@dataclass(frozen=True)
class Judged:
    """A goal and what was found."""

    goal: str
    bound: str
    found: str
    verdict: Verdict


@dataclass(frozen=True)
class _Goal:
    """``limit`` is of the figure itself, or of its ratio to the floor if ``of_floor``.

    With ``of_one_reader`` it is of its ratio to the figure with one reader and the same size.
    """

    workload: str
    metric: str
    goal: str
    limit: Callable[[Case], float | None]
    of_floor: bool
    at_least: bool
    subject: str = RINGCAST
    of_one_reader: bool = False


def _always(limit: float) -> Callable[[Case], float | None]:
    return lambda _case: limit


def _array_limit(case: Case) -> float | None:
    """Of one memcpy, with one reader."""
    if case.n_readers != 1:
        return None
    return 0.85 if case.nbytes >= _MIB else {_MIB // 4: 0.6, _MIB // 16: 0.4}.get(case.nbytes)


def _two_readers_limit(case: Case) -> float | None:
    return 0.9 if case.n_readers == 2 and case.nbytes >= _MIB else None


_MIB = 1 << 20
_RATES = {1: 4e6, 2: 3e6, 4: 2e6, 8: 1e6}

_GOALS = (
    _Goal("latency", "p50", "64-byte one-way latency, p50", _always(3.0), of_floor=True, at_least=False),
    _Goal("rate", "rate", "64-byte rate", _always(0.6), of_floor=True, at_least=True),
    _Goal("rate", "rate", "64-byte rate", lambda case: _RATES.get(case.n_readers), of_floor=False, at_least=True),
    _Goal("objects", "rate", "nested dict of about 1 KiB, rate", _always(0.9), of_floor=True, at_least=True),
    _Goal("wake", "p50", "wake-up after 20 ms of idleness, p50", _always(2.0), of_floor=True, at_least=False),
    _Goal("cpu", "idle", "CPU of an idle reader", _always(0.1), of_floor=False, at_least=False),
    _Goal(
        "cpu", "cadence", "CPU of a reader that gets a message every 5 ms", _always(0.8), of_floor=False, at_least=False
    ),
    _Goal("startup", "ready", "queue made, attached, ready", _always(2.0), of_floor=False, at_least=False),
    _Goal("arrays", "rate", "arrays", _array_limit, of_floor=True, at_least=True),
    _Goal("arrays", "rate", "arrays", _two_readers_limit, of_floor=False, at_least=True, of_one_reader=True),
    _Goal("tensors", "rate", "tensors, copied", _always(0.45), of_floor=True, at_least=True),
    _Goal(
        "tensors",
        "rate",
        "tensors, zero_copy",
        _always(0.8),
        of_floor=True,
        at_least=True,
        subject=f"{RINGCAST}-zero-copy",
    ),
)


def judge(results: Results) -> list[Judged]:
    """Every goal whose workload was part of the run."""
    return [judged for goal in _GOALS for judged in _judge(goal, results)]


def _judge(goal: _Goal, results: Results) -> Iterable[Judged]:
    found = results.workload(goal.workload)
    if found is None:
        return
    workload, cases = found
    for case in cases:
        limit = goal.limit(case)
        if limit is not None:
            one = next((each for each in cases if (each.nbytes, each.n_readers) == (case.nbytes, 1)), None)
            yield _judge_case(goal, limit, results, workload, case, one)


def _judge_case(
    goal: _Goal, limit: float, results: Results, workload: Workload, case: Case, one_reader: Case | None
) -> Judged:
    metric = next(metric for metric in workload.metrics if metric.key == goal.metric)
    title = ", ".join(filter(None, (goal.goal, case.full_title)))
    relation = "at least" if goal.at_least else "at most"
    base = "1 reader" if goal.of_one_reader else workload.floor_label if goal.of_floor else None
    asked = f"{limit:g} x {base}" if base else figure(limit, metric.unit)
    bound = f"{relation} {asked}"
    value = results.value(workload, case, goal.subject, metric)
    if value is None:
        return Judged(title, bound, "-", "not measured")
    shown = figure(value, metric.unit)
    if base is not None:
        base_key, base_case = (goal.subject, one_reader) if goal.of_one_reader else (FLOOR, case)
        ratio = None
        if base_case is not None:
            ratio = results.ratio(workload, case, goal.subject, base_key, metric, base_case)
        if ratio is None or base_case is None:
            return Judged(title, bound, f"{shown}, no {base}", "not measured")
        value = ratio
        shown = f"{shown}, {ratio:.2f} x {figure(results.value(workload, base_case, base_key, metric), metric.unit)}"
    reached = value >= limit if goal.at_least else value <= limit
    return Judged(title, bound, shown, "reached" if reached else "missed")

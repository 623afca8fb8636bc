"""Work of a given CPU time: a count of loops, found once a run, so that being off the CPU makes it take longer.

A loop until the clock says so would not show that: who loses the CPU for a while would have less to do afterwards.
"""

from __future__ import annotations

import time
from functools import cache
from itertools import repeat

_TRIAL_LOOPS = 20_000
_TRIALS = 200


@cache
def loops_of(milliseconds: float) -> int:
    """How many loops take so much CPU time where nothing disturbs them. Call it before forking."""
    return round(milliseconds * _loops_a_millisecond())


def work(loops: int) -> None:
    """Compute."""
    for _ in repeat(None, loops):
        pass


@cache
def _loops_a_millisecond() -> float:
    best = min(_trial_ns() for _ in range(_TRIALS))
    return _TRIAL_LOOPS * 1e6 / best


def _trial_ns() -> int:
    begin = time.thread_time_ns()
    work(_TRIAL_LOOPS)
    return time.thread_time_ns() - begin

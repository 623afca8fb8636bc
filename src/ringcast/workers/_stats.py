"""How long each rank takes, and by how much it is behind the first one: what tells a straggler from a slow call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TypedDict

_KEPT = 512
"""Of so many last answers of each rank the figures are."""


class RankStats(TypedDict):
    """One worker. Times are in seconds, over its last 512 answers; None before the first."""

    rank: int
    pid: int
    alive: bool
    answers: int
    """How many calls it has answered with a result."""
    under_way: int
    """How many it has not answered yet, also of those that nobody waits for any more."""
    latency_p50: float | None
    """From the call to the worker's answer."""
    latency_p99: float | None
    behind_p50: float | None
    """By how much it answered later than the first rank of the same call: 0 for the first."""
    behind_p99: float | None
    slowest: float
    """The part of these calls whose last answer was its."""


class GroupStats(TypedDict):
    """What `WorkerGroup.stats` returns."""

    under_way: int
    """Calls that not all ranks have answered."""
    ranks: list[RankStats]


class Answered:
    """When answers were made, by the clock that all processes of a machine share. What follows from it is worked out
    when somebody asks."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = tuple(ranks)
        self._calls = 0
        """Of all ranks."""
        self._of_all: deque[tuple[float, Mapping[int, float]]] = deque(maxlen=_KEPT)
        self._counts: dict[int, int] = dict.fromkeys(ranks, 0)
        self._of_some: dict[int, deque[tuple[float, Mapping[int, float]]]] = {
            rank: deque(maxlen=_KEPT) for rank in ranks
        }

    def note(self, asked_at: float, times: Mapping[int, float]) -> None:
        """When each rank of one call has answered."""
        if len(times) == len(self._ranks):
            self._calls += 1
            self._of_all.append((asked_at, times))
            return
        for rank in times:
            self._counts[rank] += 1
            self._of_some[rank].append((asked_at, times))

    def of(self, rank: int, pid: int, alive: bool, under_way: int) -> RankStats:
        """The last calls."""
        kept = sorted((*self._of_all.copy(), *self._of_some[rank].copy()), key=itemgetter(0))[-_KEPT:]
        latencies = sorted(times[rank] - asked_at for asked_at, times in kept)
        shared = [times for _, times in kept if len(times) > 1]
        behind = sorted(times[rank] - min(times.values()) for times in shared)
        last = sum(times[rank] == max(times.values()) for times in shared)
        return {
            "rank": rank, "pid": pid, "alive": alive, "answers": self._calls + self._counts[rank],
            "under_way": under_way, "latency_p50": _part(latencies, 0.5), "latency_p99": _part(latencies, 0.99),
            "behind_p50": _part(behind, 0.5), "behind_p99": _part(behind, 0.99),
            "slowest": last / len(shared) if shared else 0.0,
        }  # fmt: skip


def _part(ordered: list[float], part: float) -> float | None:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None

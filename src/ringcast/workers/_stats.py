"""How long each rank takes, and by how much it is behind the first one: what tells a straggler from a slow call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
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
    """When answers were made, by the clock that all processes of a machine share."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.counts: dict[int, int] = dict.fromkeys(ranks, 0)
        self._latencies: dict[int, deque[float]] = {rank: deque(maxlen=_KEPT) for rank in ranks}
        self._behind: dict[int, deque[float]] = {rank: deque(maxlen=_KEPT) for rank in ranks}
        self._last: dict[int, deque[bool]] = {rank: deque(maxlen=_KEPT) for rank in ranks}

    def note(self, rank: int, seconds: float) -> None:
        self.counts[rank] += 1
        self._latencies[rank].append(seconds)

    def compare(self, times: Mapping[int, float]) -> None:
        """When each rank of one call answered."""
        first, last = min(times.values()), max(times.values())
        for rank, at in times.items():
            self._behind[rank].append(at - first)
            self._last[rank].append(at == last)

    def of(self, rank: int, pid: int, alive: bool, under_way: int) -> RankStats:
        latencies, behind = sorted(self._latencies[rank]), sorted(self._behind[rank])
        last = list(self._last[rank])
        return {
            "rank": rank, "pid": pid, "alive": alive, "answers": self.counts[rank], "under_way": under_way,
            "latency_p50": _part(latencies, 0.5), "latency_p99": _part(latencies, 0.99),
            "behind_p50": _part(behind, 0.5), "behind_p99": _part(behind, 0.99),
            "slowest": sum(last) / len(last) if last else 0.0,
        }  # fmt: skip


def _part(ordered: list[float], part: float) -> float | None:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None

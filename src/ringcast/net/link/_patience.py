"""When a link gives a stream up whose other side is there and does nothing.

A reader that does not read may do so for as long as its writer's policy allows, on any machine; its link says that it
waits for one. A link that takes nothing without saying so, or does not go on without a reader that it was asked to go
on without, is as one that is out of reach.
"""

from __future__ import annotations

from typing import Any


class Patience:
    """Of one stream. `seconds`: with a link; `evicts_within`: how long, by the policy, one may wait for its readers
    before it has evicted them all, None: as long as it likes."""

    def __init__(self, seconds: float, evicts_within: float | None) -> None:
        self._seconds = seconds
        self._evicts_within = evicts_within
        self._progress: Any = None
        self._since: float | None = None  # nothing has gone on
        self._heeded: dict[int, int] = {}  # wishes to go on without a rank, by rank
        self._wished: dict[int, float] = {}  # since when one is not heeded

    def heed(self, rank: int, wishes: int) -> None:
        """So many of the writer's wishes are fulfilled, or were another reader's."""
        self._heeded[rank] = wishes
        self._wished.pop(rank, None)

    def is_wished(self, rank: int) -> bool:
        """Does the writer wish to go on without it, and has not been heeded?"""
        return rank in self._wished

    def ends(
        self,
        now: float,
        *,
        connected: bool,
        under_way: bool,
        progress: Any,
        waits_for_readers: bool,
        wishes: dict[int, int],
    ) -> str:
        """Why, if it does. `wishes`: the writer's, for each rank that reads through this stream."""
        self._wished = {
            rank: self._wished.get(rank, now) for rank, count in wishes.items() if count > self._heeded.get(rank, 0)
        }
        if not connected:
            self._since = None  # which has a patience of its own
            return ""
        for rank, since in self._wished.copy().items():  # one may be heeded just now
            if now - since > self._seconds:
                return f"it was asked to go on without rank {rank}, and has not done so for {self._seconds:g} s"
        if not under_way or progress != self._progress or self._since is None:
            self._since, self._progress = now, progress
            return ""
        if waits_for_readers and self._evicts_within is None:
            self._since = now
            return ""
        patience = self._seconds + (self._evicts_within or 0.0 if waits_for_readers else 0.0)
        if now - self._since > patience:
            return f"nothing has arrived there for {patience:g} s, although its connection is up"
        return ""

"""What becomes of the readers of a relay, as the writer's link is told: seen by their seats, and heard from its end."""

from __future__ import annotations

import logging
import threading
from typing import Any

from ringcast import _core

log = logging.getLogger("ringcast.link")


class Readers:
    """What becomes of the readers here. It hears what a writer's end reports."""

    segment = ""
    name = None
    role = "writer"
    rank = None

    def __init__(self) -> None:
        self._known: dict[int, list[Any]] = {}  # rank: state, pid, behind, cause, position
        self._lacked: dict[int, int] = {}  # what had not been read for a rank when its reader came
        self._expected_at: dict[int, int] = {}  # by rank: the desk's place of who was given it last, while he has it
        self._lock = threading.Lock()

    @property
    def are_awaited(self) -> bool:
        """Is somebody about to attach?"""
        with self._lock:
            return any(known[0] == "placed" and rank in self._expected_at for rank, known in self._known.items())

    def expect(self, rank: int, pid: int, place: int) -> None:
        with self._lock:
            self._known[rank] = ["placed", pid, 0, None, None]
            self._expected_at[rank] = place

    def expect_nobody(self, rank: int, place: int) -> None:
        """Who was given the rank has left his place at the desk: if he has not attached, nobody is about to."""
        with self._lock:
            if self._expected_at.get(rank) == place:
                del self._expected_at[rank]

    def forget(self, rank: int) -> None:
        with self._lock:
            self._known.pop(rank, None)
            self._expected_at.pop(rank, None)

    def evicted(self, rank: int, cause: str, behind: int) -> None:
        with self._lock:
            if rank in self._known:
                self._known[rank][:] = ["evicted", self._known[rank][1], behind, cause, None]

    def states(self, segment: _core.Segment, ranks: set[int]) -> list[list[Any]]:
        """Of each rank that is placed here: rank, state, pid, messages behind, cause, position."""
        head = segment.head
        missed = dict(segment.missed())
        mine = [seat for seat in segment.seats() if seat[1] in ranks and seat[3] != "vacant"]
        seats = {seat[1]: seat for seat in sorted(mine, key=lambda seat: seat[3] == "active")}
        with self._lock:
            for rank, known in self._known.items():
                seat = seats.get(rank)
                if seat is not None and seat[3] in ("active", "failed"):
                    alive = seat[4] and seat[3] == "active"
                    if alive and not (known[0] == "evicted" and known[1] == seat[2]):
                        fresh = known[0] != "attached" or known[1] != seat[2]
                        if fresh:
                            self._lacked[rank] = missed.get(rank, 0)
                        position = seat[6] if fresh else known[4]
                        known[:] = ["attached", seat[2], max(0, head - seat[6]), None, position]
                    elif not alive and known[0] in ("attached", "placed", "died"):
                        known[:] = ["died", seat[2], max(0, head - seat[6]), None, None]
                elif known[0] == "placed" and rank in self._expected_at:
                    pass  # it is about to attach
                elif seat is None and known[0] in ("placed", "attached"):
                    lacks = missed.get(rank, 0) - self._lacked.get(rank, 0)
                    known[:] = ["left", known[1], 0, None, head - lacks]
                elif known[0] == "placed":
                    known[1] = 0  # nobody is: whoever comes may have the rank, for which all is kept as before
            return [[rank, *known] for rank, known in self._known.items()]

    def eviction(self, _: Any, rank: int, pid: int, cause: str, behind: int, waited_s: float) -> None:
        log.warning("rank %d (pid %d) was evicted here, %d messages behind: %s", rank, pid, behind, cause)
        self.evicted(rank, cause, behind)

    def loss(self, _: Any, rank: int, pid: int, cause: str, first: int, count: int, absent: bool) -> None:
        """Told by the states: the writer's own end counts what it sends from there on."""

    def long_wait(self, _: Any, waited_s: float) -> None:
        log.info("the stream has waited %.0f s for its readers here", waited_s)

    def self_wait(self, _: Any, waited_s: float) -> None:
        """Never: its readers are other processes."""

    def chunk_wait(self, _: Any, waited_s: float) -> None:
        """Never: it opens no chunks."""

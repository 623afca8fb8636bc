"""How readers come to a queue: its name may not exist yet, and the rank's last reader may be about to leave, as that of
a worker that is being replaced. Both are waited for, within one time-out."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ringcast._names import other_owners
from ringcast._segment import GATING_STATES
from ringcast.errors import RankError, RankTakenError, SegmentNotFoundError

if TYPE_CHECKING:
    from ringcast import _core
    from ringcast._end import QueueEnd

_LONGEST_NAP_S = 0.02

End = TypeVar("End", bound="QueueEnd")


class Patience:
    """Naps until a deadline, for what cannot be waited on: a name that does not exist, a lock that is held."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._nap_s = 0.0005

    def nap(self) -> bool:
        """Waits a moment; False, at once, if the time is over."""
        left = float("inf") if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(self._nap_s, left))  # nothing tells when a name appears or a lock is let go
        self._nap_s = min(self._nap_s * 2, _LONGEST_NAP_S)
        return True


def find_living(
    name: str, real_name: str, look: Callable[[], _core.Segment], patience: Patience, rank: int | None
) -> _core.Segment:
    """The segment of the living queue `name`, as `look` finds it, waited for; or of a closed one whose writer waits for
    `rank`, to which it has promised messages."""
    while True:
        try:
            segment = look()
            # A closed queue's name is about to go, a dead writer's to be taken over: wait for a living one.
            if segment.creator_alive and (not segment.closed or _is_kept_for(segment, rank)):
                break
            found = f"{segment.label} has ended: its writer (pid {segment.creator_pid}) closed it or died"
        except SegmentNotFoundError:
            found = f"no queue has the name {name!r} (segment {real_name!r})"
            if owners := other_owners(real_name):
                users = ", ".join(map(str, owners))
                found += f"; a queue of uid {users} has it, but each user has names of his own, and only he may attach"
        if not patience.nap():
            raise SegmentNotFoundError(
                f"waited {patience.timeout} s to attach, but {found}; is its writer running, and, if in another "
                "container, do the two share /dev/shm (docker run --ipc=host)?"
            )
    if segment.user_name != name:
        raise SegmentNotFoundError(
            f"segment {real_name!r} belongs to a queue named {segment.user_name!r}, not {name!r}"
        )
    return segment


def _is_kept_for(segment: _core.Segment, rank: int | None) -> bool:
    return any(of == rank and state in GATING_STATES and not alive for _, of, _, state, alive, *_ in segment.seats())


def take_rank(
    open_end: Callable[[_core.Segment], End],
    segment: _core.Segment,
    rank: int | None,
    patience: Patience,
    *,
    only_living: bool = False,
) -> End | None:
    """The end that `open_end` makes once `rank`, or any, is free. None if the queue ends before, and `only_living`.

    Raises RankError; RankTakenError that says who has the rank.
    """
    if rank is not None and rank not in segment.ranks:
        ranks = ", ".join(map(str, segment.ranks)) or "none"
        raise RankError(f"{segment.label}: rank {rank} is not one of its local ranks: {ranks}")
    collected = False
    while True:
        try:
            return open_end(segment)
        except RankTakenError as error:
            taken = error
        if only_living and (segment.closed or not segment.creator_alive):
            return None
        holders = _holders(segment, rank)
        if not collected and any(pid == os.getpid() for _, pid, _ in holders):
            collected = True
            gc.collect()  # a reader of this process that nobody refers to any more, but in a cycle
            continue
        if not patience.nap():
            raise _described(taken, rank, holders, patience.timeout)


def _holders(segment: _core.Segment, rank: int | None) -> list[tuple[int, int, str]]:
    """(rank, pid, process) of every living reader that has the rank, or any."""
    return [
        (of, pid, process)
        for _, of, pid, state, alive, process, *_ in segment.seats()
        if alive and state in ("active", "failed") and rank in (None, of)
    ]


def _described(
    taken: RankTakenError, rank: int | None, holders: list[tuple[int, int, str]], timeout: float | None
) -> RankTakenError:
    who = ", ".join(
        f"rank {of} in {'this process' if pid == os.getpid() else 'process'} {pid}"
        f"{'' if process == 'unknown' else f', which is {process}'}"
        for of, pid, process in holders
    )
    error = RankTakenError(
        f"{taken}; in use by {'living readers' if len(holders) > 1 else 'a living reader'} "
        f"({who or 'just coming or going'}), and not free within the {timeout} s that were waited: "
        "close that reader, wait longer (timeout=), or take another rank"
    )
    error.rank = rank
    error.pid = holders[0][1] if holders else None
    return error

"""Workers that somebody else has started: the ranks of a process group, but the one that calls.

They meet through queues that the group makes; who they are and whether they live is what the queues say. Nobody is
started, signalled or brought back: that is for whoever started them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringcast.errors import ArgumentError, CallTimeoutError, WorkerDiedError
from ringcast.queue import Handle, MessageQueue
from ringcast.waiting import Wait
from ringcast.workers import _rank
from ringcast.workers._attendant import Attendant
from ringcast.workers._birth import RING_DEPTH
from ringcast.workers._call import Call
from ringcast.workers._calls import Calls
from ringcast.workers._failures import packed
from ringcast.workers._records import DONE, RAISED
from ringcast.workers._serving import Server

if TYPE_CHECKING:
    from ringcast.net._any_group import AnyGroup

_CHUNK_BYTES = 1 << 20
_BIRTH = 0
"""The number of the call, as it were, that makes the objects: nothing else is under way then."""


class AdoptedWorker:
    """A rank as the controller sees it."""

    def __init__(self, rank: int, pid: int) -> None:
        self.rank = rank
        self.pid = pid
        self.ended = threading.Event()


class Adopted:
    """On the controller, in the place of a Crew."""

    def __init__(
        self, label: str, ring: MessageQueue[Any], handles: Sequence[Handle], rank: int, wait: Wait,
        timeout: float | None,
    ) -> None:  # fmt: skip
        self._pid = os.getpid()
        ranks = [other for other in range(len(handles)) if other != rank]
        self.calls = Calls(ring, ranks, label, self._ended, wait)
        self._attendant = Attendant(self.calls)
        self.workers: list[AdoptedWorker] = []
        self._label = label
        for other in ranks:
            own: MessageQueue[Any] = MessageQueue.create_from_handle(handles[other], 0, wait=wait)
            assert own._segment is not None
            self.workers.append(AdoptedWorker(other, own._segment.creator_pid))
            self.calls.rings.add(other, own)
        born = Call("__init__", tuple(ranks), False, timeout)
        born.number = _BIRTH
        self.calls.under_way[_BIRTH] = born
        if not self.calls.wait(born, born.expires):
            late = tuple(sorted(born.waiting))
            raise CallTimeoutError(f"{label}: rank {', '.join(map(str, late))} not ready within {timeout} s", late)
        self.calls.under_way.pop(_BIRTH, None)
        born.outcome()

    def respawn(self, rank: int, timeout: float | None) -> None:
        raise ArgumentError(f"{self._label}: rank {rank} was adopted: who started it can bring it back, in a new group")

    def end(self, timeout: float, why: str) -> None:
        """They hear it, and go on with what comes after `adopt` in their programs."""
        if self._pid != os.getpid():
            return
        self.calls.close(why)
        until = time.monotonic() + timeout
        while time.monotonic() < until and not all(worker.ended.is_set() for worker in self.workers):
            if not self.calls.look() or not all(worker.ended.is_set() for worker in self.workers):
                time.sleep(0.001)
        self._attendant.end()
        self.calls.let_go()

    def drop(self) -> None:
        """For finalizers."""
        self.calls.close("was dropped without close()")

    def _ended(self, rank: int) -> None:
        worker = next(worker for worker in self.workers if worker.rank == rank)
        if worker.ended.is_set():
            return
        worker.ended.set()
        calls = self.calls
        if calls.closed is not None:
            return
        first = next((call for call in list(calls.under_way.values()) if rank in call.waiting), None)
        doing = "and it had no call" if first is None else f"in {first.told}"
        error = WorkerDiedError(f"{self._label}: rank {rank} (pid {worker.pid}) has ended, {doing}")
        error.rank, error.pid = rank, worker.pid
        calls.dead[rank] = "has ended"
        calls.deaths.append((rank, error))


def adopt(
    pg: AnyGroup,
    kind: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    controller: int,
    allow_callables: bool,
    trust_store: bool,
    max_bytes: int | None,
    wait: Wait,
    timeout: float | None,
) -> Adopted | None:
    """Collective. On the controller the workers, elsewhere None, once the controller has closed its group."""
    from ringcast.net._any_group import ranks_of

    group, _ = ranks_of(pg, timeout, trust_store=trust_store)
    if group.size < 2:
        raise ArgumentError("the process group has one rank: a worker group needs a worker besides its controller")
    options: dict[str, Any] = {"timeout": timeout, "trust_store": trust_store, "max_bytes": max_bytes, "wait": wait}
    calls: MessageQueue[Any] = MessageQueue.create_from_process_group(
        pg, _CHUNK_BYTES, RING_DEPTH, writer_rank=controller, on_reader_death="evict", **options
    )
    answers, handles = MessageQueue.create_from_process_group_single_reader(
        pg, _CHUNK_BYTES, RING_DEPTH, reader_rank=controller, **options
    )
    name = getattr(kind, "__qualname__", type(kind).__qualname__)
    if group.rank == controller:
        answers.close(0)
        return Adopted(f"WorkerGroup.adopt({name}, {group.size - 1})", calls, handles, controller, wait, timeout)
    with calls, answers, _rank.of_worker(group.rank):
        try:
            target = kind(*args, **kwargs)
        except Exception as error:
            answers.enqueue((_BIRTH, group.rank, RAISED, packed(error), 0.0))
            raise
        answers.enqueue((_BIRTH, group.rank, DONE, None, 0.0))
        Server(calls, answers, target, group.rank, allow_callables, lambda: 0.0).serve()
    return None

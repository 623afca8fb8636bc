"""Workers that somebody else has started: the ranks of a process group, but the one that calls, or with it.

They meet through queues that the group makes; who they are and whether they live is what the queues say. Nobody is
started, signalled or brought back: that is for whoever started them.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from ringcast.errors import ArgumentError, CallTimeoutError
from ringcast.queue import Handle, MessageQueue
from ringcast.waiting import Wait
from ringcast.workers import _rank
from ringcast.workers._asking import Telling
from ringcast.workers._birth import RING_DEPTH
from ringcast.workers._call import Call
from ringcast.workers._failures import packed
from ringcast.workers._guests import CHUNK_BYTES, Guest, Guests
from ringcast.workers._records import DONE, RAISED
from ringcast.workers._serving import Server

if TYPE_CHECKING:
    from ringcast.net._any_group import AnyGroup

_ASKS_BYTES, _ASKS_DEPTH = 1 << 12, 4
_BIRTH = 0
"""The number of the call, as it were, that makes the objects: nothing else is under way then."""

Make = Callable[[], Any]


class Adopted(Guests):
    """On the controller."""

    def __init__(
        self, label: str, ring: MessageQueue[Any], asks: MessageQueue[Any], handles: Mapping[int, Handle],
        own: OwnRank | None, wait: Wait,
    ) -> None:  # fmt: skip
        super().__init__(label, ring, asks, [Guest(rank) for rank in handles], wait)
        self.calls.can_respawn = False
        self._own = own
        for rank, handle in handles.items():
            end: MessageQueue[Any] = MessageQueue.create_from_handle(handle, 0, wait=wait)
            self.calls.rings.add(rank, end)

    def start(self, timeout: float | None) -> None:
        """Until all objects are made. Raises what keeps any from being made."""
        calls = self.calls
        born = Call("__init__", calls.every, False, timeout)
        born.number = _BIRTH
        calls.under_way[_BIRTH] = born
        if self._own is not None:
            calls.own_thread = self._own.start()
        try:
            if not calls.wait(born, born.expires):
                late = tuple(sorted(born.waiting))
                stacks = self._asking.stacks(late)
                shown = "".join(f"\nrank {rank}:\n{text}" for rank, text in stacks.items())
                raise CallTimeoutError(
                    f"{self.label}: rank {', '.join(map(str, late))} not ready within {timeout} s{shown}", late, stacks
                )
            for rank, (host, pid) in zip(born.ranks, born.outcome(), strict=True):
                self.worker(rank).is_at(host, pid)
        except BaseException:
            self.end(0.0, "could not be started")
            raise
        finally:
            calls.under_way.pop(_BIRTH, None)
        self._thread.start()

    def respawn(self, rank: int, timeout: float | None) -> None:
        raise ArgumentError(f"{self.label}: rank {rank} was adopted: who started it can bring it back, in a new group")

    def end(self, timeout: float, why: str) -> None:
        """They hear it, and go on with what comes after `adopt` in their programs."""
        if self._pid != os.getpid():
            return
        self.calls.close(why)
        self._await_ends(timeout)
        self._let_go()


class OwnRank:
    """The controller as a rank: a thread of its process, which makes and keeps the object, and serves as others do."""

    def __init__(self, ends: ExitStack, serve: Callable[[], object], rank: int) -> None:
        self._ends = ends
        self._serve = serve
        self._rank = rank
        self._thread = threading.Thread(target=self._run, name=f"ringcast-rank-{rank}", daemon=True)

    def start(self) -> int | None:
        """Which thread it is."""
        self._thread.start()
        return self._thread.ident

    def _run(self) -> None:
        with self._ends, _rank.of_thread(self._rank), suppress(SystemExit):  # of a call, and not the process's end
            self._serve()


def adopt(
    pg: AnyGroup,
    kind: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    controller: int,
    include_self: bool,
    allow_callables: bool,
    trust_store: bool,
    max_bytes: int | None,
    wait: Wait,
    timeout: float | None,
) -> Adopted | None:
    """Collective. On the controller the workers, elsewhere None, once the controller has closed its group."""
    from ringcast.net._any_group import ranks_of
    from ringcast.net._queues import all_to_one, one_to_all

    group, _ = ranks_of(pg, timeout, trust_store=trust_store)
    if group.size < 2 and not include_self:
        raise ArgumentError(
            "the process group has one rank: a worker group needs a worker besides its controller, or include_self=True"
        )
    common = (timeout, trust_store)
    sent: dict[str, Any] = {"on_reader_death": "evict", "wait": wait}
    received = {"wait": wait}

    def from_controller(nbytes: int, depth: int, **options: Any) -> MessageQueue[Any]:
        return one_to_all(
            MessageQueue, pg, nbytes, depth, controller, None, not include_self, *common, sent | options, received,
            writer_reads=include_self,
        )  # fmt: skip

    with ExitStack() as ends:
        calls = ends.enter_context(from_controller(CHUNK_BYTES, RING_DEPTH, max_bytes=max_bytes))
        asks = ends.enter_context(from_controller(_ASKS_BYTES, _ASKS_DEPTH))
        answers, handles = all_to_one(
            MessageQueue, pg, CHUNK_BYTES, RING_DEPTH, controller, False, *common,
            {"max_bytes": max_bytes, "wait": wait},
        )  # fmt: skip
        ends.enter_context(answers)

        def make() -> Any:
            return kind(*args, **kwargs)

        if group.rank != controller:
            with _rank.of_worker(group.rank):
                error = _serve(calls, asks, answers, group.rank, make, allow_callables)
            if error is not None:
                raise error
            return None
        ranks = [rank for rank in range(group.size) if include_self or rank != controller]
        own: OwnRank | None = None
        if include_self:
            own_calls = MessageQueue.create_from_handle(calls.export_handle(), controller, wait=wait)
            own_asks = MessageQueue.create_from_handle(asks.export_handle(), controller, wait=wait)
            theirs = ExitStack()
            for end in (own_calls, own_asks, answers):
                theirs.enter_context(end)
            own = OwnRank(
                theirs, lambda: _serve(own_calls, own_asks, answers, controller, make, allow_callables), controller
            )  # where the object cannot be made, the group says so
        else:
            answers.close(0)
        name = getattr(kind, "__qualname__", type(kind).__qualname__)
        label = f"WorkerGroup.adopt({name}, {len(ranks)})"
        adopted = Adopted(label, calls, asks, {rank: handles[rank] for rank in ranks}, own, wait)
        ends.pop_all()
    adopted.start(timeout)
    return adopted


def _serve(
    calls: MessageQueue[Any], asks: MessageQueue[Any], answers: MessageQueue[Any], rank: int, make: Make,
    allow_callables: bool,
) -> Exception | None:  # fmt: skip
    """What a rank does until the controller closes its group; or returns why its object cannot be made."""
    telling = Telling(asks, answers, rank)
    try:
        try:
            target = make()
        except Exception as error:
            answers.enqueue((_BIRTH, rank, RAISED, packed(error), 0.0))
            return error
        answers.enqueue((_BIRTH, rank, DONE, (socket.gethostname(), os.getpid()), 0.0))
        Server(calls, answers, target, rank, allow_callables, lambda: 0.0).serve()
        return None
    finally:
        telling.end()

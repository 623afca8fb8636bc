"""Who shares memory with a rank: found by really doing it, both ways, with a queue of their own.

The source makes a queue, whose segment has a random name and epoch, and writes a nonce into it. Each rank that finds
the segment reads the nonce, takes its seat there, which is a lock byte and its mark in the memory, and says what it
read. The source looks whether it sees all that: the same nonce, the seat taken, its lock held. So what is found is
what queues need: shared memory, locks that both sides see, and the same user.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ringcast._handle import checked_handle
from ringcast.errors import RingcastError
from ringcast.net._any_group import ranks_of
from ringcast.net._group import Collective
from ringcast.net._records import about, foreign

if TYPE_CHECKING:
    from ringcast.net._any_group import AnyGroup
    from ringcast.queue import MessageQueue

STEPS = ("offer", "answer", "verdict")


def in_the_same_node_as(pg: AnyGroup, source_rank: int = 0, *, timeout: float | None = None) -> list[bool]:
    """Collective: for each rank of the group, whether it shares memory with `source_rank`.

    Found by opening a real segment, on both sides, not by comparing names of hosts. `pg` is a StatelessProcessGroup
    or a group of torch.distributed. Raises GroupError and its kinds; what fails on the source fails on all ranks.

    >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
    ...     in_the_same_node_as(group)
    [True]
    """
    from ringcast.net._stateless import checked_rank

    group, seconds = ranks_of(pg, timeout)
    source_rank = checked_rank("source_rank", source_rank, group.size)
    with group.enter("in_the_same_node_as", {"source_rank": source_rank}, seconds, *STEPS) as here:
        return sharing(here, source_rank)


def sharing(here: Collective, source: int) -> list[bool]:
    """The steps of it, in a collective that has them."""
    group = here.group
    others = [rank for rank in range(group.size) if rank != source]
    if not others:
        return [True]
    with ExitStack() as ends:
        if group.rank != source:
            offer = here.objects("offer", [source])[0]
            here.say_object("answer", answer(ends, offer, others.index(group.rank)))
            found = here.objects("verdict", [source])[0]
            if type(found) is not list or len(found) != group.size or any(type(one) is not bool for one in found):
                raise about(foreign(f"what came from {group.named([source])} of who shares its memory", found), source)
            verdict: list[bool] = found
            return verdict
        offering = ends.enter_context(Offer(len(others)))
        here.say_object("offer", offering.said)
        shared = offering.shares(here.objects("answer", others))
        shares = [rank == source or shared[others.index(rank)] for rank in range(group.size)]
        here.say_object("verdict", shares)
        return shares


class Offer:
    """The source's side: a queue with a nonce in it, and a seat for each of the others."""

    def __init__(self, n: int) -> None:
        from ringcast.queue import MessageQueue

        self._nonce = secrets.token_hex(16)
        self._queue: MessageQueue[Any] = MessageQueue(n, max_chunk_bytes=64, max_chunks=1, max_bytes=1 << 20)
        handle = self._queue.export_handle()
        self._queue.enqueue(self._nonce.encode())
        self.said = [handle.segment, handle.epoch, list(handle.local_reader_ranks), list(handle.ring)]
        """What the others get, as JSON has it."""

    def shares(self, answers: Sequence[Any]) -> list[bool]:
        """By seat, of those who have answered and still hold their seats."""
        taken = {reader["rank"] for reader in self._queue.stats()["readers"] if reader["alive"]}
        return [said == self._nonce and seat in taken for seat, said in enumerate(answers)]

    def __enter__(self) -> Offer:
        return self

    def __exit__(self, *_: object) -> None:
        """Also without those who have not come for what was written."""
        for rank in range(self._queue.stats()["n_reader"]):
            self._queue.evict(rank)
        self._queue.close(0)


def answer(ends: ExitStack, offer: Any, seat: int) -> str | None:
    """What this rank reads in the source's memory, if it is its own memory, too. Its seat is held for as long as `ends`
    is."""
    from ringcast.queue import MessageQueue

    try:
        reader = MessageQueue.create_from_handle(checked_handle(offer), seat, allow_pickle=False, timeout=0)
        ends.callback(reader.close)
        read = reader.dequeue(timeout=0)
        return bytes(read).decode("ascii", "replace") if isinstance(read, bytes | memoryview) else None
    except RingcastError:
        return None

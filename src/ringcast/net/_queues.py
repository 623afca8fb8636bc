"""Queues that a whole group makes: from one rank to all others, or from every rank to one.

One collective each: all come with the same arguments, find out who shares memory with the one writer, or the one
reader, make the queue, pass its handle round, and attach. What fails on one rank fails on all that wait for it. Ranks
that share no memory with the writer read over a link between machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ringcast import _arguments
from ringcast._extras import needed
from ringcast._handle import Handle, checked_handle
from ringcast.errors import ArgumentError, GroupMismatchError, RingcastError
from ringcast.net._any_group import ranks_of
from ringcast.net._group import Collective, Group
from ringcast.net._records import about, foreign
from ringcast.net._same_node import STEPS, sharing
from ringcast.net._stateless import checked_rank
from ringcast.net.link import _ends

if TYPE_CHECKING:
    from ringcast.net._any_group import AnyGroup
    from ringcast.queue import MessageQueue

Queue = TypeVar("Queue", bound="MessageQueue[Any]")


def one_to_all(
    kind: type[Queue],
    pg: AnyGroup,
    max_chunk_bytes: int,
    max_chunks: int,
    writer_rank: int,
    external: Handle | None,
    blocking: bool,
    timeout: float | None,
    trust_store: bool,
    for_writer: Mapping[str, Any],
    for_readers: Mapping[str, Any],
    *,
    writer_reads: bool = False,
) -> Queue:
    """A queue that `writer_rank` writes and all others read; or, if another process writes it, that all read.

    With `writer_reads` the writer's rank has a seat, too, which is taken by a handle that the writer exports.
    """
    group, seconds = ranks_of(pg, timeout, trust_store=_arguments.flag("trust_store", trust_store))
    writer_rank = checked_rank("writer_rank", writer_rank, group.size)
    external = None if external is None else checked_handle(external)
    same = _same(kind, max_chunk_bytes, max_chunks, blocking) | {"writer_rank": writer_rank}
    if writer_reads:
        same["writer_reads"] = True
    with group.enter("create_from_process_group", same, seconds, "come", *STEPS, "handle", "attached") as here:
        given = [part == b"external" for part in here.exchange("come", b"" if external is None else b"external")]
        if any(given) and not given[writer_rank]:
            raise about(
                GroupMismatchError(
                    f"{group.named(rank for rank in range(group.size) if given[rank])} came with "
                    f"external_writer_handle, and {group.named([writer_rank])}, the writer, which passes it on, did not"
                ),
                writer_rank,
            )
        if group.size == 1 and external is None and not writer_reads:
            raise ArgumentError("the group has one rank: a queue needs a reader besides its writer")
        elsewhere = _elsewhere(here, writer_rank)
        if group.rank != writer_rank:
            handle = _handle_of(here, writer_rank, here.objects("handle", [writer_rank])[0])
            end = kind.create_from_handle(handle, group.rank, **for_readers)
        elif external is not None:
            end = kind.create_from_handle(external, group.rank, **for_readers)
        else:
            readers = [rank for rank in range(group.size) if writer_reads or rank != writer_rank]
            ranks = [rank for rank in readers if rank not in elsewhere]
            end = kind(len(readers), len(ranks), ranks, *_sizes(same), **for_writer)
            _lead(end, group)
        try:
            if group.rank == writer_rank:
                here.say_object("handle", _plain(end.export_handle() if external is None else external))
            if blocking:
                here.exchange("attached", b"")
                end.wait_until_ready(here.deadline.left)
        except BaseException:
            with suppress(RingcastError):  # of readers that have not come
                end.close(0)
            raise
        return end


def all_to_one(
    kind: type[Queue],
    pg: AnyGroup,
    max_chunk_bytes: int,
    max_chunks: int,
    reader_rank: int,
    blocking: bool,
    timeout: float | None,
    trust_store: bool,
    for_writer: Mapping[str, Any],
) -> tuple[Queue, list[Handle]]:
    """Each rank's own queue, which `reader_rank` reads; and there, all ranks' handles."""
    group, seconds = ranks_of(pg, timeout, trust_store=_arguments.flag("trust_store", trust_store))
    reader_rank = checked_rank("reader_rank", reader_rank, group.size)
    same = _same(kind, max_chunk_bytes, max_chunks, blocking) | {"reader_rank": reader_rank}
    everybody = range(group.size)
    with group.enter("create_from_process_group_single_reader", same, seconds, "come", *STEPS, "handle") as here:
        here.exchange("come", b"")
        local = [] if group.rank in _elsewhere(here, reader_rank) else [0]
        end = kind(1, len(local), local, *_sizes(same), **for_writer)
        _lead(end, group)
        try:
            here.say_object("handle", _plain(end.export_handle()))
            if group.rank == reader_rank:
                handles = here.objects("handle", everybody)
                return end, [_handle_of(here, rank, handle) for rank, handle in enumerate(handles)]
            here.hear("handle", everybody)
            if blocking:
                end.wait_until_ready(here.deadline.left)
        except BaseException:
            with suppress(RingcastError):  # of readers that have not come
                end.close(0)
            raise
        return end, []


def _same(kind: type[Any], max_chunk_bytes: int, max_chunks: int, blocking: bool) -> dict[str, Any]:
    """What all ranks must have in common."""
    return {
        "max_chunk_bytes": _arguments.checked("max_chunk_bytes", max_chunk_bytes, most=_arguments.INT64_MAX),
        "max_chunks": _arguments.checked("max_chunks", max_chunks),
        "blocking": _arguments.flag("blocking", blocking),
        "class": kind.__qualname__,
    }


def _sizes(same: Mapping[str, Any]) -> tuple[int, int]:
    return same["max_chunk_bytes"], same["max_chunks"]


def _elsewhere(here: Collective, rank: int) -> list[int]:
    """The ranks that share no memory with this one. They read, or write, over links, which all ranks share."""
    group = here.group
    elsewhere = [other for other, shares in enumerate(sharing(here, rank)) if not shares]
    if elsewhere:
        needed(
            "cryptography",
            f"a queue between {group.named([rank])} and {group.named(elsewhere)}, on other machines,",
        )
        _ends.job(group.job)
    return elsewhere


def _lead(end: MessageQueue[Any], group: Group) -> None:
    """Where its link listens, if it has one: on the way to where the group has met."""
    if end._linking is not None and end._linking["connect_ip"] is None:
        end._linking["towards"] = group.store_ip


def _handle_of(here: Collective, rank: int, found: Any) -> Handle:
    """What a rank has passed round. Raises GroupError."""
    try:
        return checked_handle(found)
    except ArgumentError as error:
        raise about(foreign(f"the handle that came from {here.group.named([rank])}", found), rank) from error


def _plain(handle: Handle) -> list[Any]:
    """A handle as JSON has it."""
    attributes = [list(pair) for pair in handle.attributes]
    return [
        handle.segment, handle.epoch, list(handle.local_reader_ranks), list(handle.ring),
        handle.remote_address, handle.remote_address_is_ipv6, attributes, handle.job, handle.key, handle.encrypt,
    ]  # fmt: skip

"""What a queue looks like: the one schema of `stats()`, `ringcast.instruments.list_queues` and `ringcast ls --json`.

`QueueInfo` is what anybody sees of a queue, `QueueStats` that and what an end knows of itself. All of it can be written
as JSON. `schema` counts up when a field is taken away or comes to mean something else; new fields may come at any time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TypeAlias, TypedDict

from ringcast import _core
from ringcast._segment import GATING_STATES

SCHEMA = 1

Seat: TypeAlias = tuple[int, int, int, str, bool, str, int, int, int, dict[str, int] | None]
"""As `_core.Segment.seats` has it."""


class WaitStats(TypedDict):
    """How an end's waits have ended, and what they took, since it attached.

    `brief`, within 5 microseconds; `awake`, by giving way to others meanwhile; `parked`, asleep. `parks` counts the
    times it slept; `rescued_wakes` sleeps that ended by looking: 0, unless the other end was held up between its store
    and its wake-up; `long_waits` waits that were logged. `vain_s` is the CPU time, in seconds, of being awake before a
    park or a time-out; `wakeup_s` what the kernel lately took to wake this end up, in seconds, None before the first
    time; `penalties` how often a yield took so long that the end did not stay awake for a while, because others need
    the CPUs. Sleeps of `aget` and of a `Selector`, in which a thread sleeps for many ends at once, count for none.
    """

    brief: int
    awake: int
    parked: int
    parks: int
    rescued_wakes: int
    long_waits: int
    vain_s: float
    wakeup_s: float | None
    penalties: int


class ReaderStats(TypedDict):
    """One reader: a seat of this machine, or, with a `host`, a reader of another one as the links last said.

    `state` is "active", "expected" (kept for its rank), "failed" (its reader was ended by an exception), or "evicted".
    `alive` is the kernel's word. `process` says more: "running", "stopped" (by a signal or a debugger), "gone",
    "absent" (nobody has come yet to a seat that is kept for its rank: `pid` is 0, `alive` False), or "unknown", where
    the process is in another pid namespace. `behind` counts messages that are not read; `leased_blocks` and
    `leased_bytes` what the reader's views hold. `waits` is None where there is no reader (any more); of one that was
    killed it is what it was until another takes the seat.

    Of a reader elsewhere `seat` is that of its link, `behind` counts what is under way, too, `process` is "unknown" or
    "gone", what its views hold is not known and 0, `waits` is None; and its `state` is "cut" while its machine is out
    of reach, and "lost" if that stays so.
    """

    host: str | None
    rank: int
    seat: int
    pid: int
    state: str
    alive: bool
    process: str
    behind: int
    leased_blocks: int
    leased_bytes: int
    waits: WaitStats | None


class StreamStats(TypedDict):
    """The way between two machines, as the link process `pid` of this one has counted it, four times a second.

    `out_of_reach_s` is for how long there has been no connection, None while there is one; `reconnects` how often there
    was another one. `bytes_sent` and `bytes_received` are those of all its connections, with everything that goes over
    them; `encrypted`, whether messages are. `under_way` counts the messages that have not arrived at the other end.
    """

    pid: int
    alive: bool
    process: str
    out_of_reach_s: float | None
    bytes_sent: int
    bytes_received: int
    reconnects: int
    encrypted: bool
    under_way: int
    waits: WaitStats | None


class LinkStats(StreamStats):
    """What brings the messages to the readers of one other machine, from a seat of its own.

    `pid` is the link process of the writer's machine; `state`, `alive` and `process` are as a reader has them. `host`
    is the other machine, `ranks` who reads there or did, `under_way` what that machine has not said to have.
    """

    host: str | None
    seat: int
    state: str
    ranks: list[int]


class RelayStats(StreamStats):
    """The link process of this machine that writes here what another machine's writer sends.

    `under_way` is what the writer's link has said to be sent and is not here; it says so every second.
    """


class WriterStats(TypedDict):
    """The process that made the queue.

    With a `host` it is on that machine, and the link `relayed_by` brings its messages here. Then `alive` is what that
    link last heard, and `process` "unknown" or "gone".
    """

    host: str | None
    pid: int
    alive: bool
    process: str
    waits: WaitStats | None
    relayed_by: RelayStats | None


class MemoryStats(TypedDict):
    """Shared memory, in bytes.

    `control` is the ring's own. For large messages: what is committed, the most that may be, and what blocks use that
    are unread or viewed, as of the writer's last look. `scattered`, which only the writer knows, is how much of the
    free address space lies outside its largest piece.
    """

    control: int
    data_committed: int
    data_budget: int
    data_used: int
    blocks: int
    max_leases: int
    scattered: int | None


class QueueInfo(TypedDict):
    """What anybody sees of a queue.

    `name` is the user's, None if the queue has none; `segment` that of its shared memory; `epoch` tells it from others
    of that name. `depth` is `max_chunks`. `messages` and `bytes` count what was sent, `oversize` those of the messages
    that were above `max_chunk_bytes`; `queued` is what the slowest reader has not read; `n_reader` how many it has room
    for. `closed`: nothing more is sent. `missed` counts, for each rank that a handle promised messages to, those that
    nobody has read for it, because its reader had left, was evicted, or died after the writer had been told.

    `links` are the ways to other machines; of what has arrived there `queued` counts nothing. `expected_elsewhere` is
    how many readers of other machines everything is kept for that have not come: their ranks nobody knows yet.
    """

    schema: int
    name: str | None
    segment: str
    epoch: int
    depth: int
    max_chunk_bytes: int
    n_reader: int
    messages: int
    bytes: int
    oversize: int
    queued: int
    closed: bool
    memory: MemoryStats
    writer: WriterStats
    readers: list[ReaderStats]
    links: list[LinkStats]
    expected_elsewhere: int
    missed: dict[int, int]


class QueueStats(QueueInfo):
    """What `stats()` returns: the queue, and this end of it.

    On a reader `messages` and `bytes` count what it has received, and `queued` what it has not. `closed` is True if
    this end is closed. `waiting_s` is for how long a call of this end has now been waiting, in seconds; 0 if none is.
    `waits` are those of this end; `parks`, `rescued_wakes` and `long_waits` are three of them.
    """

    role: str
    rank: int | None
    pid: int
    parks: int
    rescued_wakes: int
    long_waits: int
    waiting_s: float
    waits: WaitStats


def described(segment: _core.Segment) -> QueueInfo:
    """The queue in `segment`, as anybody sees it."""
    head = segment.head
    seats = segment.seats()
    links = _links(segment, head, seats)
    readers = [*_readers_here(head, seats), *_readers_elsewhere(segment, links)]
    return {
        "schema": SCHEMA,
        "name": segment.user_name,
        "segment": segment.name,
        "epoch": segment.epoch,
        "depth": segment.max_chunks,
        "max_chunk_bytes": segment.max_chunk_bytes,
        "n_reader": segment.n_reader,
        "messages": segment.head,
        "bytes": segment.bytes_published,
        "oversize": segment.oversize_messages,
        "queued": max((head - seat[6] for seat in seats if seat[3] in GATING_STATES and seat[6] < head), default=0),
        "closed": segment.closed,
        "memory": {
            "control": segment.control_bytes,
            "data_committed": segment.committed_bytes - segment.control_bytes,
            "data_budget": segment.data_budget,
            "data_used": segment.block_bytes_in_use,
            "blocks": segment.blocks_in_use,
            "max_leases": segment.max_leases,
            "scattered": None,
        },
        "writer": _writer(segment),
        "readers": readers,
        "links": links,
        "expected_elsewhere": sum(seat[1] == _core.NOBODY and seat[3] == "expected" for seat in seats),
        "missed": dict(segment.missed()),
    }


def _readers_here(head: int, seats: list[Seat]) -> list[ReaderStats]:
    return [
        {
            "host": None,
            "rank": rank,
            "seat": seat,
            "pid": pid,
            "state": state,
            "alive": alive,
            "process": process,
            "behind": max(0, head - cursor),
            "leased_blocks": blocks,
            "leased_bytes": size,
            "waits": _waits(counters),
        }
        for seat, rank, pid, state, alive, process, cursor, blocks, size, counters in seats
        if rank not in (_core.NOBODY, _core.STREAM)
    ]


def _links(segment: _core.Segment, head: int, seats: list[Seat]) -> list[LinkStats]:
    placed = [one for one in segment.placements() if one[2] != "open"]
    return [
        {
            "host": next((host for _, _, _, _, host, stream, *_ in placed if stream == seat), None),
            "seat": seat,
            "pid": pid,
            "state": state,
            "alive": alive,
            "process": process,
            "under_way": max(0, head - cursor),
            "ranks": sorted(rank for _, rank, _, _, _, stream, *_ in placed if stream == seat),
            "waits": _waits(counters),
            **_counted(segment, seat),
        }
        for seat, rank, pid, state, alive, process, cursor, *_, counters in seats
        if rank == _core.STREAM
    ]


class _Counted(TypedDict):
    out_of_reach_s: float | None
    bytes_sent: int
    bytes_received: int
    reconnects: int
    encrypted: bool


def _counted(segment: _core.Segment, seat: int | None) -> _Counted:
    """Of the stream that reads from a seat, or that brings a relay its messages."""
    sent, received, reconnects, cut_since_ns, encrypted, _ = segment.wire(seat)
    return {
        "out_of_reach_s": max(0.0, (time.monotonic_ns() - cut_since_ns) / 1e9) if cut_since_ns else None,
        "bytes_sent": sent,
        "bytes_received": received,
        "reconnects": reconnects,
        "encrypted": encrypted,
    }


_STATES_ELSEWHERE = {
    "placed": "expected", "attached": "active", "died": "failed", "evicted": "evicted", "lost": "lost",
    "cut": "cut",
}  # fmt: skip
"""Of readers of other machines. Who has left is not shown, there as here."""


def _readers_elsewhere(segment: _core.Segment, links: list[LinkStats]) -> list[ReaderStats]:
    under_way = {link["seat"]: link["under_way"] for link in links if link["state"] in GATING_STATES}
    return [
        {
            "host": host,
            "rank": rank,
            "seat": stream,
            "pid": pid,
            "state": _STATES_ELSEWHERE[state],
            "alive": state in ("attached", "cut") or (state == "placed" and pid != 0),
            "process": "gone" if state == "died" else "unknown",
            "behind": behind + (under_way.get(stream, 0) if state != "evicted" else 0),
            "leased_blocks": 0,
            "leased_bytes": 0,
            "waits": None,
        }
        for _, rank, state, pid, host, stream, behind, _ in segment.placements()
        if state in _STATES_ELSEWHERE
    ]


def _writer(segment: _core.Segment) -> WriterStats:
    pid, alive, process = segment.creator_pid, segment.creator_alive, segment.creator_process
    waits = _waits(segment.writer_waits)
    if not segment.is_relay:
        return {"host": None, "pid": pid, "alive": alive, "process": process, "waits": waits, "relayed_by": None}
    host, source = segment.source
    died = segment.ending == "writer_died"
    return {
        "host": host,
        "pid": source,
        "alive": alive and segment.ending not in ("writer_died", "link_died"),
        "process": "gone" if died else "unknown",
        "waits": None,
        "relayed_by": {
            "pid": pid,
            "alive": alive,
            "process": process,
            "under_way": max(0, segment.wire(None)[5] - segment.head),
            "waits": waits,
            **_counted(segment, None),
        },
    }


def _waits(counters: Mapping[str, int] | None) -> WaitStats | None:
    return None if counters is None else _known(counters)


def _known(counters: Mapping[str, int]) -> WaitStats:
    return {
        "brief": counters["brief"],
        "awake": counters["awake"],
        "parked": counters["parked"],
        "parks": counters["parks"],
        "rescued_wakes": counters["rescued_wakes"],
        "long_waits": counters["long_waits"],
        "vain_s": counters["vain_ns"] / 1e9,
        "wakeup_s": counters["wake_ns"] / 1e9 if counters["wake_ns"] else None,
        "penalties": counters["penalties"],
    }


def collect_stats(segment: _core.Segment, rank: int | None, counters: dict[str, int], closed: bool) -> QueueStats:
    """The statistics of one end; `rank` is None on the writer's."""
    info = described(segment)
    if rank is None:
        info["memory"]["scattered"] = counters.get("scattered")
        info["writer"]["process"] = "running"
    else:
        info["queued"] = 0
        for reader in info["readers"]:
            # The kernel does not report the locks of who asks.
            if reader["host"] is None and reader["seat"] == counters["seat"]:
                reader["alive"], reader["process"] = True, "running"
                info["queued"] = reader["behind"]
        info["messages"], info["bytes"] = counters["messages"], counters["bytes"]
    info["closed"] = closed
    waits = _known(counters)
    return {
        **info,
        "role": "writer" if rank is None else "reader",
        "rank": rank,
        "pid": os.getpid(),
        "parks": waits["parks"],
        "rescued_wakes": waits["rescued_wakes"],
        "long_waits": waits["long_waits"],
        "waiting_s": counters["waiting_ns"] / 1e9,
        "waits": waits,
    }

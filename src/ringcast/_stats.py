"""What a queue looks like: the one schema of `stats()`, `ringcast.instruments.list_queues` and `ringcast ls --json`.

`QueueInfo` is what anybody sees of a queue, `QueueStats` that and what an end knows of itself. All of it can be written
as JSON. `schema` counts up when a field is taken away or comes to mean something else; new fields may come at any time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from ringcast._segment import GATING_STATES

if TYPE_CHECKING:
    from ringcast import _core

SCHEMA = 1


class ReaderStats(TypedDict):
    """One seat.

    `state` is "active", "expected" (kept for its rank), "failed" (its reader was ended by an exception), or "evicted".
    `alive` is the kernel's word. `process` says more: "running", "stopped" (by a signal or a debugger), "gone",
    "absent" (nobody has come yet to a seat that is kept for its rank: `pid` is 0, `alive` False), or "unknown", where
    the process is in another pid namespace. `behind` counts messages that are not read; `leased_blocks` and
    `leased_bytes` what the reader's views hold.
    """

    rank: int
    seat: int
    pid: int
    state: str
    alive: bool
    process: str
    behind: int
    leased_blocks: int
    leased_bytes: int


class WriterStats(TypedDict):
    """The process that made the queue."""

    pid: int
    alive: bool
    process: str


class WaitStats(TypedDict):
    """How this end's waits have ended, and what they took.

    `brief`, within 5 microseconds; `awake`, by giving way to others meanwhile; `parked`, asleep. `vain_s` is the CPU
    time, in seconds, of being awake before a park or a time-out; `wakeup_s` what the kernel lately took to wake this
    end up, in seconds, None before the first time; `penalties` how often a yield took so long that the end did not stay
    awake for a while, because others need the CPUs.
    """

    brief: int
    awake: int
    parked: int
    vain_s: float
    wakeup_s: float | None
    penalties: int


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
    missed: dict[int, int]


class QueueStats(QueueInfo):
    """What `stats()` returns: the queue, and this end of it.

    On a reader `messages` and `bytes` count what it has received, and `queued` what it has not. `closed` is True if
    this end is closed. `waiting_s` is for how long a call of this end has now been waiting, in seconds; 0 if none is.
    `parks` counts the times it slept, `rescued_wakes` sleeps that ended by looking: 0, unless the other end was held up
    between its store and its wake-up. `long_waits` counts waits that were logged.
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
    readers: list[ReaderStats] = [
        {
            "rank": rank,
            "seat": seat,
            "pid": pid,
            "state": state,
            "alive": alive,
            "process": process,
            "behind": max(0, head - cursor),
            "leased_blocks": blocks,
            "leased_bytes": size,
        }
        for seat, rank, pid, state, alive, process, cursor, blocks, size in segment.seats()
    ]
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
        "queued": max((reader["behind"] for reader in readers if reader["state"] in GATING_STATES), default=0),
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
        "writer": {
            "pid": segment.creator_pid,
            "alive": segment.creator_alive,
            "process": segment.creator_process,
        },
        "readers": readers,
        "missed": dict(segment.missed()),
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
            if reader["seat"] == counters["seat"]:  # the kernel does not report the locks of who asks
                reader["alive"], reader["process"] = True, "running"
                info["queued"] = reader["behind"]
        info["messages"], info["bytes"] = counters["messages"], counters["bytes"]
    info["closed"] = closed
    return {
        **info,
        "role": "writer" if rank is None else "reader",
        "rank": rank,
        "pid": os.getpid(),
        "parks": counters["parks"],
        "rescued_wakes": counters["rescued_wakes"],
        "long_waits": counters["long_waits"],
        "waiting_s": counters["waiting_ns"] / 1e9,
        "waits": {
            "brief": counters["brief"],
            "awake": counters["awake"],
            "parked": counters["parked"],
            "vain_s": counters["vain_ns"] / 1e9,
            "wakeup_s": counters["wake_ns"] / 1e9 if counters["wake_ns"] else None,
            "penalties": counters["penalties"],
        },
    }

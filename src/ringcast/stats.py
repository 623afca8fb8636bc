"""What `stats()` returns, and how it is gathered from a segment and an end's counters."""

from __future__ import annotations

import os
from typing import TypedDict

from ringcast import _core
from ringcast.segment import GATING_STATES, readers_of


class ReaderStats(TypedDict):
    """One seat, as the writer sees it.

    `alive` is the kernel's word. `process` says more: "running", "stopped" (by a signal or a debugger), "gone",
    "absent" (nobody has come yet to a seat that is kept for its rank: `pid` is 0, `alive` False), or "unknown", where
    the process is in another pid namespace.
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


class QueueStats(TypedDict):
    """What `stats()` returns. `messages` and `bytes` count what this end sent or received, `oversize` the
    messages above max_chunk_bytes that the writer sent. `waiting_s` is for how long a call of this end has now been
    waiting, in seconds; 0 if none is. `missed` counts, for each rank that a handle promised messages to, those that
    nobody has read for it, because its reader had left, was evicted, or died after the writer had been told."""

    role: str
    name: str | None
    segment: str
    rank: int | None
    pid: int
    epoch: int
    depth: int
    max_chunk_bytes: int
    messages: int
    bytes: int
    oversize: int
    queued: int
    parks: int
    rescued_wakes: int
    long_waits: int
    waiting_s: float
    waits: WaitStats
    memory: MemoryStats
    closed: bool
    writer: WriterStats
    readers: list[ReaderStats]
    missed: dict[int, int]


def collect_stats(segment: _core.Segment, rank: int | None, counters: dict[str, int], closed: bool) -> QueueStats:
    """The statistics of one end; `rank` is None on the writer's."""
    own_seat = counters.get("seat", -1)
    readers: list[ReaderStats] = [
        {
            "rank": info.rank,
            "seat": seat,
            "pid": info.pid,
            "state": info.state,
            # The kernel does not report the locks of who asks.
            "alive": info.alive or seat == own_seat,
            "process": "running" if seat == own_seat else info.process,
            "behind": info.behind,
            "leased_blocks": info.leased_blocks,
            "leased_bytes": info.leased_bytes,
        }
        for seat, info in readers_of(segment)
    ]
    counted = [r["behind"] for r in readers if (r["state"] in GATING_STATES if rank is None else r["seat"] == own_seat)]
    return {
        "role": "writer" if rank is None else "reader",
        "name": segment.user_name,
        "segment": segment.name,
        "rank": rank,
        "pid": os.getpid(),
        "epoch": segment.epoch,
        "depth": segment.max_chunks,
        "max_chunk_bytes": segment.max_chunk_bytes,
        "messages": counters.get("messages", segment.head),
        "bytes": counters.get("bytes", segment.bytes_published),
        "oversize": segment.oversize_messages,
        "queued": max(counted, default=0),
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
        "memory": {
            "control": segment.control_bytes,
            "data_committed": segment.committed_bytes - segment.control_bytes,
            "data_budget": segment.data_budget,
            "data_used": segment.block_bytes_in_use,
            "blocks": segment.blocks_in_use,
            "max_leases": segment.max_leases,
            "scattered": counters.get("scattered"),
        },
        "closed": closed,
        "writer": {
            "pid": segment.creator_pid,
            "alive": segment.creator_alive,
            "process": "running" if rank is None else segment.creator_process,
        },
        "readers": readers,
        "missed": dict(segment.missed()),
    }

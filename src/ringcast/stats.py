"""What `stats()` returns, and how it is gathered from a segment and an end's counters."""

from __future__ import annotations

import os
from typing import TypedDict

from ringcast import _core
from ringcast.segment import GATING_STATES, readers_of


class ReaderStats(TypedDict):
    """One seat, as the writer sees it."""

    rank: int
    seat: int
    pid: int
    state: str
    alive: bool
    behind: int


class WriterStats(TypedDict):
    """The process that made the queue."""

    pid: int
    alive: bool


class MemoryStats(TypedDict):
    """Bytes of shared memory: the ring's own, committed for large messages, and the most that these may take."""

    control: int
    data_committed: int
    data_budget: int


class QueueStats(TypedDict):
    """What `stats()` returns. `messages` and `bytes` count what this end sent or received."""

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
    queued: int
    parks: int
    rescued_wakes: int
    long_waits: int
    memory: MemoryStats
    closed: bool
    writer: WriterStats
    readers: list[ReaderStats]


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
            "behind": info.behind,
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
        "queued": max(counted, default=0),
        "parks": counters["parks"],
        "rescued_wakes": counters["rescued_wakes"],
        "long_waits": counters["long_waits"],
        "memory": {
            "control": segment.control_bytes,
            "data_committed": segment.committed_bytes - segment.control_bytes,
            "data_budget": segment.data_bytes,
        },
        "closed": closed,
        "writer": {"pid": segment.creator_pid, "alive": segment.creator_alive},
        "readers": readers,
    }

"""The queues of this machine, seen from outside: what is there, and what the dead have left."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, TypedDict

from ringcast import _core
from ringcast._arguments import flag
from ringcast._names import LINK_PREFIX, POOL_PREFIX, PREFIX, suffix
from ringcast._stats import SCHEMA, QueueInfo, described
from ringcast._version import __version__
from ringcast.errors import RingcastError, SegmentNotFoundError


class UnreadableSegment(TypedDict):
    """A segment that has a name like ours; `error` says why it cannot be looked at."""

    schema: int
    segment: str
    error: str


class Found(NamedTuple):
    """What `list_queues` returns, each in the order of the segments' names."""

    queues: list[QueueInfo]
    unreadable: list[UnreadableSegment]


def list_queues() -> Found:
    """Every queue of this machine, those of dead writers too. Looking takes no seat and disturbs nobody.

    Raises SystemCallError only if the segments cannot be listed.

    >>> from ringcast import MessageQueue
    >>> queue = MessageQueue(n_reader=2, name="seen")
    >>> [info["n_reader"] for info in list_queues().queues if info["name"] == "seen"]
    [2]
    """
    found = Found([], [])
    for name in _core.list_names(PREFIX):
        if name.startswith((LINK_PREFIX, POOL_PREFIX)):
            continue
        try:
            found.queues.append(described(_core.Segment.attach(name, __version__, observe=True)))
        except SegmentNotFoundError:
            continue
        except RingcastError as error:
            found.unreadable.append({"schema": SCHEMA, "segment": name, "error": str(error)})
    return found


class SweptSegment(NamedTuple):
    """What a sweep found under one name. `name` is the user's, if the queue had one; `memory_bytes` what it took.

    `kind` is "queue"; or "link" for the desk of a job's link process, whose `name` is the job's and whose writer is
    that process; or "pool", whose writer is the server that made it; or empty for what is none of these.
    """

    segment: str
    name: str | None
    writer_pid: int
    memory_bytes: int
    fate: str
    reason: str
    kind: str = "queue"

    @property
    def dead(self) -> bool:
        """Was it left by a process that is gone?"""
        return self.fate in ("dead", "removed", "removing")


def sweep(dry_run: bool = False) -> list[SweptSegment]:
    """Remove the segments of this user whose makers are dead, or with `dry_run` only find them.

    Readers that have attached to such a queue keep its memory and read on. Looks at every segment of this user; its
    `fate` is "removed" ("dead" in a dry run), "removing" if another process is about to do it, "alive", "kept" for a
    pool that is to stay though nobody has it, or "skipped" with a `reason`: not made by ringcast, or not to be opened.
    Waits for nobody and disturbs no queue. Raises SystemCallError only if the segments cannot be listed.

    >>> [swept.name for swept in sweep(dry_run=True) if swept.dead]
    []
    """
    return [
        SweptSegment(segment, user_name or None, pid, size, fate, reason, kind)
        for segment, user_name, pid, size, fate, reason, kind in _core.sweep(PREFIX, suffix(), flag("dry_run", dry_run))
    ]


def counted(found: list[SweptSegment]) -> str:
    """What a sweep found, for people: "2 queues and 1 link"."""
    kinds = Counter(one.kind if one.kind in ("link", "pool") else "queue" for one in found)
    counts = [(kinds[kind], kind) for kind in ("queue", "pool", "link") if kinds[kind]]
    parts = [f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))

"""Segments by name: how names are formed, what is there, and what the dead have left.

A segment's name is `ringcast_`, the user's name or a random one, a dot and the user id in base 36, so that queues of
two users never collide. Names that would be longer than the 29 characters that every POSIX system takes keep their
beginning and end in a digest; the full name is in the segment and compared.
"""

from __future__ import annotations

import gc
import os
import re
from contextlib import suppress
from typing import Any, NamedTuple

from ringcast import _core
from ringcast._version import __version__
from ringcast.arguments import INT64_MAX, checked, flag, refuse
from ringcast.errors import ArgumentError, RingcastError, SegmentExistsError, SegmentNotFoundError
from ringcast.limits import memory_headroom

PREFIX = "ringcast_"
_DIGEST_CHARS = 7
_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _suffix() -> str:
    """What the names of this user's segments end in."""
    return "." + _base36(_core.user_id())


def segment_name(user_name: str | None) -> str:
    """The real name for a user's name, or a fresh random one for None."""
    suffix = _suffix()
    room = _core.MAX_SEGMENT_NAME_BYTES - len(PREFIX) - len(suffix)
    if user_name is None:
        return PREFIX + "~" + _base36(_core.random_u64()).rjust(13, "0")[: room - 1] + suffix
    expected = f"1 to {_core.MAX_USER_NAME_BYTES} of the characters A-Z a-z 0-9 . _ - and start with a letter or digit"
    if not isinstance(user_name, str):
        raise refuse("a queue's name", expected, user_name)
    if not _VALID_NAME.match(user_name) or len(user_name) > _core.MAX_USER_NAME_BYTES:
        raise ArgumentError(f"a queue's name must be {expected}, not {user_name!r}")
    if len(user_name) > room:
        import hashlib

        number = int.from_bytes(hashlib.sha256(user_name.encode()).digest()[:8], "big")
        digest = _base36(number).rjust(_DIGEST_CHARS, "0")[-_DIGEST_CHARS:]
        user_name = user_name[: room - _DIGEST_CHARS - 1] + "~" + digest
    return PREFIX + user_name + suffix


def other_owners(name: str) -> list[int]:
    """The users, other than this one, that have a segment for the same user's name as segment `name`."""
    stem = name.rpartition(".")[0] + "."
    others = (found.removeprefix(stem) for found in _core.list_names(stem) if found != name)
    return sorted(int(suffix, 36) for suffix in others if suffix.isalnum())


def label(name: str) -> str:
    """What messages call the queue of this segment, if they know no other name."""
    return _core.queue_label("", name)


def checked_readers(n_reader: Any) -> int:
    """A number of readers that a queue can have."""
    return checked("n_reader", n_reader, most=_core.MAX_READERS)


def create(
    user_name: str | None,
    n_reader: int,
    ranks: list[int],
    max_chunk_bytes: int | None,
    max_chunks: int,
    max_bytes: int | None = None,
    max_leases: int | None = None,
    *,
    tidy: bool = True,
) -> _core.Segment:
    """Make a queue's segment. Sizes in bytes; None chooses a size of chunks, a budget, and a number of leases.

    What dead processes of this user have left is removed first, so that its memory can be had again; `tidy=False` lets
    it lie. Raises ArgumentError, SegmentExistsError, CapacityError.
    """
    if tidy:
        with suppress(RingcastError):  # what cannot be removed now is not in the way of this queue
            _core.sweep(PREFIX, _suffix(), dry_run=False)
    request: dict[str, Any] = {
        "name": segment_name(user_name),
        "user_name": user_name or "",
        "release": __version__,
        "n_reader": n_reader,
        "ranks": [checked("a rank", rank, 0) for rank in ranks],
        "max_chunk_bytes": 0
        if max_chunk_bytes is None
        else checked("max_chunk_bytes", max_chunk_bytes, most=INT64_MAX),
        "max_chunks": checked("max_chunks", max_chunks),
        "max_bytes": 0 if max_bytes is None else checked("max_bytes", max_bytes, most=INT64_MAX),
        "max_leases": 0 if max_leases is None else checked("max_leases", max_leases),
    }
    try:
        try:
            segment = _core.Segment.create(**request)
        except SegmentExistsError as error:
            if error.pid != os.getpid():
                raise
            gc.collect()  # a queue of this process that nobody refers to any more, but in a cycle
            segment = _core.Segment.create(**request)
    except SegmentExistsError as error:
        taken = SegmentExistsError(f"{_core.queue_label(user_name or '', request['name'])}: {error}")
        taken.errno, taken.pid = error.errno, error.pid
        raise taken from None
    headroom = memory_headroom()
    budget = segment.control_bytes + segment.data_budget
    if headroom is not None and budget > headroom:
        import logging  # rarely needed, and not cheap to import

        logging.getLogger("ringcast").warning(
            "queue segment %s may take up to %d MiB, but this control group has about %d MiB left; "
            "beyond that the kernel kills processes. Lower max_bytes, or raise the group's memory limit.",
            segment.name,
            budget >> 20,
            headroom >> 20,
        )
    return segment


def attach(name: str, *, zero_copy: bool = False) -> _core.Segment:
    """Map an existing segment by its real name, to take a seat in it; with `zero_copy`, privately writable as well."""
    return _core.Segment.attach(name, __version__, zero_copy=zero_copy)


class SweptSegment(NamedTuple):
    """What a sweep found under one name. `name` is the user's, if the queue had one; `memory_bytes` what it took."""

    segment: str
    name: str | None
    writer_pid: int
    memory_bytes: int
    fate: str
    reason: str

    @property
    def dead(self) -> bool:
        """Was it left by a process that is gone?"""
        return self.fate in ("dead", "removed", "removing")


def sweep(dry_run: bool = False) -> list[SweptSegment]:
    """Remove the segments of this user whose writers are dead, or with `dry_run` only find them.

    Readers that have attached to such a queue keep its memory and read on. Looks at every segment of this user; its
    `fate` is "removed" ("dead" in a dry run), "removing" if another process is about to do it, "alive", or "skipped"
    with a `reason`: not made by ringcast, or not to be opened. Waits for nobody and disturbs no queue. Raises
    SystemCallError only if the segments cannot be listed.
    """
    return [
        SweptSegment(segment, user_name or None, pid, size, fate, reason)
        for segment, user_name, pid, size, fate, reason in _core.sweep(PREFIX, _suffix(), flag("dry_run", dry_run))
    ]


GATING_STATES = ("active", "expected", "failed")
"""States of seats that the writer waits for."""


class ReaderInfo(NamedTuple):
    """One seat of a queue; see ReaderStats for `alive` and `process`."""

    rank: int
    pid: int
    state: str
    alive: bool
    process: str
    behind: int
    leased_blocks: int
    leased_bytes: int


class SegmentInfo(NamedTuple):
    """What a look at a segment shows. `error` says why a segment cannot be read; the rest is then empty."""

    segment: str
    name: str | None = None
    writer_pid: int = 0
    writer_alive: bool = False
    closed: bool = False
    depth: int = 0
    n_reader: int = 0
    queued: int = 0
    messages: int = 0
    message_bytes: int = 0
    memory_bytes: int = 0
    readers: tuple[ReaderInfo, ...] = ()
    error: str | None = None


def readers_of(segment: _core.Segment) -> list[tuple[int, ReaderInfo]]:
    """Seat number and state of every seat in use or promised."""
    head = segment.head
    return [
        (seat, ReaderInfo(rank, pid, state, alive, process, max(0, head - cursor), blocks, size))
        for seat, rank, pid, state, alive, process, cursor, blocks, size in segment.seats()
    ]


def list_segments() -> list[SegmentInfo]:
    """Every ringcast segment of this machine, by name. Looking takes no seat and disturbs nobody."""
    found = []
    for name in _core.list_names(PREFIX):
        try:
            segment = _core.Segment.attach(name, __version__, observe=True)
        except SegmentNotFoundError:
            continue
        except RingcastError as error:
            found.append(SegmentInfo(segment=name, error=str(error)))
            continue
        readers = tuple(info for _, info in readers_of(segment))
        found.append(
            SegmentInfo(
                segment=name,
                name=segment.user_name,
                writer_pid=segment.creator_pid,
                writer_alive=segment.creator_alive,
                closed=segment.closed,
                depth=segment.max_chunks,
                n_reader=segment.n_reader,
                queued=max((r.behind for r in readers if r.state in GATING_STATES), default=0),
                messages=segment.head,
                message_bytes=segment.bytes_published,
                memory_bytes=segment.committed_bytes,
                readers=readers,
            )
        )
    return found

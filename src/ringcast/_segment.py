"""A queue's segment of shared memory: making one, and mapping one that is there."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from typing import Any

from ringcast import _core
from ringcast._arguments import INT64_MAX, checked
from ringcast._names import PREFIX, segment_name, suffix
from ringcast._version import __version__
from ringcast.errors import RingcastError, SegmentExistsError
from ringcast.limits import memory_headroom

GATING_STATES = ("active", "expected", "failed")
"""States of seats that the writer waits for."""


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
            _core.sweep(PREFIX, suffix(), dry_run=False, others_only=True)
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

        logging.getLogger("ringcast.memory").warning(
            "queue segment %s may take up to %d MiB, but this control group has about %d MiB left; "
            "beyond that the kernel kills processes. Lower max_bytes, or raise the group's memory limit.",
            segment.name,
            budget >> 20,
            headroom >> 20,
            extra={"ringcast": {"segment": segment.name, "budget": budget, "headroom": headroom}},
        )
    return segment


def attach(name: str, *, zero_copy: bool = False) -> _core.Segment:
    """Map an existing segment by its real name, to take a seat in it; with `zero_copy`, privately writable as well."""
    return _core.Segment.attach(name, __version__, zero_copy=zero_copy)

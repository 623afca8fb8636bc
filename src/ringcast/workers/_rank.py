"""Which worker of its group this process is, or this thread: one whose group's own process is a rank, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ringcast.errors import RoleError

_rank: int | None = None


class _Here(threading.local):
    rank: int | None = None


_here = _Here()


def rank() -> int:
    """In a worker of a group: its rank there, also while its object is made. Raises RoleError elsewhere.

    >>> from ringcast import WorkerGroup, workers
    >>> with WorkerGroup(dict, 2, allow_callables=True) as group:
    ...     group.call(lambda worker: workers.rank())
    [0, 1]
    """
    found = _rank if _here.rank is None else _here.rank
    if found is None:
        raise RoleError("this process is no worker of a group: rank() is for code that a WorkerGroup's workers run")
    return found


def become(own: int | None) -> None:
    global _rank
    _rank = own


@contextmanager
def of_worker(own: int) -> Iterator[None]:
    """In the block this process is a worker, and afterwards what it was before."""
    before = _rank
    become(own)
    try:
        yield
    finally:
        become(before)


@contextmanager
def of_thread(own: int) -> Iterator[None]:
    """In the block this thread is a worker, which the rest of its process is not."""
    _here.rank = own
    try:
        yield
    finally:
        _here.rank = None

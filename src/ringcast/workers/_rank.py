"""Which worker of its group this process is."""

from __future__ import annotations

from ringcast.errors import RoleError

_rank: int | None = None


def rank() -> int:
    """In a worker of a group: its rank there, also while its object is made. Raises RoleError elsewhere.

    >>> from ringcast import WorkerGroup, workers
    >>> with WorkerGroup(dict, 2, allow_callables=True) as group:
    ...     group.call(lambda worker: workers.rank())
    [0, 1]
    """
    if _rank is None:
        raise RoleError("this process is no worker of a group: rank() is for code that a WorkerGroup's workers run")
    return _rank


def become(own: int) -> None:
    global _rank
    _rank = own

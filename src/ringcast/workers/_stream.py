"""The items of a generator that workers run, as they come.

Each worker is told how many it may send: so one that is faster than its reader waits, and one that nobody reads holds
some items and nothing else, and goes on with other calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ringcast.errors import GroupMismatchError
from ringcast.workers._call import Call, move_first, popleft
from ringcast.workers._records import CREDIT

if TYPE_CHECKING:
    from types import TracebackType

    from ringcast.workers._calls import Calls

CREDIT_ITEMS = 16
"""So many items of a rank may be under way."""
_AT_ONCE = CREDIT_ITEMS // 2


class Stream:
    """An iterator over what the generators yield: of one rank its items, of several a list of one item of each.

    Closing or dropping it ends the generators where they are.

    >>> from ringcast import WorkerGroup
    >>> with WorkerGroup(dict, 2, args=([("a", 1), ("b", 2)],)) as group:
    ...     list(group[0].stream("items")), list(group.stream("keys"))
    ([('a', 1), ('b', 2)], [['a', 'a'], ['b', 'b']])
    """

    def __init__(self, calls: Calls, call: Call, group: object) -> None:
        self._over = True
        self._calls = calls
        self._call = call
        self._group = group  # which lives as long as somebody reads
        self._taken = 0
        self._there: dict[int, deque[Any]] = {rank: deque() for rank in call.ranks}
        call.items = deque()
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        call, there = self._call, self._there
        while not self._over:
            self._sort()
            if all(there.values()):
                return self._next()
            if call.done and not call.items:
                self._end()
            elif not call.items:
                self._wait()
        raise StopIteration

    def close(self) -> None:
        """The generators are closed, and what they have sent already is dropped. Any number of times.

        >>> with WorkerGroup(dict, 1, args=([("a", 1), ("b", 2)],)) as group:
        ...     stream = group[0].stream("items")
        ...     stream.close()
        ...     list(stream)
        []
        """
        self._over = True
        call = self._call
        if call.items:
            call.items.clear()
        self._there.clear()
        if not call.done:
            self._calls.give_up(call)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._over:
            self._calls.forget(self._call)

    def _sort(self) -> None:
        items = self._call.items
        while items:
            rank = items[0][1]
            move_first(items, self._there[rank])

    def _next(self) -> Any:
        call = self._call
        records = list(map(popleft, self._there.values()))  # one native step: an interruption must not part the ranks
        step = [value for _, _, _, value, _ in records]
        self._taken += 1
        if self._taken >= _AT_ONCE and not call.done:
            self._calls.tell_surely(CREDIT, call, self._taken)
            self._taken = 0
        return step[0] if call.alone else step

    def _wait(self) -> None:
        call = self._call
        ended = [rank for rank in call.ranks if rank not in call.waiting and not self._there[rank]]
        if ended and any(self._there.values()) and not call.items:
            self._parted(ended)
        try:
            if not self._calls.wait(call, call.expires):
                raise self._calls.late(call)
        except BaseException:
            self.close()
            raise

    def _end(self) -> None:
        self._over = True
        if self._call.errors:
            raise self._call.error()
        ended = [rank for rank, items in self._there.items() if not items]
        if len(ended) < len(self._there):
            self._parted(ended)

    def _parted(self, ended: list[int]) -> None:
        self.close()
        error = GroupMismatchError(
            f"{self._calls.label}: {self._call.told}: the generator of rank {', '.join(map(str, ended))} has ended, "
            "and others go on: read each by itself, by group[rank].stream(...)"
        )
        error.ranks = tuple(ended)
        raise error

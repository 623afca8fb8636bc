"""`Selector`: many readers' ends, waited for at once; the many-to-one side of queues that are one-to-many.

The wait is native (`_core.Selection`): all ends' words at once, without the interpreter's lock. This adds whose ends
they are, the deadline of each, and event loops.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ringcast import _arguments, _core, _reports
from ringcast._handle import Handle
from ringcast.errors import ArgumentError, BusyError, EndTimeoutError
from ringcast.waiting import Wait, WaitSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from ringcast.queue import MessageQueue

K = TypeVar("K")

_MOST_NAMED = 3
"""Of the ends of a selector, in an error."""


def _checked_end(end: Any, what: str = "end") -> Any:
    if not isinstance(end, _core.End):
        raise _arguments.refuse(what, "an end of a queue, such as MessageQueue.attach() returns", end)
    return end


class _Deadline:
    """How long an end may say nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due = time.monotonic() + seconds


class Selector(_core.Selection, Generic[K]):
    """Waits for the first of many readers' ends that can be read.

    An end can be read when its next `dequeue` will not wait: a message is there, or the reason why none will come
    (the writer has closed, or died; the reader was evicted, or shut down), which `dequeue` raises. Such an end is given
    again and again until it is unregistered, and keeps its memory until then. An end belongs to one selector at a time.
    Messages are taken by any call and in any thread; one thread at a time may select, others may register, unregister
    and close meanwhile.

    Args:
        wait: how to wait, as in MessageQueue: "adaptive" (default), "park", "busy", ...

    Raises ArgumentError.

    >>> cameras = {name: MessageQueue(n_reader=1, name=name) for name in ("left", "right")}
    >>> with Selector() as selector:
    ...     for name in cameras:
    ...         selector.register(MessageQueue.attach(name), name)
    ...     cameras["right"].enqueue("an image")
    ...     [(name, end.dequeue()) for name, end in selector.select(timeout=1.0)]
    [('right', 'an image')]
    """

    def __init__(self, *, wait: Wait = None) -> None:
        settings = WaitSettings.of(wait)
        super().__init__(settings.strategy)
        self._report_interval_s = settings.report_interval_ns / 1e9
        self._given: dict[MessageQueue[Any], tuple[K, MessageQueue[Any]]] = {}
        self._deadlines: dict[MessageQueue[Any], _Deadline] = {}
        self._own: list[MessageQueue[Any]] = []
        self._waits_in: int | None = None
        """The thread whose `select` waits."""
        self._task: dict[str, Callable[[], object]] = {}
        """What wakes the task that selects, if one does."""

    @classmethod
    def of(
        cls, queue: MessageQueue[Any], handles: Sequence[Handle], *, wait: Wait = None, **options: Any
    ) -> Selector[int]:
        """A selector over readers of all `handles`, by rank, made with `options` (those of `create_from_handle`).

        For what `create_from_process_group_single_reader` returns. The readers are the selector's, which closes them.
        Raises what `create_from_handle` raises, with none left open.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     own, handles = MessageQueue.create_from_process_group_single_reader(group, 1 << 20, 4)
        >>> own.enqueue("from rank 0")
        >>> with Selector.of(own, handles) as selector:
        ...     [(rank, end.dequeue()) for rank, end in selector.select(timeout=1.0)]
        [(0, 'from rank 0')]
        """
        kind = type(_checked_end(queue, "queue"))
        if isinstance(handles, Handle | str | bytes | Mapping) or not isinstance(handles, Iterable):
            raise _arguments.refuse("handles", "a list of handles, one for each rank", handles)
        selector: Selector[int] = Selector(wait=wait)
        try:
            for rank, handle in enumerate(handles):
                end = kind.create_from_handle(handle, 0, **options)
                selector._own.append(end)
                selector.register(end, rank)
        except BaseException:
            selector.close()
            raise
        return selector

    def register(self, end: MessageQueue[Any], key: K, *, deadline: float | None = None) -> None:
        """Waits for `end`, too, from now on, also in a `select` that another thread is in; `key` is given with it.

        With a `deadline`, `select` raises EndTimeoutError when the end has given nothing for so many seconds; the next
        is counted from there.
        Raises BusyError if it is registered, here or elsewhere, RoleError for a writer's end, QueueClosedError.

        >>> selector = Selector()
        >>> selector.register(reader, "rank 3", deadline=2.0)
        >>> selector.close()
        """
        seconds = None if deadline is None else _arguments.seconds("deadline", deadline)
        given = (key, _checked_end(end))
        try:
            if self._given.setdefault(end, given) is not given:
                raise BusyError(f"{end._context}: it is registered with this selector already")
            if not self._add(end, given):  # which is known above: however this ends, it can be unregistered
                raise BusyError(
                    f"{end._context}: it is registered with another selector, or a task waits for it by `aget`: "
                    "unregister it there, or cancel the task, first"
                )
            end._selector = weakref.ref(self)
            if seconds is not None:
                self._deadlines[end] = _Deadline(seconds)
                self._nudge()  # who selects now sleeps until a later one
                self._wake_task()
        except BaseException:
            if self._given.get(end) is given:
                self._let_go(end, given)
            raise

    def unregister(self, end: MessageQueue[Any]) -> K:
        """Waits for `end` no more, and returns its key. It may be closed. Raises ArgumentError if it is unknown.

        >>> selector = Selector()
        >>> selector.register(reader, "camera")
        >>> selector.unregister(reader)
        'camera'
        """
        given = self._given.get(_checked_end(end))
        if given is None:
            raise ArgumentError(f"{end!r} is not registered with this selector")
        self._let_go(end, given)
        return given[0]

    def select(self, timeout: float | None = None) -> list[tuple[K, MessageQueue[Any]]]:
        """(key, end) of ends that can be read, when one can, or none once `timeout` seconds are over (None: never).

        Of a `select` and the next, each end is given that can be read; who is first goes round. Who had to sleep may be
        given only the one that woke him.
        Raises BusyError if another thread or task selects, EndTimeoutError, ArgumentError if nothing is registered and
        nothing would end the wait, QueueClosedError once closed.

        >>> selector = Selector()
        >>> selector.register(reader, "camera")
        >>> selector.select(timeout=0.0)
        []
        """
        if type(timeout) in (int, float) and timeout == 0 and not self._deadlines:
            return self._select(0)
        self._check_ends(timeout)
        timeout = _arguments.seconds("timeout", timeout)
        began = time.monotonic()
        report = began + self._report_interval_s
        while True:
            now = time.monotonic()
            ends = [due for due in (report, *(one.due for one in self._deadlines.copy().values())) if due > now]
            if timeout is not None:
                ends.append(began + timeout)
            given = self._waited(max(0.0, min(ends) - now) if ends else 0.0)
            now = time.monotonic()
            if self._deadlines:
                self._look_at_deadlines(given, now)
            if given or (timeout is not None and now - began >= timeout):
                return given
            if now >= report:
                report = now + self._report_interval_s
                _reports.select_waits([end._awaited() for end in self._given.copy()], now - began)

    async def aselect(self, timeout: float | None = None) -> list[tuple[K, MessageQueue[Any]]]:
        """`select` that does not block the event loop. Raises what `select` raises.

        >>> import asyncio
        >>> selector = Selector()
        >>> selector.register(reader, "camera")
        >>> queue.enqueue("an image")
        >>> [(key, end.dequeue()) for key, end in asyncio.run(selector.aselect(timeout=1.0))]
        [('camera', 'an image')]
        """
        import asyncio

        timeout = _arguments.seconds("timeout", timeout)
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        given = self.select(0)
        if given or timeout == 0:
            return given
        self._check_ends(timeout)
        readable = asyncio.Event()
        wake = partial(loop.call_soon_threadsafe, readable.set)
        descriptor = self.fileno()
        if self._task.setdefault("selects", wake) is not wake:
            raise BusyError("selector: another task is selecting; give each task a selector of its own")
        try:
            loop.add_reader(descriptor, readable.set)
            while True:
                readable.clear()
                given = self.select(0)
                if given:
                    return given
                now = time.monotonic()
                left = [due.due - now for due in self._deadlines.copy().values()]
                if timeout is not None:
                    if now - began >= timeout:
                        return given
                    left.append(began + timeout - now)
                alarm = loop.call_later(min(left), readable.set) if left else None
                try:
                    await readable.wait()
                finally:
                    if alarm is not None:
                        alarm.cancel()
        finally:
            loop.remove_reader(descriptor)
            del self._task["selects"]

    def fileno(self) -> int:
        """A descriptor that can be read while an end can, for epoll and its like; a native thread sees to it.

        It belongs to the selector. It stays readable until a `select` has found no end that can be read.

        >>> selector = Selector()
        >>> selector.fileno() > 2
        True
        """
        return self._descriptor()

    @property
    def ends(self) -> dict[MessageQueue[Any], K]:
        """The registered ends and their keys, as of now."""
        return {given[1]: given[0] for given in self._given.copy().values()}

    def close(self) -> None:
        """Lets go of all; ends a `select` of another thread or task with QueueClosedError. Any number of times.

        The ends stay open, but those that `of` has made.

        >>> Selector().close()
        """
        contexts = [end._context for end in self._given.copy()]
        others = f" and {len(contexts) - _MOST_NAMED} more" if len(contexts) > _MOST_NAMED else ""
        self._close(f" of {', '.join(contexts[:_MOST_NAMED])}{others}" if contexts else "")
        self._wake_task()
        for end, given in self._given.copy().items():
            self._let_go(end, given)
        for end in self._own.copy():
            end.close()
        self._own.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            for end in self._own.copy():
                end.__exit__(kind, error, traceback)
        self.close()

    def __repr__(self) -> str:
        return f"<Selector: {len(self._given)} ends{', closed' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Selector belongs to its process and cannot be pickled or copied; make another one there")

    def _check_ends(self, timeout: Any) -> None:
        if timeout is None and not self._given and not self.closed:
            raise ArgumentError("select without a time-out, but no end is registered: it would never return")

    def _waited(self, seconds: float) -> list[tuple[K, MessageQueue[Any]]]:
        me = threading.get_ident()
        if self._waits_in is None:  # else this is the second, and refused
            self._waits_in = me
        try:
            return self._select(seconds)
        finally:
            if self._waits_in == me:
                self._waits_in = None

    def _wake_task(self) -> None:
        wake = self._task.get("selects")
        if wake is not None:
            with suppress(RuntimeError):  # its loop is closed
                wake()

    def _let_go(self, end: MessageQueue[Any], given: tuple[K, MessageQueue[Any]]) -> None:
        """In this order: what an interruption leaves can be let go of again."""
        self._deadlines.pop(end, None)
        self._remove(given)
        if end._selector is not None and end._selector() is self:
            end._selector = None
        self._given.pop(end, None)

    def _look_at_deadlines(self, given: list[tuple[K, Any]], now: float) -> None:
        for _, end in given:
            if (one := self._deadlines.get(end)) is not None:
                one.due = now + one.seconds
        # What the others have given is given again by the next call.
        for end, one in self._deadlines.copy().items():
            if now >= one.due and (known := self._given.get(end)) is not None:  # else it was unregistered just now
                one.due = now + one.seconds
                raise EndTimeoutError(
                    f"{end._context}: nothing has come for {one.seconds:.3f} s: waited for {end._awaited()}",
                    key=known[0],
                    end=end,
                )

"""`await queue.aget()`: a reader's end in an event loop.

A thread waits, the loop takes. The process has one thread that waits for all ends that tasks wait for (`_watch`), and
never consumes a message; it tells the loops which of them can be read, and the task that is first in line takes the
message in the step in which it returns it. So there is no moment at which a cancelled task has a message that nobody
gets. A wait that nobody wants any more is given up at once.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import Any, Literal, Protocol, TypeAlias

from ringcast._arguments import seconds
from ringcast._watch import watch_of
from ringcast.errors import QueueTimeoutError, RoleError
from ringcast.waiting import NativeStrategy

_NOTHING: Any = object()
_READY_IN_A_ROW = 64
"""After so many looks without waiting, other tasks get a turn: neither a fast writer nor a poller starves the loop."""
_FIRST_DELAY_S, _DOUBLINGS = 0.001, 5
"""Who cannot take what is there, as another thread has the end's turn, looks again after so long, then less often."""


class ReadingEnd(Protocol):
    """What is asked of a reader's end."""

    role: Literal["writer", "reader"]

    @property
    def closed(self) -> bool: ...
    @property
    def _context(self) -> str: ...
    def dequeue(self, timeout: float | None = None) -> Any: ...
    def try_dequeue(self, default: Any, /) -> Any: ...
    @property
    def _in_use(self) -> bool: ...

    _strategy: NativeStrategy

    def _report_wait(self, seconds: float, due: float) -> float: ...
    def _awaited(self) -> str: ...
    def _check_not_forked(self) -> None: ...


class _Waiter:
    """A task that waits in line. Only the first in line is told to look for a message."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told: asyncio.Future[None] = loop.create_future()
        self.late = False
        self.error: Exception | None = None

    async def sleep(self) -> None:
        """Until `tell` or `expire`, also if that was since the last `sleep` ended."""
        await self._told
        self._told = self._loop.create_future()

    def tell(self, error: Exception | None = None) -> None:
        self.error = error
        if not self._told.done() and not self._loop.is_closed():
            self._told.set_result(None)

    def expire(self) -> None:
        self.late = True
        self.tell()


_Line: TypeAlias = "deque[_Waiter]"


def _tell_first(line: _Line, error: Exception | None = None) -> None:
    if line:
        line[0].tell(error)


class AsyncReader:
    """What an end has for asyncio: the lines of waiting tasks, one for each loop."""

    def __init__(self, end: ReadingEnd) -> None:
        if end.role != "reader":
            end._check_not_forked()
            raise RoleError(f"{end._context}: aget is for readers; this is the writer's end")
        self._end = weakref.ref(end)
        self._watch = watch_of(end._strategy)
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._ready_in_a_row = 0
        self._given_in_vain = 0  # so often, since a message was taken, or nobody else used the end

    async def get(self, end: ReadingEnd, timeout: float | None) -> Any:
        timeout = seconds("timeout", timeout)
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._new_line(loop)
        if self._ready_in_a_row >= _READY_IN_A_ROW:
            self._ready_in_a_row = 0
            await asyncio.sleep(0)  # before a message is taken: a cancellation may come here
        if not line:
            if timeout == 0:  # neither a timer nor the thread: the end looks, and raises what `dequeue` raises
                self._ready_in_a_row += 1
                return end.dequeue(0)
            message = end.try_dequeue(_NOTHING)
            if message is not _NOTHING:
                self._ready_in_a_row += 1
                return message
        self._ready_in_a_row = 0
        return await self._get_in_line(end, loop, line, timeout)

    async def _get_in_line(
        self, end: ReadingEnd, loop: asyncio.AbstractEventLoop, line: _Line, timeout: float | None
    ) -> Any:
        me = _Waiter(loop)
        timer = None if timeout is None else loop.call_later(timeout, me.expire)
        line.append(me)
        try:
            while True:
                if line[0] is me:
                    message = end.try_dequeue(_NOTHING)
                    if message is not _NOTHING:
                        self._given_in_vain = 0
                        return message
                    if me.error is not None:
                        raise me.error
                if me.late:
                    raise self._timed_out(end, timeout)
                if line[0] is me:
                    self._ask(end, loop)
                await me.sleep()
        finally:
            # However this ends, what it was told is the next one's to look at.
            line.remove(me)
            _tell_first(line)
            if self._watch.waits_for(self) and not self.is_wanted():
                self._watch.release(self)
            if timer is not None:
                timer.cancel()

    def stop(self) -> None:
        """After the end has been shut down."""
        self._watch.release(self)
        self.tell()

    def end(self) -> ReadingEnd | None:
        """The end, if it still lives."""
        return self._end()

    def is_wanted(self) -> bool:
        """Does a task wait?"""
        return any(line and not loop.is_closed() for loop, line in self._lines.copy().items())

    def waited_s(self) -> float:
        """For how long tasks have been waiting; 0 if none does."""
        return self._watch.waited_s(self)

    def tell(self, error: Exception | None = None, *, given: bool = False) -> None:
        """From any thread: who is first in each line is to look at the end, which can be read if it was `given`."""
        if given:
            self._given_in_vain += 1
        for loop, line in self._lines.copy().items():
            if not line:
                continue
            try:
                loop.call_soon_threadsafe(_tell_first, line, error)
            except RuntimeError:  # the loop has been closed with tasks in line
                self._lines.pop(loop, None)

    def _new_line(self, loop: asyncio.AbstractEventLoop) -> _Line:
        for other in self._lines.copy():
            if other.is_closed():
                self._lines.pop(other, None)
        return self._lines.setdefault(loop, deque())

    def _ask(self, end: ReadingEnd, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that the end is waited for. All lines are told afterwards, so this joins a wait under way."""
        if not end._in_use:
            self._given_in_vain = 0
        if self._given_in_vain == 0:
            self._watch.add(self, end)
        else:  # it would be given again, and again in vain
            delay = _FIRST_DELAY_S * 2 ** min(self._given_in_vain - 1, _DOUBLINGS)
            loop.call_later(delay, self._ask_after_all)

    def _ask_after_all(self) -> None:
        end = self._end()
        if end is None or not self.is_wanted():
            return
        try:
            self._watch.add(self, end)
        except Exception as error:
            self.tell(error)

    def _timed_out(self, end: ReadingEnd, timeout: float | None) -> QueueTimeoutError:
        return QueueTimeoutError(f"{end._context}: waited {timeout:.3f} s for {end._awaited()}")

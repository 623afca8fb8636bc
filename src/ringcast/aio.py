"""`await queue.aget()`: a reader's end in an event loop.

A thread waits, the loop takes. A helper thread, one for each end that is used with asyncio, waits natively until the
next message can be read and never consumes one; then it tells the loop, and the task that is first in line takes the
message in the step in which it returns it. So there is no moment at which a cancelled task has a message that nobody
gets. A wait that nobody wants any more is given up at once; until then the next `aget`, on any loop, joins it.

The thread is a daemon that sleeps between requests and then holds no reference to the end: an end that is dropped is
collected, and its thread ends, as it does when the end is shut down. The exit handler (`_at_exit`) shuts ends down and
joins their threads, so that none runs while the interpreter goes away.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections import deque
from typing import Any, Literal, Protocol, TypeAlias

from ringcast._arguments import seconds
from ringcast.errors import QueueTimeoutError, RoleError, WaitCancelledError

_NOTHING: Any = object()
_READY_IN_A_ROW = 64
"""After so many looks without waiting, other tasks get a turn: neither a fast writer nor a poller starves the loop."""
_JOIN_S = 5.0


class ReadingEnd(Protocol):
    """What is asked of a reader's end."""

    role: Literal["writer", "reader"]

    @property
    def closed(self) -> bool: ...
    @property
    def _context(self) -> str: ...
    def dequeue(self, timeout: float | None = None) -> Any: ...
    def try_dequeue(self, default: Any, /) -> Any: ...
    def _await_readable(self, cancel: Any) -> None: ...
    def _rouse(self) -> None: ...
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
    """What an end has for asyncio: the lines of waiting tasks, one for each loop, and the helper thread."""

    def __init__(self, end: ReadingEnd) -> None:
        if end.role != "reader":
            end._check_not_forked()
            raise RoleError(f"{end._context}: aget is for readers; this is the writer's end")
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()
        wake_up = self._requests.put
        self._end = weakref.ref(end, lambda _: wake_up(None))
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._ready_in_a_row = 0
        self._lock = threading.Lock()  # guards the two below; held for moments
        self._waiting = False
        self._thread: threading.Thread | None = None

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
            if timeout == 0:  # neither a timer nor the helper: the end looks, and raises what `dequeue` raises
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
                    # Nothing is there, or another thread has the end's turn, which the helper then waits for.
                    message = end.try_dequeue(_NOTHING)
                    if message is not _NOTHING:
                        return message
                    if me.error is not None:
                        raise me.error
                if me.late:
                    raise self._timed_out(end, timeout)
                if line[0] is me:
                    self._ask()
                await me.sleep()
        finally:
            # However this ends, what it was told is the next one's to look at.
            line.remove(me)
            _tell_first(line)
            if self._waiting and self.is_set():
                end._rouse()
            if timer is not None:
                timer.cancel()

    def stop(self) -> None:
        """After the end has been shut down: ends the thread. Safe in a finalizer: it takes no lock."""
        self._requests.put(None)

    def join(self) -> None:
        """After `stop`, for the interpreter's exit."""
        thread = self._thread
        if thread is not None:
            thread.join(_JOIN_S)

    def is_set(self) -> bool:
        """What the native wait asks its `cancel`: does no task wait any more?"""
        return not any(line and not loop.is_closed() for loop, line in self._lines.copy().items())

    def _new_line(self, loop: asyncio.AbstractEventLoop) -> _Line:
        for other in self._lines.copy():
            if other.is_closed():
                self._lines.pop(other, None)
        return self._lines.setdefault(loop, deque())

    def _ask(self) -> None:
        """See to it that the helper waits. It tells every line afterwards, so who is in line joins a wait under way."""
        with self._lock:
            if self._waiting:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="ringcast-aget", daemon=True)
                thread.start()
                self._thread = thread
            self._waiting = True
            self._requests.put(None)

    def _serve(self) -> None:
        """The helper thread."""
        while self._serve_once():
            pass  # between requests this frame holds nothing that could hold tasks or the end

    def _serve_once(self) -> bool:
        """Whatever wakes it up, it looks at the end, and tells the loops what it saw. Is there a next time?"""
        self._requests.get()
        lives, error = self._await_readable()
        with self._lock:  # before the lines are told: who asks from here on is served by the next round
            self._waiting = False
            if not lives:
                self._thread = None
        for loop, line in self._lines.copy().items():
            if not line:
                continue
            try:
                loop.call_soon_threadsafe(_tell_first, line, error)
            except RuntimeError:  # the loop has been closed with tasks in line
                self._lines.pop(loop, None)
        return lives

    def _await_readable(self) -> tuple[bool, Exception | None]:
        """Waits once. Does the end still live, and what was raised? Holds the end only meanwhile."""
        end = self._end()
        if end is None:
            return False, None
        error: Exception | None = None
        try:
            end._await_readable(self)
        except WaitCancelledError:
            pass  # who comes meanwhile asks again
        except Exception as raised:
            error = raised.with_traceback(None)  # the traceback would keep the end
        return not end.closed, error

    def _timed_out(self, end: ReadingEnd, timeout: float | None) -> QueueTimeoutError:
        return QueueTimeoutError(f"{end._context}: waited {timeout:.3f} s for {end._awaited()}")

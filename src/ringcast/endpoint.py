"""An end of a queue, as MessageQueue and ShmRingBuffer use it: it knows its role, reports on itself and closes.

The end itself is native (`_core.End`); this adds what is not on a message's path. An end belongs to the process and the
interpreter that made it, may be used by several threads, which take turns, and is closed by `close`, by leaving its
`with` block, when it is collected, or at the interpreter's exit, whichever comes first.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from ringcast import _core, codec
from ringcast.errors import QueueClosedError, QueueTimeoutError
from ringcast.stats import QueueStats, collect_stats
from ringcast.waiting import WaitSettings, report_long_wait

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    from typing_extensions import Self

DEFAULT_LINGER_S = 5.0

_open_ends: weakref.WeakSet[QueueEnd] = weakref.WeakSet()


class QueueEnd(_core.End):
    """One end of a queue in shared memory. Use MessageQueue or ShmRingBuffer."""

    _segment: _core.Segment | None
    segment: str
    """The real name of the shared memory, as other software can open it."""
    name: str | None
    """The name that the user gave the queue, if any."""
    role: Literal["writer", "reader"]
    rank: int | None
    """The reader's rank; None on the writer."""

    def _open(self, segment: _core.Segment, *, writer: bool, rank: int | None, waits: WaitSettings) -> None:
        super().__init__(
            segment,
            writer=writer,
            rank=rank,
            strategy=waits.strategy,
            encode=codec.encode,
            decode=codec.decode,
            report=_report_long_wait,
            report_interval_ns=waits.report_interval_ns,
        )
        self._segment = segment
        self.segment = segment.name
        self.name = segment.user_name
        self.role = "writer" if writer else "reader"
        self.rank = None if writer else self._rank
        _open_ends.add(self)
        _close_at_exit()

    @classmethod
    def open(cls, segment: _core.Segment, *, writer: bool, rank: int | None, waits: WaitSettings) -> Self:
        """The writer's end of a segment made here, or a reader's end with a seat of its own."""
        end = cls.__new__(cls)
        end._open(segment, writer=writer, rank=rank, waits=waits)
        return end

    def acquire_write(self, timeout: float | None = None, *, nbytes: int | None = None) -> WriteChunk:
        """A context manager that yields a writable memoryview in shared memory, of `nbytes` bytes or max_chunk_bytes.

        Leaving the block publishes all of them; an exception publishes nothing. Views and arrays made from the
        memoryview must be gone by then (ViewsAliveError, and nothing is published). Other threads wait meanwhile.
        """
        return WriteChunk(self, nbytes, timeout)

    def acquire_read(
        self, timeout: float | None = None, cancel: threading.Event | None = None, indefinite: bool = False
    ) -> ReadChunk:
        """A context manager that yields the next message's bytes as a read-only memoryview of a private copy.

        Leaving the block, with or without an exception, marks the chunk read. Arguments are those of `dequeue`.
        """
        return ReadChunk(self, timeout, cancel, indefinite)

    def close(self, linger: float | None = DEFAULT_LINGER_S) -> None:
        """Shut this end down and let go of its memory. Any number of times.

        A writer waits up to `linger` seconds (None: without limit) for promised readers that have not attached yet, if
        there are messages for them; readers that have attached keep what was published. Raises QueueTimeoutError, with
        everything closed, if some never came and so missed messages.
        """
        try:
            undelivered = self._close(linger)
        finally:
            self._segment = None
        if undelivered:
            raise QueueTimeoutError(
                f"queue {self.name or self.segment} is closed, but {undelivered} messages did not reach readers that "
                f"had not attached within {linger} s; call wait_until_ready() before sending, or close(linger=...)"
            )

    def stats(self) -> QueueStats:
        """Counters and the state of every seat, as of now. Takes no turn. Raises QueueClosedError once closed."""
        segment = self._segment
        if segment is None:
            raise QueueClosedError(
                f"queue {self.name or self.segment}: this end is closed and has no statistics any more"
            )
        return collect_stats(segment, self.rank, self._counters(), self.closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # With an exception under way, waiting for readers would only delay it.
        if kind is None:
            self.close()
        else:
            self._close(0)
            self._segment = None

    def __iter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        who = "writer" if self.rank is None else f"reader rank={self.rank}"
        state = "closed" if self._segment is None else ("shut down" if self.closed else "open")
        name = "" if self.name is None else f"name={self.name!r} "
        return f"<{type(self).__name__} {who} {name}segment={self.segment!r} {state}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} belongs to its process; send its export_handle() instead")


class WriteChunk:
    """The context manager of `acquire_write`."""

    def __init__(self, end: QueueEnd, nbytes: int | None, timeout: float | None) -> None:
        self._end = end
        self._nbytes = nbytes
        self._timeout = timeout

    def __enter__(self) -> memoryview:
        self._view = self._end._open_write(self._nbytes, self._timeout)
        return self._view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(BufferError):  # views of it are alive: _close_write says so
            self._view.release()
        self._end._close_write(kind is None)


class ReadChunk:
    """The context manager of `acquire_read`."""

    def __init__(self, end: QueueEnd, timeout: float | None, cancel: threading.Event | None, indefinite: bool) -> None:
        self._end = end
        self._arguments = (timeout, cancel, indefinite)

    def __enter__(self) -> memoryview:
        return self._end._open_read(*self._arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end._close_read()


def _report_long_wait(end: QueueEnd, waited_s: float) -> None:
    report_long_wait(type(end).__name__, end.stats(), waited_s)


_exit_handler_pid = 0


def _close_at_exit() -> None:
    """Register `_close_all_ends` once in each process: children of multiprocessing leave without running atexit."""
    global _exit_handler_pid
    if _exit_handler_pid == os.getpid():
        return
    _exit_handler_pid = os.getpid()
    atexit.register(_close_all_ends)
    multiprocessing_util = sys.modules.get("multiprocessing.util")
    if multiprocessing_util is not None:
        multiprocessing_util.Finalize(None, _close_all_ends, exitpriority=0)


def _close_all_ends() -> None:
    """Nobody closed these: give their names back without waiting for anyone."""
    for end in list(_open_ends):
        end._close(0)
        end._segment = None

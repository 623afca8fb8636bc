"""An end of a queue, as MessageQueue and ShmRingBuffer use it: it knows its role, reports on itself and closes.

The end itself is native (`_core.End`); this adds what is not on a message's path. An end belongs to the process and the
interpreter that made it, may be used by several threads, which take turns, and is closed by `close`, by leaving its
`with` block, when it is collected, or at the interpreter's exit, whichever comes first.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ringcast import _arguments, _at_exit, _core, _html, _reports
from ringcast._chunks import LoanedArray, ReadChunk, WriteChunk, loaned_array
from ringcast._stats import QueueStats, collect_stats, described
from ringcast.codec import get_ready
from ringcast.errors import ForkedError, QueueClosedError, QueueTimeoutError, ReaderDiedError, RoleError
from ringcast.waiting import PATIENT, NativePolicy, NativeStrategy, WaitSettings

if TYPE_CHECKING:
    import threading
    import weakref
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import DTypeLike
    from typing_extensions import Self
    from typing_extensions import TypeVar as TypeVarWithDefault

    from ringcast._selector import Selector
    from ringcast.aio import AsyncReader
    from ringcast.codec import Codec
    from ringcast.net.link._desk import Place

    T = TypeVarWithDefault("T", default=Any)
else:
    T = TypeVar("T")

DEFAULT_LINGER_S = 5.0

Method = TypeVar("Method", bound="Callable[..., Any]")


def native(declared: Method) -> Method:
    """Puts the native method of that name in the place of `declared`, which only passes its arguments on to it.

    Readers and tools find the call, its types and its documentation where it is declared, and no frame of Python's is
    on the way of a message.
    """
    method: Method = getattr(_core.End, declared.__name__)
    return _core.documented(method, declared.__doc__)


class QueueEnd(_core.End[T]):
    """One end of a queue in shared memory, for messages of type T. Use MessageQueue or ShmRingBuffer."""

    _segment: _core.Segment | None
    segment: str
    """The real name of the shared memory, as other software can open it."""
    name: str | None
    """The name that the user gave the queue, if any."""
    role: Literal["writer", "reader"]
    rank: int | None
    """The reader's rank; None on the writer."""
    _tells_losses: bool = True  # False: whoever sent what was not read is told otherwise
    _async_reader: AsyncReader | None = None  # made by the first aget
    _selector: weakref.ref[Selector[Any]] | None = None  # that has it
    _strategy: NativeStrategy
    _link: Place | None = None
    """Of an end with others on other machines: what it holds at its link's desk, for as long as it is open."""
    _linking: dict[str, Any] | None = None
    """What the link is to be told, of a writer with readers on other machines."""
    _linked: Any = None
    """What the link has answered."""
    _exporting: threading.RLock
    """Of such a writer, which has one key, whichever thread asks for its first handle."""
    _exported: bool
    """Nobody was promised anything before the first handle was given out."""

    def _open(
        self,
        segment: _core.Segment,
        *,
        writer: bool,
        rank: int | None,
        waits: WaitSettings,
        codec: Codec,
        policy: NativePolicy = PATIENT,
    ) -> None:
        # Not by vars(): an object whose dict was asked for before its attributes are set has its methods looked up anew
        # at each call.
        if hasattr(self, "_segment"):
            raise RoleError(f"{self._context}: this object is an end already; make another one instead")
        if not writer and codec.arrays:
            get_ready(arrays=segment.sends_arrays, tensors=segment.sends_tensors)
        super().__init__(
            segment,
            writer=writer,
            rank=rank,
            strategy=waits.strategy,
            policy=policy,
            codec=codec,
            reporter=_reports,
            report_interval_ns=waits.report_interval_ns,
        )
        self._segment = segment
        self._strategy = waits.strategy
        self._exported = False
        self.segment = segment.name
        self.name = segment.user_name
        self.role = "writer" if writer else "reader"
        self.rank = None if writer else self._rank
        _at_exit.hold(self)
        if self._skipped and not writer and rank is None:
            _reports.skipped(self, self._skipped)

    @classmethod
    def _of(cls, segment: _core.Segment, *, writer: bool, rank: int | None, waits: WaitSettings, codec: Codec) -> Self:
        """The writer's end of a segment made here, or a reader's end with a seat of its own."""
        end = cls.__new__(cls)
        end._open(segment, writer=writer, rank=rank, waits=waits, codec=codec)
        return end

    def acquire_write(self, timeout: float | None = None, *, nbytes: int | None = None) -> WriteChunk:
        """A context manager that yields a writable memoryview in shared memory, of `nbytes` bytes or max_chunk_bytes.

        Leaving the block publishes all of them; an exception publishes nothing. Views, arrays and tensors made from the
        memoryview, and second names for it, must be gone by then (ViewsAliveError, and nothing is published). Where
        something else than a variable of the calling code holds it, what is published is a copy.
        Other threads wait meanwhile. If the queue is closed meanwhile, leaving raises QueueClosedError, and nothing is
        published.
        Raises QueueTimeoutError, MessageTooLargeError, CapacityError, ReaderDiedError on entering.

        >>> with queue.acquire_write(nbytes=4) as chunk:
        ...     chunk[:] = b"data"
        >>> reader.dequeue()
        b'data'
        """
        return WriteChunk(self, nbytes, timeout)

    def loan(self, nbytes: int, timeout: float | None = None) -> WriteChunk:
        """A context manager that yields a writable memoryview of `nbytes` bytes: produce a message where it will lie.

        It is published on leaving the block, without a copy, and received as `bytes` (or, without a copy, by
        `acquire_read`). An exception publishes nothing. The rules and the errors are those of `acquire_write`.

        >>> with queue.loan(1 << 20) as memory, open("/dev/zero", "rb") as file:
        ...     size = file.readinto(memory)
        >>> len(reader.dequeue())
        1048576
        """
        return WriteChunk(self, _arguments.checked("nbytes", nbytes, 0, _arguments.INT64_MAX), timeout)

    def loan_array(self, shape: int | Sequence[int], dtype: DTypeLike, timeout: float | None = None) -> LoanedArray:
        """A context manager that yields a writable, uninitialised NumPy array in shared memory, in C order.

        It is published on leaving the block, from 64 KiB on without a copy, and received as a read-only array. An
        exception publishes nothing. On leaving, the array becomes read-only, and holds its memory if it is kept;
        slices, views and other references to it must be gone by then (ViewsAliveError, and nothing is published).
        Raises ArgumentError for a dtype that holds Python objects or has no portable text, MissingPackageError
        without NumPy, and on entering what `acquire_write` raises.

        >>> with queue.loan_array((256, 256), "float32") as array:
        ...     array[:] = 1
        >>> float(reader.dequeue().sum())
        65536.0
        """
        return loaned_array(self, shape, dtype, timeout)

    def acquire_read(
        self, timeout: float | None = None, cancel: threading.Event | None = None, indefinite: bool = False
    ) -> ReadChunk:
        """A context manager that yields the next message's bytes as a read-only memoryview: in shared memory, without
        a copy, if the message is a large one. The view, and arrays made of it, may be kept: they hold the memory.

        Leaving the block, with or without an exception, marks the chunk read. Arguments, and errors on entering, are
        those of `dequeue`.

        >>> queue.enqueue(b"some bytes")
        >>> with reader.acquire_read() as view:
        ...     bytes(view[:4])
        b'some'
        """
        return ReadChunk(self, timeout, cancel, indefinite)

    async def aget(self, timeout: float | None = None) -> T:
        """Receive the next message; wait for it at most `timeout` seconds without blocking the event loop.

        Any number of tasks may wait, on any number of loops; those of one loop get messages in the order in which they
        came. A task that is cancelled takes no message. `async for message in queue` ends when the writer has closed.
        Raises what `dequeue` raises: QueueTimeoutError, QueueClosedError, WriterDiedError, ReaderEvictedError,
        DecodeError (that message is consumed); and BusyError if it has to wait and a Selector waits for this end.

        >>> import asyncio
        >>> queue.enqueue("in an event loop")
        >>> asyncio.run(reader.aget(timeout=1.0))
        'in an event loop'
        """
        reader = self._async_reader
        if reader is None:
            from ringcast.aio import AsyncReader

            reader = self.__dict__.setdefault("_async_reader", AsyncReader(self))
        message: T = await reader.get(self, timeout)
        return message

    def _is_waiting(self, thread: int) -> bool:
        """Of a reader: does this thread (threading.get_ident) wait for a message, in its call or its selector's?"""
        selector = None if self._selector is None else self._selector()
        return super()._is_waiting(thread) or (selector is not None and selector._waits_in == thread)

    def shutdown(self) -> None:
        """Ends every waiting call of this end, from any thread, with QueueClosedError; later calls raise it, too.

        A writer's readers still get all that was sent; a reader leaves its seat. Any number of times.

        >>> reader.shutdown()
        >>> reader.closed
        True
        """
        super().shutdown()
        if self._async_reader is not None:
            self._async_reader.stop()

    def close(self, linger: float | None = DEFAULT_LINGER_S) -> None:
        """Shut this end down and let go of its memory. Any number of times.

        A writer waits up to `linger` seconds (None: without limit) for promised readers that have not attached yet, if
        there are messages for them, and for what is under way to other machines; readers that have attached keep what
        was published. Raises QueueTimeoutError, with everything closed, that names who has not got all messages, or at
        once ReaderDiedError if the link has died that alone could bring them to other machines.

        >>> queue.enqueue("still delivered")
        >>> queue.close()
        >>> list(reader)
        ['still delivered']
        """
        _arguments.seconds("linger", linger)
        memory = self._segment
        dead_link = None
        try:
            self.shutdown()
            undelivered = self._close(linger)
            dead_link = self._dead_link()
        finally:
            self._segment = None
            self._leave_link()
        if memory is not None and self.role == "writer" and memory.name_is_left:
            _reports.name_left(self)
        seen = described(memory) if undelivered and memory else None
        del memory  # else it would live as long as an error's traceback
        if seen is not None:
            who = _reports.not_reached(seen)
            if dead_link is not None and _reports.lacks_elsewhere(seen):
                raise ReaderDiedError(
                    f"{self._context} is closed, but {undelivered} messages did not reach {who}: {dead_link}, so they "
                    "cannot be brought there any more; make the queue anew, and send them again"
                )
            raise QueueTimeoutError(
                f"{self._context} is closed, but {undelivered} messages did not reach {who} within {linger} s; call "
                "wait_until_ready() before sending, or close(linger=...)"
            )

    def stats(self) -> QueueStats:
        """Counters and the state of every seat, as of now; `ringcast.QueueStats` says what the fields are.

        Waits for no other call of this end. Raises QueueClosedError once closed.

        >>> queue.enqueue("unread")
        >>> stats = queue.stats()
        >>> stats["messages"], stats["queued"], [seat["alive"] for seat in stats["readers"]]
        (1, 1, [True])
        """
        segment = self._segment
        if segment is None:
            raise QueueClosedError(
                f"{self._context}: this end is closed{self._why_closed} and has no statistics any more"
            )
        counters = self._counters()
        if self._async_reader is not None:
            counters["waiting_ns"] = max(counters["waiting_ns"], int(1e9 * self._async_reader.waited_s()))
        return _html.shown(collect_stats(segment, self.rank, counters, self.closed))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close_without_raising(_at_exit.has_failed(error), "the block was left by an exception")

    def _close_at_exit(self, failed: bool, since: float) -> None:
        """`since`: when (time.monotonic) this process shut its writers down, whose readers may still come for a bit."""
        passed = time.monotonic() - since
        self._close_without_raising(failed, "the process ends", max(0.0, DEFAULT_LINGER_S - passed))

    def __del__(self) -> None:
        """A writer that nobody closed waits for nobody; what is lost is told. (Readers: see the native end.)"""
        if getattr(self, "_segment", None) is None or self.role == "reader":
            return
        with suppress(ForkedError):  # a child's copy of its parent's
            self._check_not_forked()
            self._close_without_raising(False, "nothing referred to it any more", 0.0, waited_s=0.0)

    def _close_without_raising(
        self, failed: bool, why: str, linger: float = DEFAULT_LINGER_S, *, waited_s: float = DEFAULT_LINGER_S
    ) -> None:
        """As `close` does; what is lost is logged, after `waited_s` in all. A reader that fails gives its seat up as a
        killed process would."""
        memory = self._segment
        if memory is None:
            return
        undelivered = 0
        dead_link = None
        try:
            if failed and self.role == "reader":
                self._abandon()  # before it is shut down, by which it would leave in order
            self.shutdown()
            undelivered = self._close(linger if self._exported else 0)
            dead_link = self._dead_link()
        finally:
            self._segment = None
            self._leave_link()
        if undelivered and self._exported:
            _reports.undelivered(self, memory, undelivered, waited_s, why, dead_link)

    def _dead_link(self) -> str | None:
        """That the link has died that this end relies on, in words."""
        link = self._link
        return None if link is None else link.death

    def _leave_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.aget()
        except QueueClosedError:
            if self.closed:  # by this side: somebody ended the iteration from outside
                raise
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        if not hasattr(self, "_segment"):
            return f"<{type(self).__name__} not initialised>"
        state = "closed" if self._segment is None else ("shut down" if self.closed else "open")
        where = "" if self.name is None else f", segment={self.segment!r}"
        return f"<{type(self).__name__}: {self._context}{where}, {state}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        if not hasattr(self, "_segment"):
            return _html.page(repr(self), {})
        try:
            return _html.queue(repr(self), self.stats())
        except QueueClosedError:
            return _html.page(repr(self), {})

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and cannot be pickled or copied; send its export_handle() "
            "instead, and make a reader of that handle with create_from_handle"
        )

"""ShmRingBuffer: the ring of chunks by itself, without objects.

One writer fills chunks in place, `n_reader` readers each read every chunk once. The object pickles as its handle, and
unpickling it attaches; where its segment does not exist, on another machine, it stays inert until it is used.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal

from ringcast import _arguments, _core, _names, _segment
from ringcast._chunks import ReadChunk, WriteChunk
from ringcast._end import QueueEnd
from ringcast._joining import Patience, take_rank
from ringcast.codec import codec as make_codec
from ringcast.errors import (
    ForkedError,
    QueueClosedError,
    QueueTimeoutError,
    RoleError,
    SegmentMismatchError,
    SegmentNotFoundError,
)
from ringcast.waiting import Wait, WaitSettings

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

ChunkState = Literal["empty", "written", "read_by_some", "read_by_all"]
RingHandle = tuple[int, int, int, str]


class ShmRingBuffer:
    """A ring of `max_chunks` chunks of up to `max_chunk_bytes` bytes for `n_reader` readers.

    Without `name` it makes the segment and is the writer's end; with the real name of one it attaches as a reader, for
    `rank`, or for the lowest free rank if none is given. A reader's seat is taken at its first `acquire_read`, so that
    looking at `slot_state` takes none. Only the creator unlinks.

    Raises ArgumentError, CapacityError; attaching: SegmentNotFoundError, SegmentMismatchError (other sizes).

    >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
    >>> other = ShmRingBuffer(*ring.handle())  # a reader, in any process
    >>> with ring.acquire_write(nbytes=5) as chunk:
    ...     chunk[:] = b"hello"
    >>> with other.acquire_read() as view:
    ...     bytes(view)
    b'hello'
    """

    name: str
    """The real name of the shared memory."""
    is_writer: bool

    def __init__(
        self,
        n_reader: int,
        max_chunk_bytes: int,
        max_chunks: int,
        name: str | None = None,
        *,
        rank: int | None = None,
        wait: Wait = None,
    ) -> None:
        self._sizes = (
            _segment.checked_readers(n_reader),
            _arguments.checked("max_chunk_bytes", max_chunk_bytes, most=_arguments.INT64_MAX),
            _arguments.checked("max_chunks", max_chunks),
        )
        self._rank = None if rank is None else _arguments.checked("rank", rank, 0)
        if name is not None and not isinstance(name, str):
            raise _arguments.refuse("name", "the name of a ring's shared memory, or None to make one", name)
        self._waits = WaitSettings.of(wait)
        self._pid = os.getpid()
        self._seating = threading.Lock()
        self._end: QueueEnd | None = None
        self._shut_down = False
        self._segment: _core.Segment | None = None
        self.is_writer = name is None
        if name is None:
            self._segment = _segment.create(None, self._sizes[0], list(range(self._sizes[0])), *self._sizes[1:])
            self.name = self._segment.name
            self._end = QueueEnd._of(self._segment, writer=True, rank=None, waits=self._waits, codec=make_codec("raw"))
            return
        self.name = name
        found = _segment.attach(name)
        sizes = (found.n_reader, found.max_chunk_bytes, found.max_chunks)
        if sizes != self._sizes:
            raise SegmentMismatchError(
                f"{found.label} has (n_reader, max_chunk_bytes, max_chunks) = {sizes}, not {self._sizes}"
            )
        self._segment = found

    def handle(self) -> RingHandle:
        """(n_reader, max_chunk_bytes, max_chunks, segment name): the arguments that make a reader's end.

        >>> ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4).handle()[:3]
        (1, 1024, 4)
        """
        return (*self._sizes, self.name)

    def acquire_write(self, timeout: float | None = None, *, nbytes: int | None = None) -> WriteChunk:
        """A context manager: the next chunk, to be filled in place; see MessageQueue.acquire_write.

        Raises RoleError, QueueClosedError, ForkedError, and on entering what `MessageQueue.acquire_write` raises.

        >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
        >>> with ring.acquire_write() as chunk:
        ...     len(chunk)
        1024
        """
        self._check_not_forked()
        if not self.is_writer:
            raise RoleError(f"{_names.label(self.name)}: acquire_write is for its creator; this is a reader's end")
        end = self._end
        if end is None:
            raise QueueClosedError(f"{_names.label(self.name)}: this end has been closed")
        return end.acquire_write(timeout, nbytes=nbytes)

    def acquire_read(
        self, timeout: float | None = None, cancel: threading.Event | None = None, indefinite: bool = False
    ) -> ReadChunk:
        """A context manager: the next chunk's bytes; see MessageQueue.acquire_read.

        The first call takes this reader's seat. Raises RankTakenError, SegmentNotFoundError, QueueClosedError, and on
        entering what `MessageQueue.acquire_read` raises.

        >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
        >>> ShmRingBuffer(*ring.handle()).acquire_read(timeout=0).__enter__()
        Traceback (most recent call last):
        ringcast.errors.QueueTimeoutError: ...
        """
        end = self._end
        if end is None or self._shut_down:
            end = self._take_seat(_arguments.seconds("timeout", timeout))
        return end.acquire_read(timeout, cancel, indefinite)

    def _take_seat(self, timeout: float | None) -> QueueEnd:
        """This reader's end, made by the first thread that comes; the others wait for it."""
        self._check_usable()
        if not self._seating.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise QueueTimeoutError(f"{_names.label(self.name)}: another thread was attaching for all of {timeout} s")
        try:
            self._check_usable()
            if self._end is None:
                end = take_rank(self._open_reader, self._attached(), self._rank, Patience(timeout))
                assert end is not None
                self._end = end
                # shut down or closed by another thread meanwhile, which did not find the end
                if self._shut_down or self._segment is None:
                    end._close(0)
                    self._check_usable()
                    self._attached()
            return self._end
        finally:
            self._seating.release()

    def _check_not_forked(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(
                f"{_names.label(self.name)}: this object belongs to process {self._pid} and cannot be used in a "
                f"forked child (pid {os.getpid()}); send its handle(), or pickle it, and attach there"
            )

    def _check_usable(self) -> None:
        self._check_not_forked()
        if self._shut_down:
            raise QueueClosedError(f"{_names.label(self.name)}: this end has been shut down")

    def _open_reader(self, memory: _core.Segment) -> QueueEnd:
        return QueueEnd._of(memory, writer=False, rank=self._rank, waits=self._waits, codec=make_codec("raw"))

    def slot_state(self, index: int) -> ChunkState:
        """The state of chunk `index`: "empty", "written", "read_by_some" or "read_by_all".

        "empty" and "read_by_all" chunks are writable; "read_by_some" ones are readable by the others. Takes no seat.
        Raises ArgumentError, SegmentNotFoundError, ForkedError.

        >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
        >>> with ring.acquire_write(nbytes=1) as chunk:
        ...     chunk[0] = 7
        >>> ring.slot_state(0), ring.slot_state(1)
        ('written', 'empty')
        """
        index = _arguments.checked("index", index, 0, (1 << 32) - 1)
        self._check_not_forked()
        state: ChunkState = self._attached().slot_state(index)[0]
        return state

    def shutdown(self) -> None:
        """End a call that waits on this end, and every later one; from any thread, any number of times.

        >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
        >>> ring.shutdown()
        """
        self._shut_down = True
        end = self._end
        if end is not None:
            end.shutdown()

    def close(self) -> None:
        """Let go of the memory; the creator removes the name. Does not wait for readers that have not attached.

        >>> ring = ShmRingBuffer(n_reader=1, max_chunk_bytes=1024, max_chunks=4)
        >>> ring.close()
        """
        self._segment = None  # first: a thread that is just attaching finds out
        end, self._end = self._end, None
        if end is not None:
            end._close(0)

    def _attached(self) -> _core.Segment:
        if self._segment is None:
            raise SegmentNotFoundError(
                f"{_names.label(self.name)} is not attached: it does not exist on this machine, or this end was closed"
            )
        return self._segment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        role = "writer" if self.is_writer else "reader"
        state = "not attached" if self._segment is None else "open"
        n_reader, max_chunk_bytes, max_chunks = self._sizes
        return (
            f"<ShmRingBuffer {role} n_reader={n_reader} max_chunk_bytes={max_chunk_bytes} max_chunks={max_chunks} "
            f"name={self.name!r} {state}>"
        )

    def __reduce__(self) -> Any:
        return (_attach_or_stay_inert, (self.handle(),))


def _attach_or_stay_inert(handle: RingHandle) -> ShmRingBuffer:
    try:
        return ShmRingBuffer(*handle)
    except SegmentNotFoundError:
        ring = ShmRingBuffer.__new__(ShmRingBuffer)
        ring._sizes, ring.name = handle[:3], handle[3]
        ring._rank = ring._end = ring._segment = None
        ring._waits = WaitSettings.of(None)
        ring._pid = os.getpid()
        ring._seating = threading.Lock()
        ring._shut_down = ring.is_writer = False
        return ring

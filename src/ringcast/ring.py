"""ShmRingBuffer: the ring of chunks by itself, without objects.

One writer fills chunks in place, `n_reader` readers each read every chunk once. The object pickles as its handle, and
unpickling it attaches; where its segment does not exist, on another machine, it stays inert until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ringcast import segment
from ringcast.endpoint import QueueEnd, ReadChunk
from ringcast.errors import RingcastError, SegmentMismatchError, SegmentNotFoundError
from ringcast.waiting import Wait

if TYPE_CHECKING:
    import threading

ChunkState = Literal["empty", "written", "read_by_some", "read_by_all"]
RingHandle = tuple[int, int, int, str]


class ShmRingBuffer(QueueEnd):
    """A ring of `max_chunks` chunks of up to `max_chunk_bytes` bytes for `n_reader` readers.

    Without `name` it makes the segment and is the writer's end; with the real name of one it attaches as a reader, for
    `rank`, or for the lowest free rank if none is given. The seat is taken at the first `acquire_read`, so that looking
    at `slot_state` takes none. Only the creator unlinks.

    Raises ArgumentError, CapacityError; attaching: SegmentNotFoundError, SegmentMismatchError (other sizes).
    """

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
        self._handle_sizes = (n_reader, max_chunk_bytes, max_chunks)
        self._wanted_rank = rank
        self._wait = wait
        if name is None:
            made = segment.create(None, n_reader, list(range(n_reader)), max_chunk_bytes, max_chunks, None)
            self._open(made, writer=True, rank=None, wait=wait)
            return
        self._segment = segment.attach(name)
        self.segment = name
        self.name = self._segment.user_name
        self.role = "reader"
        self.rank = None
        found = (self._segment.n_reader, self._segment.max_chunk_bytes, self._segment.max_chunks)
        if found != self._handle_sizes:
            raise SegmentMismatchError(
                f"segment {name!r} has (n_reader, max_chunk_bytes, max_chunks) = {found}, not {self._handle_sizes}"
            )

    def handle(self) -> RingHandle:
        """(n_reader, max_chunk_bytes, max_chunks, segment name)."""
        return (*self._handle_sizes, self.segment)

    def slot_state(self, index: int) -> ChunkState:
        """The state of chunk `index`: "empty", "written", "read_by_some" or "read_by_all".

        Only "empty" and "read_by_all" chunks are writable; "read_by_some" ones are readable by the others.
        """
        if self._segment is None:
            raise self._not_attached()
        state: ChunkState = self._segment.slot_state(index)[0]
        return state

    def acquire_read(
        self, timeout: float | None = None, cancel: threading.Event | None = None, indefinite: bool = False
    ) -> ReadChunk:
        """The next chunk's bytes; see QueueEnd.acquire_read. The first call takes this reader's seat."""
        if self.role == "reader" and self.rank is None:
            if self._segment is None:
                raise self._not_attached()
            self._open(self._segment, writer=False, rank=self._wanted_rank, wait=self._wait)
        return super().acquire_read(timeout, cancel, indefinite)

    def close(self, linger: float | None = 0.0) -> None:
        """Let go of the memory; see QueueEnd.close. By default does not wait for readers that never came."""
        if self.role == "reader" and self.rank is None:
            self._segment = None
            return
        undelivered = self._close(linger)
        self._segment = None
        del undelivered  # a ring makes no promise beyond its creator's life

    def _not_attached(self) -> RingcastError:
        return SegmentNotFoundError(
            f"ring segment {self.segment!r} is not attached: it does not exist on this machine, or this end was closed"
        )

    def __reduce__(self) -> Any:
        return (_attach_or_stay_inert, (self.handle(),))


def _attach_or_stay_inert(handle: RingHandle) -> ShmRingBuffer:
    try:
        return ShmRingBuffer(*handle)
    except SegmentNotFoundError:
        ring = ShmRingBuffer.__new__(ShmRingBuffer)
        ring._handle_sizes = handle[:3]
        ring._wanted_rank = None
        ring._wait = None
        ring._segment = None
        ring.segment = handle[3]
        ring.name = None
        ring.role = "reader"
        ring.rank = None
        return ring

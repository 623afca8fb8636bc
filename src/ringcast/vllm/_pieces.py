"""Messages for which shared memory has no room at once: sent in pieces, which readers put together.

A queue takes a message whole or not at all. vLLM's own sends what is too large for its ring through a socket, and so
needs no memory but that of its processes; this needs no more of /dev/shm than a few pieces. Where there is not even
that, pieces become smaller, down to what a ring has room for in any case: what has begun must come to its end.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from ringcast._interruptions import NotRebuilt, Tries
from ringcast.errors import CapacityError, DecodeError

PIECE_BYTES = 1 << 20
_LEAST_BYTES = 512
"""So much lies in the ring itself, which needs no memory besides."""
_NAP_S = 0.001


class Pieces(NamedTuple):
    """Comes before the pieces: of how many bytes the frames are, which they are cut from, one after the other."""

    sizes: tuple[int, ...]


class _Queue(Protocol):
    def qsize(self) -> int: ...


def send_in_pieces(
    writer: _Queue, enqueue: Callable[[Any, float | None], None], frames: bytes | Sequence[Any], timeout: float | None
) -> None:
    """Send an encoded object. `timeout` is for its beginning: what has begun is sent to its end, without limit.

    Raises what `enqueue` does, but no CapacityError once it has begun.
    """
    parts: Sequence[Any] = [frames] if isinstance(frames, bytes) else frames
    views = [memoryview(part).cast("B") for part in parts]
    enqueue(Pieces(tuple(view.nbytes for view in views)), timeout)
    size = PIECE_BYTES
    for view in views:
        rest = view
        while rest:
            try:
                enqueue(bytes(rest[:size]), None)
            except CapacityError:
                if size > _LEAST_BYTES and writer.qsize() == 0:  # no reader will make room
                    size //= 2
                else:
                    time.sleep(_NAP_S)  # nothing tells when a block is given back
            else:
                rest = rest[size:]


class Assembly:
    """A message of which pieces are coming."""

    def __init__(self, told: Pieces) -> None:
        self._frames = [bytearray(size) for size in told.sizes]
        self._tries = Tries()
        self._free = [view for frame in self._frames if len(view := memoryview(frame))]

    def receive(self, dequeue: Callable[[float | None], Any], timeout: float | None) -> None:
        """Receive what is missing. Raises what `dequeue` does, and can be called again after a time-out."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._free:
            piece = dequeue(None if until is None else max(0.0, until - time.monotonic()))
            self._free[0][: len(piece)] = piece
            self._free[0] = self._free[0][len(piece) :]
            if not len(self._free[0]):
                del self._free[0]

    def message(self) -> Any:
        """The object, whose buffers are its own. Raises DecodeError; or what interrupts it, and can be called again."""
        stream, *buffers = self._frames
        try:
            return self._tries.rebuilt(partial(pickle.loads, stream, buffers=buffers))
        except NotRebuilt as error:
            raise DecodeError(
                f"a received message of {sum(map(len, self._frames))} bytes, which came in pieces, cannot be rebuilt "
                f"({error}); it is consumed, and the next call goes on with the next message"
            ) from error.__cause__

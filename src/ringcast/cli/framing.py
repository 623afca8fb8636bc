"""How `pub` cuts its input into messages, and how `sub --frames` puts them together again.

A splitter takes the input block by block, as it arrives, and gives at once every message that is complete. In line mode
the messages, joined, are the input, byte for byte, whatever the input is. In frames mode each message is preceded by
its length, an unsigned 32-bit little-endian number.
"""

from __future__ import annotations

import io
import struct
from typing import Protocol

FRAME_HEADER = struct.Struct("<I")


class Splitter(Protocol):
    """Cuts a byte stream into messages of at most so many bytes."""

    @property
    def error(self) -> str | None:
        """Why the input cannot be cut beyond the messages given so far, or None."""

    def feed(self, block: bytes) -> list[bytes]:
        """Take the next block; return the messages that are complete now."""

    def finish(self) -> list[bytes]:
        """The input has ended; return what is left of it."""


class LineSplitter:
    r"""A message is a line with its `\n`; the last line may lack it. A line longer than `limit` travels in pieces."""

    error: str | None = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # the line begun, without its end; always shorter than the limit
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        cut = block.rfind(b"\n") + 1
        if not cut:
            return self._keep(block)
        self._pieces.append(block[:cut])
        text = b"".join(self._pieces)
        lines = io.BytesIO(text).readlines()  # unlike bytes.splitlines, cuts at \n and nowhere else
        if len(text) > self._limit and max(map(len, lines)) > self._limit:
            lines = [piece for line in lines for piece in self._cut(line)]
        self._pieces, self._size = [], 0
        return lines + self._keep(block[cut:])

    def finish(self) -> list[bytes]:
        last = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return [last] if last else []

    def _keep(self, rest: bytes) -> list[bytes]:
        if not rest:
            return []
        self._pieces.append(rest)
        self._size += len(rest)
        if self._size < self._limit:
            return []
        pieces = self._cut(b"".join(self._pieces))
        last = pieces.pop() if len(pieces[-1]) < self._limit else b""
        self._pieces, self._size = ([last] if last else []), len(last)
        return pieces

    def _cut(self, line: bytes) -> list[bytes]:
        if len(line) <= self._limit:
            return [line]
        return [line[at : at + self._limit] for at in range(0, len(line), self._limit)]


class FrameSplitter:
    """A message is what follows a length of four bytes; a longer one than `limit`, or a cut-off one, is an error."""

    def __init__(self, limit: int) -> None:
        self.error: str | None = None
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces together
        self._needed = FRAME_HEADER.size  # bytes until the next frame, or at least its length, is complete
        self._frames = 0  # given so far

    def feed(self, block: bytes) -> list[bytes]:
        self._pieces.append(block)
        self._size += len(block)
        if self._size < self._needed or self.error is not None:
            return []  # joining only what completes something keeps a long frame's cost linear
        data = b"".join(self._pieces)
        messages: list[bytes] = []
        at = 0
        self._needed = FRAME_HEADER.size
        while len(data) - at >= FRAME_HEADER.size:
            (length,) = FRAME_HEADER.unpack_from(data, at)
            if length > self._limit:
                number = self._frames + len(messages) + 1
                self.error = (
                    f"frame {number} has {length} bytes, more than the {self._limit} of --max-chunk-bytes: "
                    "give a larger one, or check that the input is framed"
                )
                break
            start = at + FRAME_HEADER.size
            if start + length > len(data):
                self._needed = FRAME_HEADER.size + length
                break
            messages.append(data[start : start + length])
            at = start + length
        self._pieces, self._size = [data[at:]], len(data) - at
        self._frames += len(messages)
        return messages

    def finish(self) -> list[bytes]:
        if self._size and self.error is None:
            number, head = self._frames + 1, FRAME_HEADER.size
            if self._size < head:
                self.error = f"the input ends inside the length of frame {number}"
            else:
                there, all_of_it = self._size - head, self._needed - head
                self.error = f"the input ends inside frame {number}, after {there} of its {all_of_it} bytes"
        return []


def frame(message: bytes) -> bytes:
    """`message` preceded by its length."""
    return FRAME_HEADER.pack(len(message)) + message

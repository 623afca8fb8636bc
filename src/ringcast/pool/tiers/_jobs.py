"""What a tier is asked, and what it answers: keys and slots as callers give them, and one answer for each."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from ringcast._arguments import refuse
from ringcast._mishaps import Promise
from ringcast.errors import ArgumentError, TierError
from ringcast.pool._keys import Keys

_KEY_BYTES = 32


class Job:
    """The answers of one call, until there is one for each key."""

    def __init__(self, count: int) -> None:
        self.future: Future[list[bool]] = Promise()
        self.future.set_running_or_notify_cancel()  # memory is in use: it cannot be called off
        self._answers = [False] * count
        self._left = count
        self._lock = threading.Lock()
        if count == 0:
            self.future.set_result([])

    def answer(self, indices: list[int], answers: list[bool]) -> None:
        with self._lock:
            for index, answer in zip(indices, answers, strict=True):
                self._answers[index] = answer
            self._left -= len(indices)
            done = self._left == 0
        if done:
            self.future.set_result(self._answers)


def bytes_of(memory: list[memoryview], done: list[bool]) -> int:
    """Of those slots that are done."""
    return sum(slot.nbytes for slot, is_done in zip(memory, done, strict=True) if is_done)


def one_for_each(keys: Sequence[bytes], answers: Iterable[object]) -> list[bool]:
    """What a tier's own code has answered, as bools. Raises TierError if they are not one for each key."""
    found = [bool(answer) for answer in answers]
    if len(found) != len(keys):
        raise TierError(f"{len(found)} answers came for {len(keys)} keys: a tier must answer for each of them")
    return found


def keys_of(keys: Any) -> list[bytes]:
    """Raises ArgumentError if they are none."""
    if isinstance(keys, str | bytes | bytearray | memoryview) or not isinstance(keys, Keys | Iterable):
        raise refuse("keys", "Keys, or a sequence of 32 bytes each", keys)
    found = list(keys)
    for key in found:
        if not isinstance(key, bytes):
            raise refuse("a key", "32 bytes", key)
        if len(key) != _KEY_BYTES:
            raise ArgumentError(f"a key must be {_KEY_BYTES} bytes, not {len(key)}")
    return found


def memory_of(slots: Any, count: int, writable: bool) -> list[memoryview]:
    """The slots' bytes, of so many keys. Raises ArgumentError."""
    if isinstance(slots, str | bytes | bytearray | memoryview) or not isinstance(slots, Iterable):
        raise refuse("slots", "a sequence of buffers, one for each key", slots)
    memory = [_memory_of_one(slot, writable) for slot in slots]
    if len(memory) != count:
        raise ArgumentError(f"slots must be one for each of the {count} keys, not {len(memory)}")
    return memory


def _memory_of_one(slot: Any, writable: bool) -> memoryview:
    try:
        view = memoryview(slot)
    except (TypeError, ValueError, BufferError) as error:
        raise refuse("a slot", "a buffer", slot, f": {error}") from error
    if not view.c_contiguous:
        raise ArgumentError("a slot must be contiguous memory")
    if view.nbytes == 0:
        raise ArgumentError("a slot must have at least one byte")
    if writable and view.readonly:
        raise ArgumentError("a slot that is loaded into must be writable")
    return view.cast("B")

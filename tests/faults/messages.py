"""What is sent: messages of all kinds and sizes, each with its number and a checksum of both."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import numpy as np

from tests.faults.plan import Mix

MAX_CHUNK_BYTES = 1 << 20
_HEADER = struct.Struct("<QI")
_NOISE = random.Random(1).randbytes(4 << 20)


class TornError(AssertionError):
    """A message does not hold what was sent."""


def _bytes(number: int, length: int) -> bytes:
    """So many bytes that no other message has."""
    start = number * 7919 % (len(_NOISE) - length)
    body = _NOISE[start : start + length]
    return _HEADER.pack(number, zlib.crc32(body, number)) + body


def make(seed: int, number: int, mix: Mix) -> Any:
    """Message `number` of a scenario."""
    rng = random.Random(seed * 1_000_003 + number)
    kind = {
        "small": ("bytes", "bytes", "pickle"),
        "arrays": ("array",),
        "mixed": ("bytes", "pickle", "array", "nested", "raw"),
        "oversize": ("bytes", "array", "huge"),
    }[mix]
    match rng.choice(kind):
        case "bytes":
            return _bytes(number, rng.randint(0, 1000))
        case "raw":
            return _bytes(number, rng.randint(1200, 100_000))
        case "pickle":
            return {"message": _bytes(number, rng.randint(0, 3000)), "text": "x" * rng.randrange(50)}
        case "array":
            return np.frombuffer(_bytes(number, rng.randint(2 << 10, 300 << 10)), np.uint8)
        case "nested":
            return {"message": np.frombuffer(_bytes(number, rng.randint(5 << 10, 200 << 10)), np.uint8)}
        case _:
            return np.frombuffer(_bytes(number, rng.randint(MAX_CHUNK_BYTES, 3 * MAX_CHUNK_BYTES // 2)), np.uint8)


def number_of(message: Any) -> int:
    """The message's number. Raises TornError."""
    content = message["message"] if isinstance(message, dict) else message
    view = memoryview(content)
    number, checksum = _HEADER.unpack_from(view)
    if zlib.crc32(view[_HEADER.size :], number) != checksum:
        raise TornError(f"message {number} of {len(view)} bytes is torn")
    return int(number)


def is_view(message: Any) -> bool:
    """Does it lie in shared memory for as long as it is kept?"""
    return isinstance(message, np.ndarray | dict)


def spoil(message: Any) -> None:
    """Checks it for the last time, and writes over what the receiver may write: nobody else may see that."""
    number_of(message)
    content = message["message"] if isinstance(message, dict) else message
    if isinstance(content, np.ndarray) and content.flags.writeable:
        content.fill(0xEE)

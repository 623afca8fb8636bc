"""How an array travels with a library that moves bytes: a header of fixed length, and the array's own memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Long enough for the type and shape of every array here; a cache line.
HEADER_BYTES = 64


def header(array: Array) -> bytes:
    """What `restore` needs beside the array's bytes."""
    return f"{array.dtype.str} {' '.join(map(str, array.shape))}".encode().ljust(HEADER_BYTES)


def nbytes(head: bytes) -> int:
    """How long the array of a header is."""
    kind, *shape = head.split()
    return math.prod(map(int, shape)) * np.dtype(kind.decode()).itemsize


def restore(head: bytes, data: Any) -> Array:
    """An array on the memory `data`, without a copy."""
    kind, *shape = head.split()
    return np.frombuffer(data, kind.decode()).reshape([int(length) for length in shape])


def raw(array: Array) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data

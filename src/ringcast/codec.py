"""Objects to frames and back: pickle protocol 5 with out-of-band buffers.

An encoded object is one `bytes` (the pickle stream), or a list whose first item is the stream and whose others are the
buffers of large parts (NumPy arrays, bytearrays), which travel beside the stream and are not copied into it.
A message that is exactly `bytes` never comes here. Unpickling runs code of the sender's choosing, so it is done only on
segments of the same user with mode 0600.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from ringcast.errors import DecodeError, EncodeError


def encode(obj: Any) -> bytes | list[Any]:
    """The frames of `obj`. Raises EncodeError, from whatever its pickling raised."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
        if not buffers:
            return stream
        return [stream, *(buffer.raw() for buffer in buffers)]
    except Exception as error:
        raise EncodeError(
            f"an object of type {type(obj).__qualname__!r} cannot be pickled ({error}); nothing was sent"
        ) from error


def decode(stream: bytes | memoryview, buffers: Sequence[memoryview]) -> Any:
    """The object of these frames. Raises DecodeError, from whatever its unpickling raised."""
    try:
        return pickle.loads(stream, buffers=buffers)
    except Exception as error:
        raise DecodeError(
            f"a received message of {len(stream)} pickled bytes cannot be unpickled ({type(error).__name__}: {error}); "
            "it is consumed, and the next call goes on with the next message"
        ) from error

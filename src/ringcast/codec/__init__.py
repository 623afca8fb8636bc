"""Objects to frames and back: what each codec makes of an object, and what an end accepts.

An encoded object is one `bytes`, the stream, or a list of the stream and the buffers of large parts (NumPy arrays,
tensors), which travel beside it and are not copied into it. Exactly `bytes`, exact arrays and plain contiguous tensors
never come here by themselves. Every end decodes every encoding, but unpickling, which runs code of the sender's
choosing, can be refused.

    objects    any object, by pickle, and what is bytes already
    msgpack    what has a msgpack form, by msgspec
    arrays     what a NumPy array is on the wire
    c_data     the same of classes of ctypes
    tensors    what a PyTorch tensor is on the wire
    sparse     the same of sparse ones
    arrow      slices of Arrow data, cut out of their buffers

Importing this imports no third-party package, nor does using it for objects that need none.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ringcast.codec.objects import encode_pickle, encode_raw
from ringcast.errors import ArgumentError, DecodeError, PickleRefusedError

if TYPE_CHECKING:
    from ringcast.codec.msgpack import Msgpack

RAW, ARRAY, PICKLE, MSGPACK, TENSOR = range(5)
"""Encodings, as the descriptor of a message names them."""

HIGHEST_ENCODING = TENSOR

ENVIRONMENT = "RINGCAST_ALLOW_PICKLE"

_ENCODINGS = {"pickle": PICKLE, "msgpack": MSGPACK, "raw": RAW}


class Codec:
    """How one end encodes objects, and decodes what arrives. The native end reads the attributes once."""

    def __init__(
        self, name: str, allow_pickle: bool, message_type: Any, copy: bool | None = None, writable: bool = False
    ) -> None:
        self.name = name
        self.copy = copy
        self.writable = writable
        self.encoding: int = _ENCODINGS[name]
        self.arrays: bool = name != "raw"
        self.dumps: Callable[..., bytes] | None = pickle.dumps if name == "pickle" else None
        self.loads: Callable[..., Any] | None = pickle.loads if allow_pickle else None
        self.encode: Callable[[Any], bytes | list[Any]]
        """The stream, or a list of it and contiguous buffers. Raises EncodeError, or anything else."""
        self._message_type = message_type
        self._msgpack: Msgpack | None = None
        if name == "msgpack" or message_type is not None:
            try:
                self._msgpack = _new_msgpack(message_type)
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"message_type={message_type!r} cannot be decoded into ({error})") from error
        if name == "msgpack" and self._msgpack is not None:
            self.encode = self._msgpack.encode
        else:
            self.encode = encode_pickle if name == "pickle" else encode_raw

    def decode(self, encoding: int, stream: Any, buffers: Sequence[Any]) -> Any:
        """The object of these frames; arrays in it are read-only views of `buffers`."""
        if encoding == PICKLE:
            if self.loads is None:
                raise PickleRefusedError(
                    f"a pickled message of {memoryview(stream).nbytes} bytes was refused: unpickling runs code of "
                    f"the sender's choosing and this end was made with allow_pickle=False or {ENVIRONMENT}=0; it is "
                    "consumed, and the next call goes on with the next message"
                )
            return pickle.loads(stream, buffers=buffers)
        if encoding == MSGPACK:
            if self._msgpack is None:
                self._msgpack = _new_msgpack(self._message_type)
            return self._msgpack.decode(stream, buffers)
        raise DecodeError(f"a message has encoding {encoding}, which codec {self.name!r} does not decode")


def codec(
    name: str,
    *,
    allow_pickle: bool | None = None,
    message_type: Any = None,
    copy: bool | None = None,
    zero_copy: bool = False,
) -> Codec:
    """The codec "pickle", "msgpack" or "raw".

    `allow_pickle`: whether received pickles are loaded; None asks the environment variable RINGCAST_ALLOW_PICKLE (1 or
    0, unset is 1). `message_type`: what msgpack messages are converted to and checked against, as msgspec does it.
    `copy`: whether what is received is a copy of this process's own, always (True), never where it can be a view
    (False), or as needed (None). `zero_copy`: whether it may be changed in place, and tensors are views, too.
    """
    if name not in _ENCODINGS:
        raise ArgumentError(f"codec={name!r} is none of {', '.join(map(repr, _ENCODINGS))}")
    if allow_pickle is None:
        setting = os.environ.get(ENVIRONMENT, "1")
        if setting not in ("0", "1"):
            raise ArgumentError(f"the environment variable {ENVIRONMENT} is {setting!r}; it must be 0, 1 or unset")
        allow_pickle = setting == "1"
    return Codec(name, allow_pickle, message_type, copy, zero_copy or copy is True)


def get_ready(*, arrays: bool, tensors: bool) -> None:
    """Import now what decoding needs, and not in the middle of the traffic.

    For what the writer has sent, and for arrays if this process uses NumPy anyway. What cannot be imported is the error
    of the message that needs it.
    """
    if arrays or tensors or "numpy" in sys.modules:
        with suppress(Exception):
            import_module("numpy")
            import_module("ringcast.codec.arrays")
    if tensors:
        with suppress(Exception):
            import_module("torch")


def _new_msgpack(message_type: Any) -> Msgpack:
    from ringcast.codec.msgpack import Msgpack

    return Msgpack(message_type)

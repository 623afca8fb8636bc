"""Objects to frames and back: what each codec makes of an object, and what an end accepts.

An encoded object is one `bytes`, the stream, or a list of the stream and the buffers of large parts (NumPy arrays,
tensors), which travel beside it and are not copied into it. Exactly `bytes`, exact arrays and plain contiguous tensors
never come here by themselves. Every end decodes every encoding, but unpickling, which runs code of the sender's
choosing, can be refused.

Importing this imports no third-party package, nor does using it for objects that need none.
"""

from __future__ import annotations

import copyreg
import os
import pickle
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ringcast.errors import ArgumentError, DecodeError, EncodeError, PickleRefusedError

if TYPE_CHECKING:
    from ringcast.msgpack import Msgpack

RAW, ARRAY, PICKLE, MSGPACK, TENSOR = range(5)
"""Encodings, as the descriptor of a message names them."""

ENVIRONMENT = "RINGCAST_ALLOW_PICKLE"

_ENCODINGS = {"pickle": PICKLE, "msgpack": MSGPACK, "raw": RAW}


class Codec:
    """How one end encodes objects, and decodes what arrives. The native end reads the attributes once."""

    def __init__(self, name: str, allow_pickle: bool, message_type: Any) -> None:
        self.name = name
        self.encoding = _ENCODINGS[name]
        self.arrays = name != "raw"
        self.dumps: Callable[..., bytes] | None = pickle.dumps if name == "pickle" else None
        self.loads: Callable[..., Any] | None = pickle.loads if allow_pickle else None
        self.encode: Callable[[Any], bytes | list[Any]]
        """The stream, or a list of it and contiguous buffers. Raises EncodeError, or anything else."""
        self._message_type = message_type
        self._msgpack: Msgpack | None = None
        if name == "msgpack" or message_type is not None:
            try:
                self._msgpack = _new_msgpack(message_type)
            except ImportError as error:
                raise ArgumentError(f"codec='msgpack' and message_type need the package msgspec ({error})") from error
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


def codec(name: str, *, allow_pickle: bool | None = None, message_type: Any = None) -> Codec:
    """The codec "pickle", "msgpack" or "raw".

    `allow_pickle`: whether received pickles are loaded; None asks the environment variable RINGCAST_ALLOW_PICKLE (1 or
    0, unset is 1). `message_type`: what msgpack messages are converted to and checked against, as msgspec does it.
    """
    if name not in _ENCODINGS:
        raise ArgumentError(f"codec={name!r} is none of {', '.join(map(repr, _ENCODINGS))}")
    if allow_pickle is None:
        setting = os.environ.get(ENVIRONMENT, "1")
        if setting not in ("0", "1"):
            raise ArgumentError(f"the environment variable {ENVIRONMENT} is {setting!r}; it must be 0, 1 or unset")
        allow_pickle = setting == "1"
    return Codec(name, allow_pickle, message_type)


def encode_raw(obj: Any) -> list[Any]:
    """The bytes of a contiguous buffer, uncopied."""
    try:
        dtype = getattr(obj, "dtype", None)
        if getattr(dtype, "hasobject", False):
            raise TypeError("its bytes are addresses of Python objects")
        return [pickle.PickleBuffer(obj).raw()]
    except (TypeError, ValueError, BufferError) as error:
        raise EncodeError(
            f"codec 'raw' sends contiguous bytes-like objects only, not {type(obj).__qualname__} ({error}); "
            "nothing was sent"
        ) from error


def encode_pickle(obj: Any) -> bytes | list[Any]:
    """Pickled by pickle, or by cloudpickle, if it is there, where pickle fails. Raises what pickle raised."""
    try:
        return _pickle(obj)
    except Exception as error:
        try:
            import cloudpickle
        except ImportError:
            if not _names_a_function(error):
                raise error from None
            raise EncodeError(
                f"an object of type {type(obj).__qualname__!r} cannot be pickled ({error}); cloudpickle, which lets "
                "functions and lambdas through, is not installed; nothing was sent"
            ) from error
        try:
            return _pickle(obj, cloudpickle.Pickler)
        except Exception:
            raise error from None


def _pickle(obj: Any, cloud: Any = None) -> bytes | list[Any]:
    from ringcast.tensors import torch_is_imported

    if cloud is None:
        if torch_is_imported():
            return _pickle_with_tensors(obj)
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        return [stream, *(buffer.raw() for buffer in buffers)] if buffers else stream
    return _Pickler(cloud).dump(obj)


class _Reducers(dict[type, Any]):
    """A dispatch table in front of the process's own, to which modules may add at any time."""

    def __missing__(self, kind: type) -> Any:
        return copyreg.dispatch_table[kind]


class _Pickler:
    """A pickler that knows tensors, for one message after the other: to make one costs as much as a small message."""

    def __init__(self, cloud: Any = None) -> None:
        from ringcast.tensors import TensorPacker, torch_is_imported

        self._file = BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._packer = TensorPacker() if torch_is_imported() else None
        table = self._packer.table if self._packer is not None else {}
        append = self._buffers.append
        if cloud is None:
            self._pickler: Any = pickle.Pickler(self._file, 5, buffer_callback=append)
            self._pickler.dispatch_table = _Reducers(table)
        else:
            # Its class has a table of its own, which only an attribute set before __init__ can take the place of.
            self._pickler = cloud.__new__(cloud)
            self._pickler.dispatch_table = {**cloud.dispatch_table, **table}
            self._pickler.__init__(self._file, protocol=5, buffer_callback=append)

    def dump(self, obj: Any) -> bytes | list[Any]:
        """The frames of `obj`. After an exception the pickler must not be used again."""
        self._pickler.dump(obj)
        stream = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        self._pickler.clear_memo()
        if not self._buffers:
            return stream
        buffers = list(self._buffers)
        self._buffers.clear()
        finish = self._packer.finish if self._packer is not None else _raw
        return [stream, *finish(buffers)]


def _raw(buffers: list[pickle.PickleBuffer]) -> list[memoryview]:
    return [buffer.raw() for buffer in buffers]


_spare_picklers: list[_Pickler] = []
_MOST_SPARE = 4


def _pickle_with_tensors(obj: Any) -> bytes | list[Any]:
    # Taken out while it is used: by several threads, or by an object that sends while it is pickled.
    try:
        pickler = _spare_picklers.pop()
    except IndexError:
        pickler = _Pickler()
    frames = pickler.dump(obj)
    if len(_spare_picklers) < _MOST_SPARE:
        _spare_picklers.append(pickler)
    return frames


def _names_a_function(error: Exception) -> bool:
    return any(word in str(error) for word in ("function", "lambda", "local object"))


def _new_msgpack(message_type: Any) -> Msgpack:
    from ringcast.msgpack import Msgpack

    return Msgpack(message_type)

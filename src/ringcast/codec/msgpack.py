"""msgpack messages, by msgspec, with NumPy arrays as frames beside the stream.

An array anywhere in the object becomes an extension value of four small fields (dtype text, shape, order, frame), and
its bytes travel as a frame, uncopied if it is contiguous; a NumPy scalar becomes one of its dtype text and bytes.
Decoding never executes anything: what is damaged or made by an enemy raises, and gives no view outside its frames.

msgspec and NumPy are imported when the first message needs them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_origin

from ringcast._extras import needed
from ringcast.codec.arrays import dtype_of, dtype_text
from ringcast.errors import EncodeError

ARRAY_CODE = 78
"""The extension type of an array: msgpack of [dtype text, shape, "C" or "F", index of its frame or nil if empty]."""
SCALAR_CODE = 110
"""The extension type of a NumPy scalar: msgpack of [dtype text, bytes]."""

_dtype_of = lru_cache(maxsize=256)(dtype_of)


def _msgpack() -> Any:
    needed("msgspec", "codec='msgpack' and message_type")
    from msgspec import msgpack

    return msgpack


class _Encoder:
    """An encoder and the frames of the message that it is at. One user at a time."""

    def __init__(self) -> None:
        msgpack = _msgpack()
        self.frames: list[memoryview] = []
        self._msgpack = msgpack
        self._encoder = msgpack.Encoder(enc_hook=self._hook)

    def encode(self, obj: Any) -> bytes | list[Any]:
        try:
            stream = self._encoder.encode(obj)
            return [stream, *self.frames] if self.frames else stream
        finally:
            self.frames.clear()

    def _hook(self, obj: Any) -> Any:
        numpy: Any = sys.modules.get("numpy")
        if hasattr(numpy, "ndarray"):
            if type(obj) in (numpy.ndarray, numpy.memmap):
                return self._array(numpy, obj)
            if isinstance(obj, numpy.generic):
                return self._scalar(numpy, obj)
        kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
        torch: Any = sys.modules.get("torch")
        if hasattr(torch, "Tensor") and isinstance(obj, torch.Tensor):
            raise EncodeError(
                f"a {kind} cannot be sent with codec='msgpack' unless it is plain, contiguous and a message by itself; "
                "codec='pickle' sends it"
            )
        raise EncodeError(
            f"a value of type {kind} has no msgpack form; codec='pickle' sends it, and nothing was sent now"
        )

    def _array(self, numpy: Any, array: Any) -> Any:
        text = _text(array.dtype)
        shape = array.shape
        if array.flags.c_contiguous:
            order = "C"
        elif array.flags.f_contiguous:
            order, array = "F", array.T
        else:
            order, array = "C", numpy.ascontiguousarray(array)
        frame = None
        if array.nbytes:
            frame = len(self.frames)
            # As bytes, since not every dtype (datetime64) has a buffer format.
            self.frames.append(memoryview(numpy.asarray(array).reshape(-1).view(numpy.uint8)))
        return self._msgpack.Ext(ARRAY_CODE, self._msgpack.encode((text, shape, order, frame)))

    def _scalar(self, numpy: Any, scalar: Any) -> Any:
        value = numpy.asarray(scalar)
        return self._msgpack.Ext(SCALAR_CODE, self._msgpack.encode((_text(value.dtype), value.tobytes())))


def _text(dtype: Any) -> str:
    text = dtype_text(dtype)
    if text is None:
        raise EncodeError(f"NumPy data of dtype {dtype!r} cannot be sent with codec='msgpack'; codec='pickle' sends it")
    return text


class _Decoder:
    """A decoder and the frames of the message that it is at. One user at a time."""

    def __init__(self, message_type: Any) -> None:
        msgpack = _msgpack()
        self._frames: Sequence[Any] = ()
        self._ext = msgpack.Ext
        self._array_header = msgpack.Decoder(tuple[str, tuple[int, ...], str, int | None])
        self._scalar_header = msgpack.Decoder(tuple[str, bytes])
        self._decoder = msgpack.Decoder(
            Any if message_type is None else message_type, ext_hook=self._hook, dec_hook=_accept
        )

    def decode(self, stream: Any, frames: Sequence[Any]) -> Any:
        self._frames = frames
        try:
            return self._decoder.decode(stream)
        finally:
            self._frames = ()

    def _hook(self, code: int, data: memoryview) -> Any:
        if code == ARRAY_CODE:
            return self._array(*self._array_header.decode(data))
        if code == SCALAR_CODE:
            return self._scalar(*self._scalar_header.decode(data))
        return self._ext(code, bytes(data))

    def _array(self, text: str, shape: tuple[int, ...], order: str, frame: int | None) -> Any:
        numpy: Any = needed("numpy", "a message with arrays in it")
        dtype = _dtype_of(text)
        if frame is None:
            data = memoryview(b"")
        elif 0 <= frame < len(self._frames):
            data = memoryview(self._frames[frame]).toreadonly()
        else:
            raise ValueError(f"an array lies in frame {frame} of a message of {len(self._frames)}")
        if any(n < 0 for n in shape) or order not in ("C", "F"):
            raise ValueError(f"an array has shape {shape} and order {order!r}")
        count = math.prod(shape)
        if count > sys.maxsize or count * dtype.itemsize != data.nbytes:  # items of no bytes could be any number
            raise ValueError(f"an array of {dtype} and shape {shape} lies in a frame of {data.nbytes} bytes")
        return numpy.ndarray(shape, dtype, data, order="F" if order == "F" else "C")

    def _scalar(self, text: str, data: bytes) -> Any:
        numpy: Any = needed("numpy", "a message with NumPy scalars in it")
        dtype = _dtype_of(text)
        if dtype.itemsize != len(data) or dtype.subdtype is not None:
            raise ValueError(f"a scalar of {dtype} has {len(data)} bytes")
        return numpy.ndarray((), dtype, data)[()]


def _accept(wanted: Any, value: Any) -> Any:
    """A field annotated with a foreign type, such as numpy.ndarray or NDArray[...], takes what the hook made of it."""
    if not isinstance(value, get_origin(wanted) or wanted):
        raise TypeError(f"expected {wanted}, got {type(value).__qualname__}")
    return value


class Msgpack:
    """Encodes and decodes, in any number of threads. Encoders and decoders are made as needed, and kept."""

    def __init__(self, message_type: Any = None) -> None:
        self._message_type = message_type
        self._encoders = [_Encoder()]
        self._decoders = [_Decoder(message_type)]

    def encode(self, obj: Any) -> bytes | list[Any]:
        # Taken out for the call: a finalizer or another thread that encodes meanwhile finds another one.
        try:
            encoder = self._encoders.pop()
        except IndexError:
            encoder = _Encoder()
        try:
            return encoder.encode(obj)
        finally:
            self._encoders.append(encoder)

    def decode(self, stream: Any, frames: Sequence[Any]) -> Any:
        try:
            decoder = self._decoders.pop()
        except IndexError:
            decoder = _Decoder(self._message_type)
        try:
            return decoder.decode(stream, frames)
        finally:
            self._decoders.append(decoder)

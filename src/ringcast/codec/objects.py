"""Objects to frames by pickle, with the buffers of arrays and tensors beside the stream; and bytes as they are."""

from __future__ import annotations

import copyreg
import pickle
from io import BytesIO
from typing import Any

from ringcast.errors import EncodeError


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
    from ringcast.codec.tensors import torch_is_imported

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
        from ringcast.codec.tensors import TensorPacker, torch_is_imported

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

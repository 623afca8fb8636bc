"""Objects to frames by pickle, with the buffers of arrays and tensors beside the stream; and bytes as they are."""

from __future__ import annotations

import copyreg
import pickle
import pickletools
from functools import lru_cache
from io import BytesIO
from typing import Any

from ringcast._interruptions import interrupts
from ringcast.codec.arrow import Reducers as arrow_reducers
from ringcast.codec.arrow import arrow_is_imported
from ringcast.codec.c_data import is_addresses, reduced_class
from ringcast.codec.tensors import TensorPacker, torch_is_imported
from ringcast.errors import EncodeError


def encode_raw(obj: Any) -> list[Any]:
    """The bytes of a contiguous buffer, uncopied."""
    try:
        dtype = getattr(obj, "dtype", None)
        if getattr(dtype, "hasobject", False):
            raise TypeError("its bytes are addresses of Python objects")
        if is_addresses(obj):
            raise TypeError("there are addresses among its bytes, which mean nothing in another process")
        return [pickle.PickleBuffer(obj).raw()]
    except (TypeError, ValueError, BufferError) as error:
        raise EncodeError(
            f"codec 'raw' sends contiguous bytes-like objects only, not {type(obj).__qualname__} ({error}); "
            "nothing was sent"
        ) from error


def encode_pickle(obj: Any) -> bytes | list[Any]:
    """Pickled by pickle; where that fails by cloudpickle, if it is there. Raises EncodeError, or what pickle raised."""
    try:
        return _pickle(obj)
    except Exception as error:
        if interrupts(error, error.__traceback__):
            raise
        if "ctypes objects containing pointers" in str(error):
            raise EncodeError(
                f"an object of type {type(obj).__qualname__!r} cannot be pickled ({error}): an address means nothing "
                "in another process; send what it points to; nothing was sent"
            ) from error
        base = _other_pickler()
        try:
            return _pickle(obj, base)
        except EncodeError:
            raise
        except Exception as again:
            if interrupts(again, again.__traceback__):
                raise
            if base is not pickle.Pickler or not _names_a_function(error):
                raise error from None
            raise EncodeError(
                f"an object of type {type(obj).__qualname__!r} cannot be pickled ({error}); cloudpickle, which lets "
                "functions and lambdas through, is not installed; nothing was sent"
            ) from error


def _other_pickler() -> Any:
    """What lets more through than `pickle.dumps`."""
    try:
        import cloudpickle
    except ImportError:
        return pickle.Pickler
    return cloudpickle.Pickler


def _pickle(obj: Any, base: Any = None) -> bytes | list[Any]:
    if base is None:
        if known := _packages():
            return _pickle_with_reducers(obj, known)
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        return [stream, *(buffer.raw() for buffer in buffers)] if buffers else stream
    return _Pickler(base).dump(obj)


def _packages() -> tuple[bool, bool] | None:
    """Whose reducers are needed: of torch, of pyarrow. Who has not imported a package has no objects of it."""
    known = torch_is_imported(), arrow_is_imported()
    return known if any(known) else None


class _Reducers(dict[type, Any]):
    """A dispatch table in front of the process's own, to which modules may add at any time."""

    def __missing__(self, kind: type) -> Any:
        return copyreg.dispatch_table[kind]


class _Pickler:
    """A pickler with reducers, for one message after the other: to make one costs as much as a small message."""

    def __init__(self, base: Any = None) -> None:
        self.known = _packages()
        self._file = BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        torch, arrow = self.known or (False, False)
        self._packer = TensorPacker() if torch else None
        table = self._packer.table if self._packer is not None else {}
        if arrow:
            table |= arrow_reducers()
        append = self._buffers.append
        if base is None:
            self._pickler: Any = pickle.Pickler(self._file, 5, buffer_callback=append)
            self._pickler.dispatch_table = _Reducers(table)
        else:
            # cloudpickle's has a table of its own, which only an attribute set before __init__ can take the place of.
            kind = _with_c_data(base)
            self._pickler = kind.__new__(kind)
            self._pickler.dispatch_table = (
                _Reducers(table) if base is pickle.Pickler else {**base.dispatch_table, **table}
            )
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


@lru_cache
def _with_c_data(base: Any) -> Any:
    """A pickler that knows the classes of ctypes, too."""

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            reduced = reduced_class(obj)
            if reduced is not None:
                return reduced
            override = getattr(super(), "reducer_override", None)
            return NotImplemented if override is None else override(obj)

    return Pickler


def _raw(buffers: list[pickle.PickleBuffer]) -> list[memoryview]:
    return [buffer.raw() for buffer in buffers]


_spare_picklers: list[_Pickler] = []
_MOST_SPARE = 4


def _pickle_with_reducers(obj: Any, known: tuple[bool, bool]) -> bytes | list[Any]:
    # Taken out while it is used: by several threads, or by an object that sends while it is pickled.
    try:
        pickler = _spare_picklers.pop()
        if pickler.known != known:  # a package was imported since
            pickler = _Pickler()
    except IndexError:
        pickler = _Pickler()
    frames = pickler.dump(obj)
    if len(_spare_picklers) < _MOST_SPARE:
        _spare_picklers.append(pickler)
    return frames


def _names_a_function(error: Exception) -> bool:
    return any(word in str(error) for word in ("function", "lambda", "local object"))


def globals_named(stream: Any) -> str:
    """The classes and functions that a pickle names, for the error that it could not be loaded."""
    found: dict[str, None] = {}
    memo: list[str | None] = []
    last: tuple[str | None, str | None] = (None, None)
    try:
        for code, argument, _ in pickletools.genops(bytes(memoryview(stream)[:_MOST_LOOKED_AT])):
            if code.name in ("MEMOIZE", "PROTO", "FRAME"):
                if code.name == "MEMOIZE":
                    memo.append(last[1])
                continue
            if code.name == "GLOBAL":
                found[str(argument).replace(" ", ".")] = None
            elif code.name == "STACK_GLOBAL":
                found[f"{last[0]}.{last[1]}"] = None
            value = argument if "UNICODE" in code.name else None
            if code.name in ("BINGET", "LONG_BINGET") and int(argument or 0) < len(memo):
                value = memo[int(argument or 0)]
            last = last[1], value
    except ValueError:  # damaged, or longer than what is looked at
        pass
    names = [name for name in found if not name.startswith(("ringcast.codec.", "_codecs.", "copyreg."))]
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


_MOST_LOOKED_AT = 1 << 18
_MOST_NAMED = 8

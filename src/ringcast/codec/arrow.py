"""Slices of Arrow data: pyarrow pickles the whole buffers that a slice lies in, so a small slice is copied first.

The entries of a dictionary, and views inside of lists and structures, are not looked through: they are sent whole.
Nothing here imports pyarrow: only who has imported it can send its objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_SLACK = 65_536
"""Bytes beyond a slice's own that are sent rather than copying the slice."""


def arrow_is_imported() -> bool:
    return hasattr(sys.modules.get("pyarrow"), "RecordBatch")


class Reducers(dict[type, Callable[[Any], Any]]):
    """Of the classes of pyarrow that hold data. Arrays have a class for each type; extensions may add more."""

    def __init__(self) -> None:
        pa: Any = sys.modules["pyarrow"]
        for kind in (pa.Table, pa.RecordBatch, pa.ChunkedArray, *_subclasses(pa.Array)):
            if kind.__module__.partition(".")[0] == "pyarrow":
                self[kind] = _reduce


def _subclasses(kind: type) -> list[type]:
    below: list[type] = kind.__subclasses__()
    return [kind, *(each for direct in below for each in _subclasses(direct))]


def _reduce(data: Any) -> Any:
    try:
        whole = data.get_total_buffer_size()
        spare = whole > _SLACK and whole > 2 * _own_bytes(data) + _SLACK
    except (AttributeError, TypeError, ValueError, NotImplementedError):  # buffers that pyarrow cannot count
        spare = False
    return (_compact(data) if spare else data).__reduce_ex__(5)


def _own_bytes(data: Any) -> int:
    """About what the data would take in buffers of its own."""
    pa: Any = sys.modules["pyarrow"]
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        return sum(_own_bytes(column) for column in data.columns)
    if isinstance(data, pa.ChunkedArray):
        return sum(_own_bytes(chunk) for chunk in data.chunks)
    item = _VIEW_BYTES.get(str(data.type).partition("<")[0])
    if item is None:
        own: int = data.nbytes
        return own
    # pyarrow counts all that the buffers of views hold.
    held: int = data.nbytes * len(data) // max(data.buffers()[1].size // item, 1)
    return held


_VIEW_BYTES = {"string_view": 16, "binary_view": 16, "list_view": 4, "large_list_view": 8}


def _compact(data: Any) -> Any:
    """Equal data in buffers of its own."""
    pa: Any = sys.modules["pyarrow"]
    if isinstance(data, pa.Table):
        return pa.Table.from_arrays([_compact(column) for column in data.columns], schema=data.schema)
    if isinstance(data, pa.RecordBatch):
        return pa.RecordBatch.from_arrays([_compact(column) for column in data.columns], schema=data.schema)
    if isinstance(data, pa.ChunkedArray):
        return pa.chunked_array([_compact(chunk) for chunk in data.chunks], data.type)
    try:
        match str(data.type).partition("<")[0]:
            case "string_view":
                return data.cast(pa.large_string()).cast(data.type)
            case "binary_view":
                return data.cast(pa.large_binary()).cast(data.type)
            case "dense_union":
                return data.take(pa.array(range(len(data)), pa.int64()))
            case _:
                return pa.concat_arrays([data])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # sent with their whole buffers, as pyarrow does it
        return data

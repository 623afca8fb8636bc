"""What subclasses of MessageQueue give their readers: the writer's own attributes, which travel in its handle."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from ringcast._arguments import refuse
from ringcast._end import QueueEnd

_MOST_BYTES = 1 << 20
_OURS = frozenset(QueueEnd.__annotations__) | {"__orig_class__"}  # what MessageQueue[T](...) is told of itself

_told_of: set[tuple[type, str]] = set()


def own_attributes(end: QueueEnd) -> dict[str, Any]:
    """What was set on this object, and not by this library, as far as it can travel. What cannot is logged, once."""
    chosen: dict[str, Any] = {}
    for name, value in vars(end).items():
        if name in _OURS:
            continue
        try:
            pickle.Pickler(_Bounded(), pickle.HIGHEST_PROTOCOL).dump(value)
        except Exception as error:
            _tell(end, name, error)
        else:
            chosen[name] = value
    return chosen


def travelling(end: QueueEnd, attributes: Any) -> tuple[tuple[str, Any], ...]:
    """A handle's `attributes`."""
    what = f"{type(end).__qualname__}.reader_attributes()"
    if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
        raise refuse(what, "a dict of names and values", attributes)
    return tuple((name, value) for name, value in attributes.items() if name not in _OURS)


class _Bounded:
    """A file that takes a MiB and keeps nothing."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise OverflowError(f"it pickles to more than {_MOST_BYTES} bytes")
        return size


def _tell(end: QueueEnd, name: str, error: Exception) -> None:
    if (type(end), name) in _told_of:
        return
    _told_of.add((type(end), name))
    import logging  # rarely needed, and not cheap to import

    logging.getLogger("ringcast.handle").warning(
        "%s: the attribute %r of %s stays with the writer (%s); readers made from a handle have no such attribute. "
        "Override reader_attributes() to choose what they get",
        end._context, name, type(end).__qualname__, error,
    )  # fmt: skip

"""A queue's handle: what a reader in another process needs to find its queue.

It travels as a pickle, or as JSON, which makes lists of its tuples and, in some languages, floats of its ints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ringcast import _core
from ringcast._arguments import INT32_MAX, INT64_MAX, checked, flag, refuse
from ringcast.errors import ArgumentError, ArgumentTypeError

_EXPECTED = "what export_handle() returned, or the list that JSON makes of it"
_MOST_EPOCH = (1 << 53) - 1  # what a double holds exactly
_KEY = re.compile("[0-9a-f]{64}")


class Handle(NamedTuple):
    """All that a reader needs to find its queue. Picklable; valid while the writer lives and the name exists."""

    segment: str
    epoch: int
    local_reader_ranks: tuple[int, ...]
    ring: tuple[int, int, int, str]
    """The ring's own handle: (n_reader, max_chunk_bytes, max_chunks, segment name)."""
    remote_address: str | None = None
    remote_address_is_ipv6: bool = False
    attributes: tuple[tuple[str, Any], ...] = ()
    """What a subclass's writer gives its readers; see MessageQueue.reader_attributes."""
    job: str | None = None
    """Which link processes bring messages to other machines."""
    key: str | None = None
    """The secret that the machines of this queue know each other by, in hexadecimal; None where it is made of
    `RINGCAST_SECRET`. Who has it can read the queue's messages: a handle is as secret as the channel it travels by."""
    encrypt: bool = True

    def __repr__(self) -> str:
        fields = self._asdict() | ({} if self.key is None else {"key": ...})
        return f"Handle({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    @property
    def buffer_handle(self) -> tuple[int, int, int, str]:
        """`ring`, by the name that engines read it by."""
        return self.ring

    @property
    def remote_subscribe_addr(self) -> str | None:
        """`remote_address`, by the name that engines read it by."""
        return self.remote_address


def checked_handle(value: Any) -> Handle:
    """`value` as a handle: one, or what became of one on its way. Raises ArgumentError."""
    fields: tuple[Any, ...]
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in Handle._fields]
        missing = [key for key in Handle._fields[:4] if key not in value]
        if unknown or missing:
            raise _refused(value, f": it lacks {missing} and has {unknown}")
        fields = tuple(Handle(**{str(key): item for key, item in value.items()}))
    elif isinstance(value, list | tuple):
        fields = tuple(value)
    else:
        raise _refused(value, _advice(value))
    if not 4 <= len(fields) <= len(Handle._fields):
        raise _refused(value, f": it has {len(fields)} fields, and a handle has {len(Handle._fields)}")
    segment, epoch, ranks, ring, address, is_ipv6, attributes, job, key, encrypt = Handle(*fields)
    if not isinstance(segment, str) or not segment or not segment.isprintable():
        raise _refused(value, ": its field `segment` is no name of shared memory")
    if not isinstance(ring, list | tuple) or len(ring) != 4:
        raise _refused(value, ": its field `ring` has not four items")
    if not isinstance(ranks, list | tuple):
        raise _refused(value, ": its field `local_reader_ranks` is no list of ranks")
    if address is not None and not isinstance(address, str):
        raise _refused(value, ": its field `remote_address` is no address")
    if job is not None and not isinstance(job, str):
        raise _refused(value, ": its field `job` is no name of a job")
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):
        raise ArgumentError(f"handle must be {_EXPECTED}: its field `key` is no key")
    return Handle(
        segment,
        checked("the handle's epoch", _whole(epoch), 0, _MOST_EPOCH),
        tuple(checked("a rank of the handle", _whole(rank), 0) for rank in ranks),
        (
            checked("the handle's n_reader", _whole(ring[0])),
            checked("the handle's max_chunk_bytes", _whole(ring[1]), most=INT64_MAX),
            checked("the handle's max_chunks", _whole(ring[2]), most=INT32_MAX),
            str(ring[3]),
        ),
        address,
        flag("the handle's remote_address_is_ipv6", is_ipv6),
        _pairs(attributes, value),
        job,
        key,
        flag("the handle's encrypt", encrypt),
    )


def _refused(value: Any, advice: str) -> ArgumentTypeError:
    return refuse("handle", _EXPECTED, value, advice, secret=_KEY)


def _whole(value: Any) -> Any:
    """Where all numbers are floats, a whole one is an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _pairs(attributes: Any, value: Any) -> tuple[tuple[str, Any], ...]:
    pairs = [tuple(pair) if isinstance(pair, list | tuple) else () for pair in attributes or ()]
    if not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise _refused(value, ": its field `attributes` is no list of names and values")
    return tuple((name, item) for name, item in pairs)


def _advice(value: Any) -> str:
    if isinstance(value, _core.End):
        return "; a queue belongs to its process: pass what its export_handle() returns"
    if callable(value):
        return "; call it: export_handle()"
    if isinstance(value, str):
        return "; text from JSON has to go through json.loads(), and a queue's name belongs to attach(name)"
    if isinstance(value, bytes | bytearray | memoryview):
        return "; bytes have to go through pickle.loads()"
    return ""

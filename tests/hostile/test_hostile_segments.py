"""Files under a segment's name, wrong in one way at a time: a typed error, nothing half-open, and never a signal.

All of it happens in a child, whose end by SIGBUS or SIGSEGV would be seen. tests/unit/test_attach.py has what errors
say; here are every length and every field.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ringcast import Handle, MessageQueue, _names, _segment
from ringcast.errors import RingcastError
from ringcast.instruments import list_queues
from tests.hostile.test_failing_calls import resources
from tests.support import SHM, Child, Link, unique_name

FIELDS: dict[int, str] = {
    **dict.fromkeys((0, 16, 24, 48, 56, 64, 80, 88, 96, 104, 112, 136, 144), "=Q"),
    **dict.fromkeys((8, 12, 32, 36, 40, 44, 72, 76, 120, 124, 128, 132), "=I"),
}
"""Every number in the header, by its offset."""
INITIALISED = 4096 + 264


def _original() -> tuple[bytes, int]:
    """The control part of a queue with messages in it, and the file's size."""
    with MessageQueue(1, max_chunk_bytes=4096, max_chunks=2, max_leases=4, max_bytes=1 << 18) as queue:
        queue.enqueue(b"inline")
        queue.enqueue(np.arange(1000))
        with open(SHM / queue.segment, "rb") as file:
            content = file.read(queue.stats()["memory"]["control"])
            size = os.fstat(file.fileno()).st_size
        MessageQueue.create_from_handle(queue.export_handle(), 0).close()
    return content, size


def _truncated(content: bytes, size: int) -> Iterator[tuple[bytes, int]]:
    edges = {*range(0, len(content) + 1, 512), *range(0, 320, 8), *range(4096, 4096 + 1024, 128), len(content), size}
    for length in sorted({near for edge in edges for near in (edge - 1, edge, edge + 1) if 0 <= near < size}):
        yield content[:length], length


def _mutated(content: bytes, size: int) -> Iterator[tuple[bytes, int]]:
    for offset, form in FIELDS.items():
        (value,) = struct.unpack_from(form, content, offset)
        most = (1 << 8 * struct.calcsize(form)) - 1
        edges = {
            0,
            1,
            value - 1,
            value + 1,
            value * 2,
            value << 20,
            most,
            most - 1,
            most // 2,
            most // 2 + 1,
            most - value,
        }
        for edge in sorted({edge & most for edge in (*edges, *(1 << n for n in range(0, 64, 5)))} - {value}):
            patched = bytearray(content)
            struct.pack_into(form, patched, offset, edge)
            yield bytes(patched), size
    for word in (0, 2, 1 << 31):
        yield content[:INITIALISED] + struct.pack("=I", word) + content[INITIALISED + 4 :], size


def _swapped(content: bytes, size: int) -> Iterator[tuple[bytes, int]]:
    """As a process of the other byte order would have written it; and pieces of it in each other's place."""
    header = bytearray(content)
    for offset, form in FIELDS.items():
        (value,) = struct.unpack_from(form, content, offset)
        struct.pack_into({"=Q": ">Q", "=I": ">I"}[form], header, offset, value)
    yield bytes(header), size
    for shift in (1, 4, 8, 64, 4096):
        yield content[shift:] + bytes(shift), size
        yield bytes(shift) + content[:-shift], size
    for fill in (b"\0", b"\xff", content[:8]):
        yield (fill * len(content))[: len(content)], size


KINDS = {kind.__name__.lstrip("_"): kind for kind in (_truncated, _mutated, _swapped)}


def _try_all(link: Link, kind: str) -> None:
    content, size = _original()
    (epoch,) = struct.unpack_from("=Q", content, 24)
    name = unique_name("h")
    path = SHM / _names.segment_name(name)
    handle = Handle(path.name, epoch, (0,), (1, 4096, 2, path.name))
    calls: list[Callable[[], object]] = [
        list_queues,
        lambda: _segment.attach(path.name, zero_copy=True),
        lambda: MessageQueue.create_from_handle(handle, 0).dequeue(0),
        lambda: MessageQueue.attach(name, timeout=0),
        lambda: MessageQueue(1, name=name).close(0),
    ]
    refused = tried = 0
    MessageQueue(1, name=name).close(0)
    before = resources()
    for forged, length in KINDS[kind](content, size):
        for call in calls:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            os.write(descriptor, forged)
            os.truncate(descriptor, length)
            os.close(descriptor)
            tried += 1
            try:
                call()
            except RingcastError:
                refused += 1
        path.unlink(missing_ok=True)
    assert resources() == before
    link.send((tried, refused))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_file_is_refused_and_leaves_nothing_open(kind: str, start: Callable[..., Child]) -> None:
    tried, refused = start(_try_all, kind).receive()
    assert tried > 50
    assert refused >= tried // 2, f"{refused} of {tried}"

"""Random damage to a segment: attaching, listing and reading give a typed error or work, and never crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringcast import Handle, MessageQueue, _segment
from ringcast.errors import RingcastError, SegmentError
from ringcast.instruments import list_queues
from tests.support import SHM, unique_name

HEADER_BYTES = 304
CONTROL_AND_SEATS = 4096 + 1024 + 3 * 640


@pytest.fixture(scope="module")
def original() -> bytes:
    with MessageQueue(1, max_chunk_bytes=4096, max_chunks=2, max_bytes=1 << 17) as queue:
        queue.enqueue(b"inline")
        queue.enqueue(["a", "list", b"x" * 2000])
        content = (SHM / queue.segment).read_bytes()
        with MessageQueue.create_from_handle(queue.export_handle(), 0):
            pass
    return content


def look_and_attach(content: bytes) -> None:
    path: Path = SHM / f"ringcast_{unique_name('z')}"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    try:
        list_queues()
        epoch = int.from_bytes(content[24:32], "little")
        reader = MessageQueue.create_from_handle(Handle(path.name, epoch, (0,), (1, 1, 1, path.name)), 0)
        with reader:
            repr(reader)
            reader.stats()
            for _ in range(3):
                reader.dequeue(timeout=0)
    except RingcastError:
        pass
    finally:
        path.unlink(missing_ok=True)  # its creator is dead, so the last to close it may have removed it


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=9000))
def test_random_bytes_are_refused(content: bytes) -> None:
    path = SHM / f"ringcast_{unique_name('z')}"
    path.touch(0o600)
    path.write_bytes(content)
    try:
        with pytest.raises(SegmentError):
            _segment.attach(path.name)
    finally:
        path.unlink()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_a_damaged_header_gives_a_typed_error_or_a_working_end(
    original: bytes, damage: list[tuple[int, bytes]]
) -> None:
    content = bytearray(original)
    for offset, patch in damage:
        content[offset : offset + len(patch)] = patch
    look_and_attach(bytes(content))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_behind_the_header_gives_a_typed_error_or_a_working_end(original: bytes, data: st.DataObject) -> None:
    content = bytearray(original)
    slots = int.from_bytes(content[96:104], "little")
    near_slots = st.integers(slots, slots + 40)
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.one_of(st.integers(4096, CONTROL_AND_SEATS), near_slots))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        content[offset : offset + len(patch)] = patch
    look_and_attach(bytes(content))

"""The memory layout, read from a living segment with nothing but its name and the offsets written down here."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import pytest

import ringcast
from ringcast import MessageQueue, _core
from tests.support import unique_name, until_asleep

HEADER_FIELDS = {
    "magic": "Q",
    "layout_version": "I",
    "byte_order": "I",
    "total_bytes": "Q",
    "epoch": "Q",
    "n_reader": "I",
    "n_local": "I",
    "n_seats": "I",
    "max_chunks": "I",
    "max_chunk_bytes": "Q",
    "data_bytes": "Q",
    "data_budget": "Q",
    "inline_bytes": "I",
    "slot_bytes": "I",
    "seats_offset": "Q",
    "ranks_offset": "Q",
    "slots_offset": "Q",
    "marks_offset": "Q",
    "data_offset": "Q",
    "max_leases": "I",
    "mark_column_bytes": "I",
    "creator_pid": "I",
    "named": "I",
    "creator_pid_namespace": "Q",
    "created_at_ns": "q",
    "release": "24s",
    "user_name": "128s",
    "relayed": "I",
    "origin_pid": "I",
    "origin_host": "64s",
    "board_offset": "Q",
}
HEADER = struct.Struct("=" + "".join(HEADER_FIELDS.values()))
CONTROL = 4096
HEAD, WRITER_PARKED = CONTROL, CONTROL + 128
CLOSED, ALL_READY, INITIALISED = CONTROL + 256, CONTROL + 260, CONTROL + 264
SEATS = CONTROL + 1024
SEAT_BYTES, SEAT_STATE, SEAT_RANK, SEAT_PID, SEAT_CURSOR, SEAT_PARKED = 640, 0, 24, 28, 128, 256
WAITS, SEAT_WAITS = CONTROL + 896, 512
WHOSE, PARKS, RESCUED = 0, 32, 40
EXPECTED, ACTIVE = 1, 2
INLINE = 2**64 - 1


def open_by_name(name: str) -> SharedMemory:
    """As other software would. Before 3.13 Python would unlink at exit what it only attached to."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    memory = SharedMemory(name)
    resource_tracker.unregister("/" + name, "shared_memory")
    return memory


class Segment:
    """A named queue and the bytes of its segment."""

    def __init__(self, queue: MessageQueue, memory: SharedMemory) -> None:
        self.queue = queue
        self.memory = memory

    @property
    def content(self) -> memoryview:
        assert self.memory.buf is not None
        return self.memory.buf

    def u32(self, offset: int) -> int:
        return int(struct.unpack_from("=I", self.content, offset)[0])

    def u64(self, offset: int) -> int:
        return int(struct.unpack_from("=Q", self.content, offset)[0])

    def header(self) -> dict[str, Any]:
        return dict(zip(HEADER_FIELDS, HEADER.unpack_from(self.content, 0), strict=True))


@pytest.fixture
def segment() -> Iterator[Segment]:
    with MessageQueue(3, max_chunk_bytes=100_000, max_chunks=5, name=unique_name()) as queue:
        memory = open_by_name(queue.segment)
        yield Segment(queue, memory)
        memory.close()


def test_other_software_maps_a_segment_by_its_name(segment: Segment) -> None:
    assert bytes(segment.content[:8]) == (b"RNGCAST1" if sys.byteorder == "little" else b"1TSACGNR")
    assert segment.memory.size >= segment.header()["total_bytes"]


def test_the_header_says_what_the_segment_is(segment: Segment) -> None:
    assert HEADER.size == 384
    header = segment.header()
    assert header["layout_version"] == _core.LAYOUT_VERSION == 7
    assert header["byte_order"] == 0x0102_0304
    assert header["epoch"] == segment.queue.export_handle().epoch
    assert header["n_reader"] == header["n_local"] == 3
    assert header["n_seats"] == 3 + 8
    assert header["max_chunks"] == 5
    assert header["max_chunk_bytes"] == 100_000
    assert header["creator_pid"] == os.getpid()
    assert header["named"] == 1
    assert header["creator_pid_namespace"] == os.stat("/proc/self/ns/pid").st_ino
    assert abs(int(header["created_at_ns"]) - time.time_ns()) < 3600 * 10**9
    assert bytes(header["release"]).rstrip(b"\0").decode() == ringcast.__version__
    assert bytes(header["user_name"]).rstrip(b"\0").decode() == segment.queue.name


def test_the_parts_follow_each_other_without_overlap(segment: Segment) -> None:
    header = {name: value for name, value in segment.header().items() if isinstance(value, int)}
    assert header["seats_offset"] == SEATS
    assert header["ranks_offset"] == SEATS + 11 * SEAT_BYTES
    assert header["board_offset"] % 128 == 0
    assert header["board_offset"] >= header["ranks_offset"] + 3 * 4
    assert header["slots_offset"] == header["board_offset"]  # no reader is to come from another machine
    assert header["slot_bytes"] == header["inline_bytes"] + 32
    assert header["slot_bytes"] % 128 == 0
    assert header["data_offset"] % os.sysconf("SC_PAGE_SIZE") == 0
    assert header["marks_offset"] == header["slots_offset"] + 5 * header["slot_bytes"]
    assert header["mark_column_bytes"] % 128 == 0
    assert header["mark_column_bytes"] >= 8 * header["max_leases"]
    assert header["data_offset"] >= header["marks_offset"] + (11 + 1) * header["mark_column_bytes"]
    assert header["data_bytes"] == 4 * header["data_budget"]
    assert header["total_bytes"] == header["data_offset"] + header["data_bytes"]
    assert struct.unpack_from("=3I", segment.content, header["ranks_offset"]) == (0, 1, 2)


def test_the_head_counts_published_messages_and_the_slots_hold_them(segment: Segment) -> None:
    slots, slot_bytes = int(segment.header()["slots_offset"]), int(segment.header()["slot_bytes"])
    assert segment.u64(HEAD) == 0
    assert segment.u32(INITIALISED) == 1
    segment.queue.enqueue(b"first")
    segment.queue.enqueue(b"2" * 50_000)
    assert segment.u64(HEAD) == 2
    sequence, length, block, row, encoding, framed = struct.unpack_from("=QQQIBB", segment.content, slots)
    assert (sequence, length, block, row, encoding, framed) == (1, 5, INLINE, 0, 0, 0)
    assert bytes(segment.content[slots + 32 : slots + 37]) == b"first"
    sequence, length, block, row, encoding, framed = struct.unpack_from("=QQQIBB", segment.content, slots + slot_bytes)
    assert (sequence, length, row, encoding, framed) == (2, 50_000, 0, 0, 0)
    data = int(segment.header()["data_offset"]) + block
    assert bytes(segment.content[data : data + 50_000]) == b"2" * 50_000


def test_a_seat_tells_who_holds_it_and_how_far_it_has_read(segment: Segment) -> None:
    assert segment.u64(SEATS + SEAT_STATE) & 0xFF == 0
    assert segment.queue.name is not None
    with MessageQueue.attach(segment.queue.name, rank=1) as reader:
        seat = SEATS + SEAT_BYTES
        assert segment.u64(seat + SEAT_STATE) & 0xFF == ACTIVE
        assert segment.u32(seat + SEAT_RANK) == 1
        assert segment.u32(seat + SEAT_PID) == os.getpid()
        segment.queue.enqueue(b"x")
        assert segment.u64(seat + SEAT_CURSOR) == 0
        reader.dequeue()
        assert segment.u64(seat + SEAT_CURSOR) == 1
        incarnation = segment.u64(seat + SEAT_STATE) >> 8
    assert segment.u64(seat + SEAT_STATE) == (incarnation + 1) << 8


def test_an_end_counts_its_waits_in_the_segment_and_says_whose_they_are(segment: Segment) -> None:
    assert segment.queue.name is not None
    until_asleep(segment.queue.wait_until_ready, segment.queue)
    assert segment.u64(WAITS + WHOSE) == 1
    assert segment.u64(WAITS + PARKS) == segment.queue.stats()["parks"] > 0
    waits = SEATS + SEAT_BYTES + SEAT_WAITS
    assert segment.u64(waits + WHOSE) == 0
    for _ in range(2):
        with MessageQueue.attach(segment.queue.name, rank=1) as reader:
            incarnation = segment.u64(SEATS + SEAT_BYTES + SEAT_STATE) >> 8
            assert segment.u64(waits + WHOSE) == incarnation + 1
            assert segment.u64(waits + PARKS) == 0
            until_asleep(reader.dequeue, reader)
            assert segment.u64(waits + PARKS) == reader.stats()["parks"] > 0
            assert segment.u64(waits + RESCUED) == 0


def test_a_reader_marks_the_row_of_a_block_that_it_is_done_with(segment: Segment) -> None:
    assert segment.queue.name is not None
    column = int(segment.header()["marks_offset"]) + int(segment.header()["mark_column_bytes"])
    with MessageQueue.attach(segment.queue.name, rank=1) as reader:
        segment.queue.enqueue_many([b"inline", b"2" * 50_000, b"3" * 50_000])
        assert reader.dequeue() == b"inline"
        assert (segment.u64(column), segment.u64(column + 8)) == (0, 0)
        reader.dequeue()
        assert (segment.u64(column), segment.u64(column + 8)) == (2, 0)
        reader.dequeue()
        assert (segment.u64(column), segment.u64(column + 8)) == (2, 3)


def test_the_ready_and_closed_words_are_set_once(segment: Segment) -> None:
    assert (segment.u32(ALL_READY), segment.u32(CLOSED)) == (0, 0)
    assert segment.queue.name is not None
    readers = [MessageQueue.attach(segment.queue.name) for _ in range(3)]
    segment.queue.wait_until_ready(10)
    assert (segment.u32(ALL_READY), segment.u32(CLOSED)) == (1, 0)
    segment.queue.close()
    assert segment.u32(CLOSED) == 1
    for reader in readers:
        reader.close()


def test_seats_promised_by_a_handle_are_expected_from_the_beginning() -> None:
    with MessageQueue(2) as queue:
        memory = open_by_name(queue.segment)
        states = [Segment(queue, memory).u64(SEATS + n * SEAT_BYTES) for n in range(10)]
        memory.close()
    assert states == [EXPECTED] * 2 + [0] * 8

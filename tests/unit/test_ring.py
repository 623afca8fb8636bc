"""ShmRingBuffer: chunks by themselves, their four states, and how a ring travels to other processes."""

from __future__ import annotations

import pickle

import pytest

from ringcast import ShmRingBuffer
from ringcast.errors import (
    ArgumentError,
    QueueClosedError,
    QueueTimeoutError,
    RankError,
    RoleError,
    SegmentNotFoundError,
)
from tests.support import SHM, Background


def read(ring: ShmRingBuffer) -> bytes:
    with ring.acquire_read(timeout=10) as view:
        return bytes(view)


def write(ring: ShmRingBuffer, content: bytes) -> None:
    with ring.acquire_write(timeout=10, nbytes=len(content)) as view:
        view[:] = content


def test_a_chunk_goes_through_its_four_states() -> None:
    with ShmRingBuffer(2, 100, 2) as writer, ShmRingBuffer(*writer.handle()) as a, ShmRingBuffer(*writer.handle()) as b:
        seen = [writer.slot_state(0)]
        with writer.acquire_write(nbytes=1):
            seen.append(writer.slot_state(0))  # not before it is complete
        seen.append(writer.slot_state(0))
        with a.acquire_read(timeout=10):
            seen.append(b.slot_state(0))  # not before the reader has finished with it
        seen.append(b.slot_state(0))
        read(b)
        seen.append(a.slot_state(0))
        assert seen == ["empty", "empty", "written", "written", "read_by_some", "read_by_all"]
        assert writer.slot_state(1) == "empty"
        write(writer, b"1")
        write(writer, b"2")
        assert [writer.slot_state(0), writer.slot_state(1)] == ["written", "written"]


def test_looking_at_states_takes_no_seat_so_a_watcher_is_not_waited_for() -> None:
    with ShmRingBuffer(1, 100, 2) as writer, ShmRingBuffer(*writer.handle()) as watcher:
        with ShmRingBuffer(*writer.handle()) as reader:
            for n in range(10):
                write(writer, b"%d" % n)
                assert watcher.slot_state(n % 2) == "written"
                assert read(reader) == b"%d" % n


@pytest.mark.parametrize("index", [2, 1 << 31])
def test_a_slot_that_is_not_there_has_no_state(index: int) -> None:
    with ShmRingBuffer(1, 100, 2) as ring, pytest.raises(ArgumentError, match=f"slot {index} does not exist"):
        ring.slot_state(index)


def test_a_reader_that_comes_late_gets_everything_from_the_first_chunk_on() -> None:
    with ShmRingBuffer(2, 5000, 4) as writer:
        first = ShmRingBuffer(*writer.handle())
        for n in range(4):
            write(writer, b"%d" % n)
            assert read(first) == b"%d" % n
        with pytest.raises(QueueTimeoutError):
            writer.acquire_write(timeout=0.01).__enter__()
        second = ShmRingBuffer(*writer.handle(), rank=1)
        assert [read(second) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        first.close()
        second.close()


def test_a_ring_pickles_as_its_handle_and_unpickling_attaches() -> None:
    with ShmRingBuffer(1, 100, 2) as writer:
        reader = pickle.loads(pickle.dumps(writer))
        assert reader.handle() == writer.handle() == (1, 100, 2, writer.name)
        assert (writer.is_writer, reader.is_writer) == (True, False)
        write(writer, b"abc")
        assert read(reader) == b"abc"
        reader.close()
    assert not (SHM / writer.name).exists()


def test_a_ring_unpickled_where_its_segment_does_not_exist_is_inert_until_it_is_used() -> None:
    with ShmRingBuffer(1, 100, 2) as writer:
        content = pickle.dumps(writer)
    ring = pickle.loads(content)
    assert ring.handle() == writer.handle()
    assert "not attached" in repr(ring)
    assert pickle.loads(pickle.dumps(ring)).handle() == writer.handle()
    for use in (lambda: ring.slot_state(0), ring.acquire_read, ring.acquire_write):
        with pytest.raises((SegmentNotFoundError, RoleError)):
            use()
    ring.shutdown()
    ring.close()


def test_attachers_never_unlink() -> None:
    with ShmRingBuffer(1, 100, 2) as writer:
        with ShmRingBuffer(*writer.handle()) as reader:
            write(writer, b"x")
            read(reader)
        assert (SHM / writer.name).exists()


def test_only_the_creator_writes_and_only_attachers_read() -> None:
    with ShmRingBuffer(1, 100, 2) as writer, ShmRingBuffer(*writer.handle()) as reader:
        with pytest.raises(RoleError, match="acquire_write is for its creator"):
            reader.acquire_write().__enter__()
        with pytest.raises(RoleError):
            writer.acquire_read().__enter__()


def test_a_rank_that_the_ring_does_not_have_is_refused_at_the_first_read() -> None:
    with ShmRingBuffer(1, 100, 2) as writer, ShmRingBuffer(*writer.handle(), rank=3) as reader:
        with pytest.raises(RankError):
            reader.acquire_read(timeout=0).__enter__()


def test_shutdown_ends_a_waiting_read_and_every_later_one() -> None:
    with ShmRingBuffer(1, 100, 2) as writer, ShmRingBuffer(*writer.handle()) as reader:
        write(writer, b"x")
        read(reader)
        waiting = Background(read, reader)
        reader.shutdown()
        with pytest.raises(RuntimeError):
            waiting.result()
        with pytest.raises(QueueClosedError):
            reader.acquire_read(timeout=10).__enter__()
        reader.shutdown()


def test_shutdown_before_the_first_read_ends_that_read() -> None:
    with ShmRingBuffer(1, 100, 2) as writer, ShmRingBuffer(*writer.handle()) as reader:
        reader.shutdown()
        with pytest.raises(QueueClosedError):
            reader.acquire_read(timeout=1).__enter__()


def test_a_closed_ring_says_so() -> None:
    writer = ShmRingBuffer(1, 100, 2)
    reader = ShmRingBuffer(*writer.handle())
    assert repr(writer).endswith("open>")
    for ring in (reader, writer):
        ring.close()
        ring.close()
        with pytest.raises((QueueClosedError, SegmentNotFoundError)):
            ring.slot_state(0)
        assert not repr(ring).endswith(" open>")
    with pytest.raises(QueueClosedError):
        writer.acquire_write().__enter__()
    with pytest.raises((QueueClosedError, SegmentNotFoundError)):
        reader.acquire_read().__enter__()


def test_threads_that_read_for_the_first_time_together_share_one_seat() -> None:
    with ShmRingBuffer(2, 100, 64) as writer, ShmRingBuffer(*writer.handle()) as reader:
        for n in range(8):
            write(writer, b"%d" % n)
        readings = [Background(read, reader) for _ in range(8)]
        assert sorted(reading.result() for reading in readings) == [b"%d" % n for n in range(8)]

"""acquire_write and acquire_read: bytes in place, published or consumed on leaving, whatever happens inside."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from ringcast import _core
from ringcast.errors import (
    ArgumentError,
    BusyError,
    MessageTooLargeError,
    QueueTimeoutError,
    ViewsAliveError,
)
from tests.support import Background, broadcast


@pytest.mark.parametrize("nbytes", [1, 100, 1120, 1121, 70_000])
def test_bytes_written_in_place_arrive(nbytes: int) -> None:
    with broadcast(max_chunk_bytes=70_000) as (writer, (reader,)):
        with writer.acquire_write(nbytes=nbytes) as view:
            assert (view.nbytes, view.readonly, view.format) == (nbytes, False, "B")
            view[:] = bytes(n % 251 for n in range(nbytes))
        with reader.acquire_read(timeout=10) as chunk:
            assert chunk.readonly
            assert bytes(chunk) == bytes(n % 251 for n in range(nbytes))
        assert reader.qsize() == 0


def test_without_a_size_the_chunk_has_the_queue_s_largest() -> None:
    with broadcast(max_chunk_bytes=5000) as (writer, (reader,)):
        with writer.acquire_write() as view:
            assert view.nbytes == 5000
        assert len(reader.dequeue(10)) == 5000


def test_nothing_is_visible_before_the_block_is_left() -> None:
    with broadcast() as (writer, (reader,)):
        with writer.acquire_write(nbytes=10) as view:
            view[:] = b"0123456789"
            assert reader.try_dequeue() is None
        assert reader.dequeue(10) == b"0123456789"


@pytest.mark.parametrize("nbytes", [10, 50_000])
def test_an_exception_inside_publishes_nothing_and_the_queue_works_on(nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = writer.acquire_write(nbytes=nbytes)
        chunk.__enter__()[:3] = b"bad"
        assert chunk.__exit__(LookupError, LookupError(), None) is None  # type: ignore[func-returns-value]
        assert reader.qsize() == 0
        writer.enqueue(b"good")
        assert reader.dequeue(10) == b"good"


def test_an_exception_inside_a_read_consumes_the_chunk() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([b"first", b"second"])
        with pytest.raises(LookupError), reader.acquire_read(timeout=10):
            raise LookupError
        assert reader.dequeue(10) == b"second"


def test_a_view_of_a_read_chunk_stays_valid_after_everything_is_closed() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        writer.enqueue(b"kept" * 1000)
        with reader.acquire_read(timeout=10) as view:
            kept = np.frombuffer(view, np.uint8)
        writer.enqueue(b"next" * 1000)
    assert bytes(kept) == b"kept" * 1000


@pytest.mark.parametrize("nbytes", [100, 50_000])
def test_an_array_that_outlives_the_block_is_an_error_and_nothing_is_published(nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = writer.acquire_write(nbytes=nbytes)
        array = np.frombuffer(chunk.__enter__(), np.uint8)
        with pytest.raises(ViewsAliveError, match="nothing was published"):
            chunk.__exit__(None, None, None)
        assert reader.qsize() == 0
        del array
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"


def test_an_array_made_from_a_slice_counts_too_and_may_be_written_after_the_queue_is_closed() -> None:
    with broadcast() as (writer, (reader,)):
        chunk = writer.acquire_write(nbytes=50_000)
        array = np.frombuffer(chunk.__enter__()[100:200], np.uint8)
        with pytest.raises(ViewsAliveError):
            chunk.__exit__(None, None, None)
        assert reader.try_dequeue() is None
    array[:] = 1  # the memory stays mapped for as long as the array lives
    assert array.sum() == 100


def test_an_array_that_is_deleted_inside_the_block_is_fine() -> None:
    with broadcast() as (writer, (reader,)):
        with writer.acquire_write(nbytes=80) as view:
            array = np.frombuffer(view, np.float64)
            array[:] = 2.5
            del array
        assert np.frombuffer(reader.dequeue(10), np.float64).tolist() == [2.5] * 10


def test_an_exception_with_an_array_alive_is_the_exception_that_is_seen() -> None:
    with broadcast() as (writer, (reader,)):
        kept: list[Any] = []

        def keep_and_fail() -> None:
            with writer.acquire_write(nbytes=80) as view:
                kept.append(np.frombuffer(view, np.uint8))
                raise LookupError

        with pytest.raises(LookupError):
            keep_and_fail()
        assert len(kept[0]) == 80
        assert reader.qsize() == 0


def test_using_the_end_inside_its_own_chunk_is_an_error_and_not_a_deadlock() -> None:
    with broadcast() as (writer, (reader,)):
        with writer.acquire_write(nbytes=3) as view:
            for call in (
                lambda: writer.enqueue(b"x"),
                lambda: writer.acquire_write().__enter__(),
                writer.wait_until_ready,
            ):
                with pytest.raises(BusyError, match="already inside a call on this end"):
                    call()
            view[:] = b"abc"
        with reader.acquire_read(timeout=10) as chunk:
            with pytest.raises(BusyError):
                reader.dequeue()
            assert bytes(chunk) == b"abc"


def test_another_thread_s_call_waits_for_the_chunk_within_its_time_out() -> None:
    with broadcast() as (writer, (reader,)):
        with writer.acquire_write(nbytes=5) as view:
            with pytest.raises(QueueTimeoutError, match="another thread was using this end"):
                Background(writer.enqueue, b"late", timeout=0.01).result()
            waiting = Background(writer.enqueue, b"second", timeout=60)
            view[:] = b"first"
        waiting.result()
        assert [reader.dequeue(10), reader.dequeue(10)] == [b"first", b"second"]


@pytest.mark.parametrize("nbytes", [0, -1])
def test_a_chunk_must_have_bytes(nbytes: int) -> None:
    with broadcast() as (writer, _), pytest.raises(ArgumentError, match="nbytes"):
        writer.acquire_write(nbytes=nbytes).__enter__()


def test_a_chunk_cannot_be_larger_than_the_largest_message() -> None:
    with broadcast(max_chunk_bytes=100, max_bytes=1 << 20) as (writer, (reader,)):
        with pytest.raises(MessageTooLargeError):
            writer.acquire_write(nbytes=1 << 20).__enter__()
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"


def test_a_full_queue_times_out_and_an_empty_one_too() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        with pytest.raises(QueueTimeoutError):
            reader.acquire_read(timeout=0.01).__enter__()
        writer.enqueue(b"x")
        with pytest.raises(QueueTimeoutError):
            writer.acquire_write(timeout=0.01, nbytes=1).__enter__()


def test_a_thread_that_waits_for_a_chunk_is_cancelled_by_its_event() -> None:
    with broadcast() as (_, (reader,)):
        cancel = threading.Event()
        waiting = Background(reader.acquire_read(cancel=cancel).__enter__)
        cancel.set()
        with pytest.raises(RuntimeError, match="cancelled"):
            waiting.result()


def test_a_chunk_that_no_queue_made_has_no_memory() -> None:
    with pytest.raises(BufferError, match="no memory"):
        memoryview(_core.Chunk.__new__(_core.Chunk))  # type: ignore[arg-type]

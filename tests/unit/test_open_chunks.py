"""An open chunk is an object that has the end's turn and its room, and gives both back however it goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import BusyError, QueueClosedError, QueueTimeoutError, ViewsAliveError
from tests.interrupts import Interrupt
from tests.support import WAYS_TO_WRITE, Background, broadcast, eventually, parked

SMALL = 100
LARGE = 100_000
"""In a slot, and in a block."""

in_every_size = pytest.mark.parametrize("nbytes", [SMALL, LARGE])
in_every_way_to_write = pytest.mark.parametrize("call", WAYS_TO_WRITE)


def check_goes_on(writer: MessageQueue, reader: MessageQueue) -> None:
    """Both ends are free, nothing has been published, and no memory is held."""
    assert reader.try_dequeue() is None
    writer.enqueue("goes on", timeout=10)
    assert reader.dequeue(10) == "goes on"
    assert writer.stats()["memory"]["blocks"] == 0


@in_every_size
@in_every_way_to_write
def test_a_chunk_to_write_that_nobody_refers_to_any_more_gives_everything_back(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = WAYS_TO_WRITE[call](writer, nbytes)
        chunk.__enter__()
        with pytest.raises(BusyError):
            writer.enqueue(1)
        del chunk
        check_goes_on(writer, reader)


@in_every_size
def test_a_chunk_to_read_that_nobody_refers_to_any_more_has_been_read(nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        for n in range(2):
            writer.enqueue(bytes([n]) * nbytes)
        chunk = reader.acquire_read()
        view = chunk.__enter__()
        with pytest.raises(BusyError):
            reader.dequeue(1)
        del chunk
        assert reader.dequeue(10) == b"\1" * nbytes
        assert view == bytes(nbytes)
        del view
        check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_a_chunk_is_entered_and_left_once(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = WAYS_TO_WRITE[call](writer, nbytes)
        with pytest.raises(BusyError, match="left only once"):
            chunk.__exit__(None, None, None)
        chunk.__enter__()
        with pytest.raises(BusyError, match="open already"):
            chunk.__enter__()
        chunk.__exit__(None, None, None)
        with pytest.raises(BusyError, match="left only once"):
            chunk.__exit__(None, None, None)
        assert len(reader.dequeue(10)) == nbytes
        check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_a_chunk_may_be_left_in_another_thread(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = WAYS_TO_WRITE[call](writer, nbytes)
        chunk.__enter__()[:] = np.full(nbytes, 7, "u1")
        Background(chunk.__exit__, None, None, None).result()
        assert bytes(reader.dequeue(10)) == b"\7" * nbytes
        reading = reader.acquire_read()
        writer.enqueue(bytes(nbytes))
        view = Background(reading.__enter__).result()
        reading.__exit__(None, None, None)
        assert view == bytes(nbytes)
        del view, reading
        check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_a_generator_that_is_closed_in_another_thread_publishes_nothing(call: str, nbytes: int) -> None:
    def filling(writer: MessageQueue) -> Generator[Any, None, None]:
        with WAYS_TO_WRITE[call](writer, nbytes) as memory:
            yield memory

    with broadcast() as (writer, (reader,)):
        for close in (True, False):
            kept = [filling(writer)]
            next(kept[0])
            Background(kept[0].close if close else kept.clear).result()
            kept.clear()
            check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_calls_go_on_when_the_thread_has_ended_that_opened_a_chunk_and_what_is_kept_changes_no_message(
    call: str, nbytes: int
) -> None:
    with broadcast() as (writer, (reader,)):
        for waits in (True, False):
            chunk = WAYS_TO_WRITE[call](writer, nbytes)
            memory = in_a_thread_that_ends(chunk.__enter__)
            if waits:
                writer.enqueue(b"next", timeout=10)
            else:  # a thread that was joined is about to end
                eventually(lambda: writer.try_enqueue(b"next"), "the end of the thread")
            assert reader.dequeue(10) == b"next"
            with pytest.raises(BusyError, match="ended without leaving it"):
                chunk.__exit__(None, None, None)
            for n in range(20):
                writer.enqueue(bytes([n]) * nbytes, timeout=10)
                memory[:] = np.full(nbytes, 255, "u1")
                assert reader.dequeue(10) == bytes([n]) * nbytes
            del memory, chunk
            check_goes_on(writer, reader)


@in_every_size
def test_calls_go_on_when_the_thread_has_ended_that_opened_a_chunk_to_read(nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        for n in range(2):
            writer.enqueue(bytes([n]) * nbytes)
        chunk = reader.acquire_read()
        view = in_a_thread_that_ends(chunk.__enter__)
        assert reader.dequeue(10) == b"\1" * nbytes
        chunk.__exit__(None, None, None)
        assert view == bytes(nbytes)
        del view, chunk
        check_goes_on(writer, reader)


def in_a_thread_that_ends(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results.pop()


def test_a_thread_that_waits_for_the_chunk_of_a_thread_that_ends_gets_the_turn() -> None:
    with broadcast() as (writer, (reader,)):
        opened, end = threading.Event(), threading.Event()
        chunk = writer.loan(LARGE)

        def open_and_end() -> None:
            chunk.__enter__()
            opened.set()
            end.wait()

        thread = threading.Thread(target=open_and_end)
        thread.start()
        opened.wait()
        with pytest.raises(QueueTimeoutError, match="by a chunk that it has not left"):
            writer.enqueue(b"x", timeout=0.01)
        sending = Background(writer.enqueue, b"x")
        end.set()
        thread.join()
        sending.result()
        assert reader.dequeue(10) == b"x"


@pytest.mark.parametrize("to_write", [True, False])
def test_a_wait_for_a_chunk_that_another_thread_keeps_open_is_logged_once(
    to_write: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "chunk open on this end" in record.getMessage()]

    def wait(timeout: float) -> Background:
        if to_write:
            return Background(writer.enqueue, b"x", timeout=timeout)
        return Background(reader.dequeue, timeout=timeout)

    with broadcast() as (writer, (reader,)):
        writer.enqueue(b"first")
        with writer.loan(LARGE) if to_write else reader.acquire_read():
            waiting = wait(60)
            eventually(told, "the log line")
            with pytest.raises(QueueTimeoutError):
                wait(2.5).result()
            assert len(told()) == 2
        if not to_write:
            writer.enqueue(b"x")
        waiting.result()
        assert ("(writer" if to_write else "(reader") in told()[0]


@in_every_size
@in_every_way_to_write
@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_closing_a_writer_drops_its_open_chunk_and_readers_hear_of_the_close(
    end: str, elsewhere: bool, call: str, nbytes: int
) -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(b"before")
        chunk = WAYS_TO_WRITE[call](writer, nbytes)
        memory = chunk.__enter__()
        close = getattr(writer, end)
        if elsewhere:
            Background(close).result()
        else:
            close()
        assert list(reader) == [b"before"]
        memory[:] = np.full(nbytes, 1, "u1")  # still mapped
        with pytest.raises(QueueClosedError, match=r"shut down while the chunk was open; nothing of it was published"):
            chunk.__exit__(None, None, None)
        with pytest.raises(QueueClosedError):
            chunk.__enter__()
        with pytest.raises(QueueClosedError):
            writer.enqueue(b"more")
        memory[:] = memory[:]


@in_every_size
@in_every_way_to_write
def test_an_exception_that_leaves_a_chunk_whose_end_was_closed_stays_the_one_that_is_seen(
    call: str, nbytes: int
) -> None:
    with broadcast() as (writer, (reader,)):
        chunk = WAYS_TO_WRITE[call](writer, nbytes)
        chunk.__enter__()
        writer.close()
        assert chunk.__exit__(LookupError, LookupError(), None) is None
        assert list(reader) == []


@in_every_size
@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_closing_a_reader_with_an_open_chunk_leaves_its_seat_and_the_bytes_stay(
    end: str, elsewhere: bool, nbytes: int
) -> None:
    with broadcast(2, max_chunks=4) as (writer, (reader, other)):
        writer.enqueue(bytes(nbytes))
        with reader.acquire_read(timeout=10) as view:
            close = getattr(reader, end)
            if elsewhere:
                Background(close).result()
            else:
                close()
            for n in range(20):
                writer.enqueue(bytes([n]) * nbytes, timeout=10)
                other.dequeue(10)
            assert view == bytes(nbytes)
        assert view == bytes(nbytes)
        with pytest.raises(QueueClosedError):
            reader.acquire_read().__enter__()


def test_a_call_that_waits_for_an_open_chunk_hears_of_the_shutdown() -> None:
    with broadcast() as (writer, (reader,)):
        chunk = writer.acquire_write(nbytes=LARGE)
        chunk.__enter__()
        sending = Background(writer.enqueue, b"x")
        Background(writer.shutdown).result()
        with pytest.raises(QueueClosedError):
            sending.result()
        assert list(reader) == []


@in_every_size
@in_every_way_to_write
def test_an_exit_stack_publishes_and_drops_as_a_block_does(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        with contextlib.ExitStack() as stack:
            stack.enter_context(WAYS_TO_WRITE[call](writer, nbytes))[:] = np.full(nbytes, 7, "u1")
        assert bytes(reader.dequeue(10)) == b"\7" * nbytes
        with contextlib.suppress(MemoryError), contextlib.ExitStack() as stack:
            stack.enter_context(WAYS_TO_WRITE[call](writer, nbytes))
            raise MemoryError
        check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_a_task_that_is_cancelled_inside_a_chunk_publishes_nothing(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):

        async def fill(opened: asyncio.Event) -> None:
            with WAYS_TO_WRITE[call](writer, nbytes):
                opened.set()
                await asyncio.Event().wait()

        async def cancel() -> None:
            opened = asyncio.Event()
            task = asyncio.ensure_future(fill(opened))
            await opened.wait()
            with pytest.raises(BusyError):
                writer.enqueue(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        check_goes_on(writer, reader)


@in_every_size
@in_every_way_to_write
def test_an_interrupt_at_any_point_around_a_chunk_to_write_leaves_the_end_free(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):

        def write() -> None:
            with WAYS_TO_WRITE[call](writer, nbytes) as memory:
                memory[0] = 1
                del memory

        interrupted = 0
        while Interrupt([write], interrupted).run(write):
            interrupted += 1
            while (message := reader.try_dequeue()) is not None:
                assert len(message) == nbytes
            del message
            check_goes_on(writer, reader)
        assert interrupted > 1
        assert len(reader.dequeue(10)) == nbytes


@in_every_size
def test_an_interrupt_at_any_point_around_a_chunk_to_read_leaves_the_end_free(nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):

        def read() -> None:
            with reader.acquire_read(timeout=10) as view:
                bytes(view)
                del view

        interrupted = 0
        while True:
            writer.enqueue(bytes(nbytes))
            if not Interrupt([read], interrupted).run(read):
                break
            interrupted += 1
            while reader.try_dequeue() is not None:
                pass
            check_goes_on(writer, reader)
        assert interrupted > 1


@in_every_way_to_write
def test_a_second_name_for_what_was_handed_out_counts_as_a_view(call: str) -> None:
    with broadcast() as (writer, (reader,)):
        for nbytes in (SMALL, LARGE):
            with (
                pytest.raises(ViewsAliveError, match="nothing was published"),
                WAYS_TO_WRITE[call](writer, nbytes) as memory,
            ):
                second = memory
            if call != "loan_array":  # which is read-only now
                second[:1] = second[:1]
            del memory, second
            check_goes_on(writer, reader)


def test_what_is_in_the_way_of_a_writer_that_keeps_its_own_arrays_is_said_to_be_its_own() -> None:
    with broadcast(max_leases=3) as (writer, (reader,)):
        kept = []
        for _ in range(3):
            with writer.loan_array(LARGE, "u1", timeout=10) as array:
                pass
            kept.append(array)
            reader.dequeue(10)
        del array
        with pytest.raises(QueueTimeoutError, match=r"this very process holds 3 of them .* keep copies") as raised:
            writer.enqueue(bytes(LARGE), timeout=0.01)
        assert "readers to release" not in str(raised.value)
        waiting = Background(writer.enqueue, bytes(LARGE))
        eventually(lambda: parked(writer), "the wait for room")
        kept.clear()
        waiting.result()
        assert reader.dequeue(10) == bytes(LARGE)


def test_small_loaned_arrays_that_are_kept_hold_no_memory_of_the_queue() -> None:
    with broadcast(max_leases=3) as (writer, (reader,)):
        kept = []
        for n in range(100):
            with writer.loan_array(1000, "i8", timeout=10) as array:
                array[:] = n
            kept.append(array)
            assert reader.dequeue(10).tolist() == [n] * 1000
        assert writer.stats()["memory"]["blocks"] == 0
        assert [int(array.min()) for array in kept] == [int(array.max()) for array in kept] == list(range(100))


def test_an_open_chunk_in_a_reference_cycle_is_found_by_the_collector() -> None:
    with broadcast() as (writer, (reader,)):
        cycle: list[Any] = []
        cycle.append((cycle, chunk := writer.loan(LARGE)))
        chunk.__enter__()
        del cycle, chunk
        gc.collect()
        check_goes_on(writer, reader)

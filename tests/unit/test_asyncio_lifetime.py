"""asyncio: the thread that waits for ends, what it holds, when it ends; loops that come and go, threads beside them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import MessageQueue, Selector, _futures
from ringcast.aio import AsyncReader
from ringcast.errors import QueueClosedError, QueueTimeoutError
from tests.asyncio_support import helpers, until, waiting
from tests.support import DEADLINE_S, Background, broadcast, eventually, run_python


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_ending_the_end_ends_all_waiting_tasks_and_the_thread(how: str, where: str) -> None:
    with broadcast() as (_, [reader]):

        async def main() -> None:
            tasks = [await waiting(reader), asyncio.create_task(reader.aget()), asyncio.create_task(reader.aget(60))]
            await asyncio.sleep(0)
            end = getattr(reader, how)
            await asyncio.to_thread(end) if where == "thread" else end()
            for task in tasks:
                with pytest.raises(QueueClosedError):
                    await task
            await until(lambda: helpers() == [], "the thread's end")

        asyncio.run(main())


def test_a_thread_that_has_nothing_to_wait_for_ends_and_another_one_begins_when_there_is() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> None:
            task = await waiting(reader)
            writer.enqueue("it idles after this")
            await task

        for _ in range(2):
            asyncio.run(main())
            assert len(helpers()) == 1
            eventually(lambda: helpers() == [], "the thread's end")


def test_many_ends_in_several_loops_have_one_thread() -> None:
    with broadcast(8) as (writer, readers):
        told = threading.Semaphore(0)

        async def take(mine: list[MessageQueue]) -> list[Any]:
            tasks = [await waiting(reader) for reader in mine]
            told.release()
            return await asyncio.gather(*tasks)

        loops = [Background(asyncio.run, take(readers[i::2])) for i in range(2)]
        for _ in loops:
            assert told.acquire(timeout=60)
        assert len(helpers()) == 1
        writer.enqueue("to all")
        assert [loop.result() for loop in loops] == [["to all"] * 4] * 2


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_end_that_is_dropped_is_collected_and_its_thread_ends(cancelled: bool) -> None:
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

        async def main(reader: MessageQueue) -> None:
            task = await waiting(reader)
            if cancelled:
                task.cancel()
            else:
                writer.enqueue("taken")
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main(reader))
        gone = weakref.ref(reader)
        del reader
        eventually(lambda: gc.collect() >= 0 and gone() is None, "the collection")
        eventually(lambda: helpers() == [], "the thread's end")
        assert [seat["state"] for seat in writer.stats()["readers"] if seat["state"] == "active"] == []


def test_a_wait_that_one_loop_left_serves_the_next() -> None:
    with broadcast() as (writer, [reader]):

        async def leave() -> None:
            (await waiting(reader)).cancel()

        async def take() -> Any:
            writer_thread = Background(writer.enqueue, "for the second loop")
            message = await reader.aget(60)
            writer_thread.result()
            return message

        asyncio.run(leave())
        assert asyncio.run(take()) == "for the second loop"
        assert len(helpers()) == 1


def test_a_loop_that_is_closed_with_a_task_in_line_is_forgotten() -> None:
    with broadcast() as (writer, [reader]):
        loop = asyncio.new_event_loop()
        reports: list[Any] = []
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        abandoned = [loop.run_until_complete(waiting(reader)) for _ in range(2)]
        loop.close()
        assert reader._async_reader is not None
        lines = reader._async_reader._lines
        writer.enqueue("for the living")
        eventually(lambda: loop not in lines, "the thread's finding out")
        assert asyncio.run(reader.aget(60)) == "for the living"
        del abandoned
        gc.collect()
        assert reports == ["Task was destroyed but it is pending!"] * 2  # nothing of ours kept them


def test_two_loops_at_once_share_an_end() -> None:
    with broadcast(max_chunks=8) as (writer, [reader]):

        async def collect() -> list[int]:
            return [message async for message in reader]

        loops = [Background(asyncio.run, collect()) for _ in range(2)]
        for n in range(2000):
            writer.enqueue(n, timeout=60)
        writer.close()
        collected = [loop.result() for loop in loops]
        assert all(messages == sorted(messages) for messages in collected)
        assert sorted(collected[0] + collected[1]) == list(range(2000))


def test_while_a_thread_has_the_turn_a_task_waits_for_it() -> None:
    with broadcast() as (writer, [reader]):
        writer.enqueue_many([b"the thread's", b"the task's"])
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with reader.acquire_read():
                entered.set()
                leave.wait(60)

        async def main() -> Any:
            holding = Background(hold)
            await asyncio.to_thread(entered.wait, 60)
            task = asyncio.create_task(reader.aget(60))
            with pytest.raises(QueueTimeoutError):
                await reader.aget(0.01)
            assert not task.done()
            leave.set()
            message = await task
            holding.result()
            return message

        assert asyncio.run(main()) == b"the task's"


def test_a_task_that_waits_for_another_thread_s_chunk_keeps_nobody_busy() -> None:
    with broadcast() as (writer, [reader]):
        writer.enqueue_many([b"the thread's", b"the task's"])
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with reader.acquire_read():
                entered.set()
                leave.wait(60)

        async def main() -> tuple[float, Any]:
            holding = Background(hold)
            await asyncio.to_thread(entered.wait, 60)
            task = asyncio.create_task(reader.aget(60))
            used, began = time.process_time(), time.monotonic()
            await asyncio.sleep(1)  # what is measured is the use of this time
            share = (time.process_time() - used) / (time.monotonic() - began)
            leave.set()
            message = await task
            holding.result()
            return share, message

        share, message = asyncio.run(main())
        assert message == b"the task's"
        assert share < 0.3  # to be told again and again takes all of it, or what a busy process leaves


def test_what_only_the_waiting_thread_meets_reaches_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(*_: object) -> None:
        raise OSError("the log's disk is full")

    monkeypatch.setattr("ringcast._reports.long_wait", report)
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.05")
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        with pytest.raises(OSError, match="disk is full"):
            asyncio.run(reader.aget(60))
        writer.enqueue("goes on")
        assert asyncio.run(reader.aget(60)) == "goes on"
        gone = weakref.ref(reader)
        del reader
        eventually(lambda: gc.collect() >= 0 and gone() is None, "the collection")


def test_in_a_forked_child_it_is_refused_and_the_parent_goes_on() -> None:
    script = """
import asyncio, os, sys
from ringcast import MessageQueue
from ringcast.errors import ForkedError, QueueTimeoutError
writer = MessageQueue(1)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
try:
    asyncio.run(reader.aget(0.01))
except QueueTimeoutError:
    pass
child = os.fork()
if child == 0:
    try:
        asyncio.run(reader.aget())
    except ForkedError:
        reader.close()
        sys.exit(7)
    sys.exit(8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
writer.enqueue("works on")
assert asyncio.run(reader.aget(60)) == "works on"
"""
    result = run_python(script, flags=("-W", "ignore::DeprecationWarning"))  # of forking with threads
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("fault", [ValueError("a loop's fault"), SystemExit()])
def test_a_fault_of_the_thread_ends_all_waits_and_the_next_one_starts_another(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, faults = AsyncReader.tell, [fault]

    def tell_or_fail(self: AsyncReader, error: Exception | None = None, *, given: bool = False) -> None:
        if given and faults:
            raise faults.pop()
        tell(self, error, given=given)

    monkeypatch.setattr(AsyncReader, "tell", tell_or_fail)
    with broadcast() as (one, [first]), broadcast() as (other, [second]):

        async def main() -> None:
            tasks = [await waiting(first), await waiting(second)]
            threads = helpers()
            one.enqueue("for the first")
            assert await tasks[0] == "for the first"
            await until(lambda: not any(thread.is_alive() for thread in threads), "the thread's end")
            if isinstance(fault, Exception):
                with pytest.raises(ValueError, match="a loop's fault"):
                    await asyncio.wait_for(tasks[1], DEADLINE_S)
                tasks[1] = asyncio.create_task(second.aget())
            other.enqueue("for the second")
            assert await asyncio.wait_for(tasks[1], DEADLINE_S) == "for the second"

        asyncio.run(main())
    eventually(lambda: helpers() == [], "the thread's end")


@pytest.mark.parametrize("how", ["dequeue", "select"])
def test_who_wants_a_result_is_asked_once_where_the_answer_stays_and_on_the_main_thread_never(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that does nothing but wait would run Python now and then, whose memory is cold by then."""
    asked = 0
    answer: bool | None = None

    def is_given_up() -> bool | None:
        nonlocal asked
        asked += 1
        return answer

    monkeypatch.setattr(_futures, "is_given_up", is_given_up)

    def times(run: Callable[[Callable[[], None]], None]) -> int:
        nonlocal asked
        asked = 0
        run(wait)
        return asked

    def in_a_thread(call: Callable[[], None]) -> None:
        Background(call).result()

    selector: Selector[int] = Selector()
    with broadcast() as (_, [reader]), selector:

        def wait() -> None:
            """For several slices."""
            if how == "select":
                assert selector.select(1.5) == []
                return
            with pytest.raises(QueueTimeoutError):
                reader.dequeue(1.5)

        if how == "select":
            selector.register(reader, 0)
        assert times(lambda call: call()) == 0
        assert times(in_a_thread) == 1
        answer = False  # it may come true
        assert times(in_a_thread) > 1

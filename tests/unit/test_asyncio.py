"""asyncio: tasks wait for messages, in order, and a cancelled one takes none with it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from ringcast import MessageQueue, Selector
from ringcast.errors import (
    ArgumentError,
    BusyError,
    DecodeError,
    PickleRefusedError,
    QueueClosedError,
    QueueTimeoutError,
    ReaderEvictedError,
    RoleError,
)
from tests.asyncio_support import asleep, helpers, sleeps, waiting
from tests.support import FORGIVEN_RESCUES, Background, broadcast, eventually


def test_a_message_that_is_there_is_taken_without_a_thread() -> None:
    eventually(lambda: helpers() == [], "the end of the thread that waited for tasks of tests before this one")
    with broadcast() as (writer, [reader]):
        writer.enqueue_many([b"first", {"second": 2}])

        async def take() -> list[Any]:
            return [await reader.aget(), await reader.aget(timeout=0)]

        assert asyncio.run(take()) == [b"first", {"second": 2}]
        assert helpers() == []


def test_a_waiting_task_gets_the_message_that_comes_and_the_loop_runs_meanwhile() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> Any:
            task = await waiting(reader)
            writer.enqueue("late")
            return await task

        assert asyncio.run(main()) == "late"
        assert reader.stats()["rescued_wakes"] <= FORGIVEN_RESCUES


def test_iteration_ends_when_the_writer_has_closed_and_everything_is_read() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> list[Any]:
            since, collected = sleeps(), asyncio.create_task(collect())
            await asleep(reader, since)
            for n in range(5):
                writer.enqueue(n)
            writer.close()
            return await collected

        async def collect() -> list[Any]:
            return [message async for message in reader]

        assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_iteration_that_this_side_ends_raises() -> None:
    with broadcast() as (_, [reader]):

        async def main() -> None:
            since, task = sleeps(), asyncio.ensure_future(reader.__anext__())
            await asleep(reader, since)
            reader.shutdown()
            with pytest.raises(QueueClosedError, match="this end has been shut down"):
                await task

        asyncio.run(main())


def test_several_tasks_get_one_message_each_in_the_order_in_which_they_came() -> None:
    with broadcast(max_chunks=64) as (writer, [reader]):
        served: list[tuple[int, Any]] = []

        async def take(task: int) -> None:
            for _ in range(10):
                served.append((task, await reader.aget()))

        async def main() -> None:
            since, tasks = sleeps(), [asyncio.create_task(take(task)) for task in range(3)]
            await asleep(reader, since)
            for n in range(30):
                writer.enqueue(n, timeout=30)
            await asyncio.gather(*tasks)

        asyncio.run(main())
        assert [message for _, message in served] == list(range(30))
        assert [task for task, _ in served[:3]] == [0, 1, 2]


def test_a_newcomer_does_not_overtake_tasks_in_line() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> tuple[Any, Any]:
            first = await waiting(reader)
            writer.enqueue_many(["for the first", "for the newcomer"])  # this loop has not heard of them yet
            newcomer = await reader.aget()
            return await first, newcomer

        assert asyncio.run(main()) == ("for the first", "for the newcomer")


def test_a_task_that_is_cancelled_when_its_message_has_come_leaves_it_to_the_next() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> Any:
            first = await waiting(reader)
            second = asyncio.create_task(reader.aget())
            await asyncio.sleep(0)  # it is in line
            assert reader._async_reader is not None
            [line] = reader._async_reader._lines.values()
            writer.enqueue("the only one")
            # Its step is scheduled, and then it is cancelled, all before it can run.
            await _until_told(line[0])
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await second

        async def _until_told(waiter: Any) -> None:
            while not waiter._told.done():
                await asyncio.sleep(0)

        assert asyncio.run(main()) == "the only one"


def test_a_time_out_is_that_of_dequeue_and_the_end_goes_on() -> None:
    with broadcast() as (writer, [reader]):

        async def main() -> Any:
            for timeout in (0, 0.001):
                with pytest.raises(QueueTimeoutError, match=rf"rank 0.*waited {timeout:.3f} s .*pid {os.getpid()}"):
                    await reader.aget(timeout)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.aget(), 0.001)
            writer.enqueue("after them")
            return await reader.aget(30)

        assert asyncio.run(main()) == "after them"


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_out_that_is_none_is_refused(timeout: float) -> None:
    with broadcast() as (_, [reader]):
        with pytest.raises(ArgumentError, match="timeout must be zero or more"):
            asyncio.run(reader.aget(timeout))


def test_a_writer_has_nothing_to_await() -> None:
    with broadcast() as (writer, _):
        with pytest.raises(RoleError, match="aget is for readers"):
            asyncio.run(writer.aget())


def test_two_ends_in_one_loop() -> None:
    with broadcast(2, max_chunks=4) as (writer, readers):

        async def collect(reader: MessageQueue) -> list[int]:
            return [message async for message in reader]

        async def main() -> list[list[int]]:
            sending = Background(send)
            collected = await asyncio.gather(*map(collect, readers))
            sending.result()
            return collected

        def send() -> None:
            for n in range(500):
                writer.enqueue(n, timeout=60)
            writer.close()

        assert asyncio.run(main()) == [list(range(500))] * 2


def test_an_end_is_a_selector_s_or_awaited_and_free_again_when_the_task_is_cancelled() -> None:
    with broadcast() as (writer, [reader]), Selector[str]() as selector:

        async def main() -> None:
            task = await waiting(reader)
            with pytest.raises(BusyError, match="a task waits for it"):
                selector.register(reader, "too late")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert reader.stats()["waiting_s"] == 0
            selector.register(reader, "free at once")
            with pytest.raises(BusyError, match="registered with a Selector"):
                await reader.aget()
            writer.enqueue("what is there is taken")
            assert await reader.aget() == "what is there is taken"

        asyncio.run(main())


def test_inside_a_chunk_of_its_own_thread_it_is_refused() -> None:
    with broadcast() as (writer, [reader]):
        writer.enqueue(b"chunk")

        async def main() -> None:
            with reader.acquire_read(), pytest.raises(BusyError):
                await reader.aget()

        asyncio.run(main())


def test_errors_are_those_of_dequeue() -> None:
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0, allow_pickle=False)

        async def main() -> None:
            task = await waiting(reader)
            writer.enqueue_many([{"a": "pickle"}, b"bytes", b"more", {"another": "one"}, b"last"])
            with pytest.raises(PickleRefusedError):
                await task
            assert await reader.aget() == b"bytes"
            assert reader.dequeue_many(10) == [b"more"]
            with pytest.raises(DecodeError):
                await reader.aget()
            assert await reader.aget() == b"last"
            task = await waiting(reader)
            writer.evict(0)
            with pytest.raises(ReaderEvictedError):
                await task

        asyncio.run(main())
        reader.close()


def test_a_fast_writer_does_not_starve_the_loop() -> None:
    with broadcast(max_chunks=1000) as (writer, [reader]):
        writer.enqueue_many([b"x"] * 1000)
        taken = 0

        async def consume() -> None:
            nonlocal taken
            async for _ in reader:
                taken += 1

        async def main() -> None:
            task = asyncio.create_task(consume())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())
        assert 0 < taken < 1000
        assert len(reader.dequeue_many(1000)) == 1000 - taken  # and cancelling it lost nothing

"""asyncio readers with a writer in another process: cancellation, death, Ctrl-C, exit, and what an idle wait costs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from ringcast import MessageQueue
from ringcast._watch import _LOOK_S
from ringcast.errors import QueueTimeoutError, WriterDiedError
from tests.asyncio_support import asleep, helpers, sleeps
from tests.support import FORGIVEN_RESCUES, Child, Link, eventually, run_python, segments

MESSAGES = 3000
AT_EXIT = ("-W", "error", "-X", "dev")
# asyncio's debug mode warns of a step that took 0.1 s, which a busy machine makes of any; what is left open is an error
LOAD_IS_NO_NEWS = "import logging\nlogging.getLogger('asyncio').setLevel(logging.ERROR)\n"


def _write(link: Link, messages: int, pause_every: int) -> None:
    """Sends numbers; stops for as long as the reader takes to fall asleep after each `pause_every`."""
    writer = MessageQueue(1, max_chunks=16)
    link.send(writer.export_handle())
    writer.wait_until_ready(60)
    for n in range(messages):
        if n % pause_every == 0:
            time.sleep(0.0005)  # so that readers wait, too; nothing depends on it
        writer.enqueue(n, timeout=60)
    if link.recv() == "close":
        writer.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_cancellations_loses_nothing(seed: int, start: Callable[..., Child]) -> None:
    writer = start(_write, MESSAGES, 2)
    reader = MessageQueue.create_from_handle(writer.receive(), 0)
    reader.wait_until_ready(60)
    choose = random.Random(seed)
    received: list[int] = []
    counts = {"cancelled": 0, "late": 0}

    async def take(timeout: float | None) -> None:
        # Whatever happens to this task, a message that aget returned is recorded in the same step.
        received.append(await reader.aget(timeout))

    async def storm() -> None:
        tasks: list[asyncio.Task[None]] = []
        while len(received) < MESSAGES:
            tasks = [task for task in tasks if not task.done()]
            while len(tasks) < 4:
                tasks.append(asyncio.create_task(take(choose.choice((None, 60, 0.0003, 0)))))
                tasks[-1].add_done_callback(count)
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(choose.choice((0, 0, 0.0002)))
            choose.choice(tasks).cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def count(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            counts["cancelled"] += 1
        elif isinstance(task.exception(), QueueTimeoutError):
            counts["late"] += 1
        else:
            task.result()

    asyncio.run(storm())
    assert received == list(range(MESSAGES))
    assert min(counts.values()) > 0  # it was a storm
    assert reader.stats()["rescued_wakes"] <= FORGIVEN_RESCUES
    writer.send("close")
    reader.close()
    assert writer.join() == 0


def test_cancelled_loops_one_after_the_other_lose_nothing(start: Callable[..., Child]) -> None:
    writer = start(_write, MESSAGES, 20)
    reader = MessageQueue.create_from_handle(writer.receive(), 0)
    received: list[int] = []

    async def read() -> None:
        async for message in reader:
            received.append(message)

    async def read_for(seconds: float) -> None:
        task = asyncio.create_task(read())
        await asyncio.wait([task], timeout=seconds)
        task.cancel()  # asyncio.run waits for it

    choose = random.Random(1)
    while len(received) < MESSAGES:
        asyncio.run(read_for(choose.random() / 200))
    assert received == list(range(MESSAGES))
    writer.send("close")
    asyncio.run(read())  # ends: the writer has closed
    reader.close()
    assert writer.join() == 0


def test_a_killed_writer_is_known_within_a_second_after_all_it_sent(start: Callable[..., Child]) -> None:
    writer = start(_write, 10, 100)
    reader = MessageQueue.create_from_handle(writer.receive(), 0)
    received: list[int] = []

    async def read() -> None:
        async for message in reader:
            received.append(message)

    async def main() -> int:
        task = asyncio.create_task(read())
        await asyncio.to_thread(eventually, lambda: len(received) == 10, "the messages")
        await asleep(reader, sleeps())
        await asyncio.to_thread(writer.kill)
        slept = sleeps()
        with pytest.raises(WriterDiedError, match=rf"the writer \(pid {writer.pid}\) died"):
            await task
        return sleeps() - slept

    # Not by the clock, which a busy machine makes late: between two looks, a second apart, there are three sleeps, and
    # perhaps a short one to be on time.
    assert asyncio.run(main()) <= 4
    assert received == list(range(10))
    reader.close()


def test_an_idle_wait_parks_and_does_nothing_else() -> None:
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

        async def main() -> tuple[float, float, int, int]:
            since, task = sleeps(), asyncio.create_task(reader.aget())
            await asleep(reader, since)
            steps = 0
            assert reader._async_reader is not None
            [line] = reader._async_reader._lines.values()
            tell = line[0].tell

            def counting(error: Exception | None = None) -> None:
                nonlocal steps
                steps += 1
                tell(error)

            line[0].tell = counting  # type: ignore[method-assign]
            started, parks, cpu_s = time.monotonic(), sleeps(), time.process_time()
            await asyncio.sleep(2)  # what is measured is the use of this time
            elapsed_s = time.monotonic() - started
            parks, cpu_s = sleeps() - parks, time.process_time() - cpu_s
            writer.enqueue("end")
            assert await task == "end"
            return elapsed_s, cpu_s, parks, steps

        elapsed_s, cpu_s, parks, steps = asyncio.run(main())
        assert steps == 1  # the loop was told once: when the message came
        assert parks <= 3 * (elapsed_s / _LOOK_S + 1)  # between two looks it sleeps as long as any end may, after a nap
        assert cpu_s < 0.05 * elapsed_s  # who stays awake takes all of it; what else lives in this process, some
        reader.close()


def test_five_hundred_idle_tasks_have_few_threads_and_cost_next_to_nothing() -> None:
    writers = [MessageQueue(1, max_chunks=2, max_chunk_bytes=64) for _ in range(500)]
    readers = [MessageQueue.create_from_handle(writer.export_handle(), 0) for writer in writers]

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def main() -> tuple[int, float, list[int]]:
        await asyncio.to_thread(threads)  # which begins a thread of asyncio's
        before, since = threads(), sleeps()
        tasks = [asyncio.create_task(reader.aget()) for reader in readers]
        await asleep(readers[-1], since)
        more = threads() - before
        cpu_s, began = time.process_time(), time.monotonic()
        await asyncio.sleep(4)  # what is measured is the use of this time
        share = (time.process_time() - cpu_s) / (time.monotonic() - began)
        for number in (499, 0, 250):
            writers[number].enqueue(number)
        taken = [await tasks[number] for number in (0, 250, 499)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return more, share, taken

    more, share, taken = asyncio.run(main())
    assert taken == [0, 250, 499]
    assert len(helpers()) == 1
    assert more <= 8  # for each 128 words one, and perhaps those that give idle memory back
    assert share < 0.05
    for end in (*readers, *writers):
        end.close()


def _reads_until_interrupted(link: Link) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

    async def main() -> None:
        since, task = sleeps(), asyncio.create_task(reader.aget())
        await asleep(reader, since)
        link.send("waiting")
        await task

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        writer.enqueue("the end is usable")
        link.send(asyncio.run(reader.aget(60)))
    # and leaves both ends to the exit handler


def test_ctrl_c_ends_a_waiting_loop_and_the_end_is_usable(start: Callable[..., Child]) -> None:
    child = start(_reads_until_interrupted)
    assert child.receive() == "waiting"
    child.signal(signal.SIGINT)
    assert child.receive() == "the end is usable"
    assert child.join() == 0


ENDS = """
import asyncio, sys, threading
from ringcast import MessageQueue
from tests.asyncio_support import sleeps
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
"""
PENDING_AT_EXIT = {
    "a wait was cancelled": """
async def main():
    task = asyncio.create_task(reader.aget())
    while sleeps() == 0:
        await asyncio.sleep(0)
    task.cancel()
asyncio.run(main())
""",
    "a loop in another thread waits": """
async def main():
    try:
        await reader.aget()
    except RuntimeError:
        pass
threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
while sleeps() == 0:
    pass
""",
    "the loop's code exits": """
async def main():
    task = asyncio.create_task(reader.aget())
    while sleeps() == 0:
        await asyncio.sleep(0)
    sys.exit()
asyncio.run(main())
""",
    "the thread idles": """
async def main():
    task = asyncio.create_task(reader.aget())
    while sleeps() == 0:
        await asyncio.sleep(0)
    queue.enqueue(1)
    assert await task == 1
asyncio.run(main())
""",
}


@pytest.mark.parametrize("pending", PENDING_AT_EXIT)
def test_nothing_is_printed_or_left_at_exit(pending: str) -> None:
    script = LOAD_IS_NO_NEWS + ENDS + PENDING_AT_EXIT[pending]
    before = segments()
    result = run_python(script, flags=AT_EXIT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert segments() == before


def test_when_the_exit_handler_is_done_no_helper_runs() -> None:
    script = """
import asyncio, atexit, threading
atexit.register(lambda: print([t.name for t in threading.enumerate() if t.daemon]))  # runs after the one of ringcast
from ringcast import MessageQueue
from tests.asyncio_support import sleeps
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
async def main():
    task = asyncio.create_task(reader.aget())
    while sleeps() == 0:
        await asyncio.sleep(0)
    queue.enqueue(1)
    await task
asyncio.run(main())
assert any(t.daemon for t in threading.enumerate())
"""
    result = run_python(LOAD_IS_NO_NEWS + script, flags=AT_EXIT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


def test_ringcast_imports_asyncio_only_for_who_uses_it() -> None:
    result = run_python(
        "import sys, ringcast\n"
        "queue = ringcast.MessageQueue(1)\n"
        "reader = ringcast.MessageQueue.create_from_handle(queue.export_handle(), 0)\n"
        "queue.enqueue(1); reader.dequeue(); reader.close(); queue.close()\n"
        "print([name for name in ('asyncio', 'ringcast.aio') if name in sys.modules])"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")

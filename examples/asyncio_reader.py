"""A reader in an event loop: other tasks run while it waits, and a wait that is given up loses no message.

    python examples/asyncio_reader.py

The writer is another process and knows nothing of the loop.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.synchronize import Event

from ringcast import MessageQueue
from ringcast.errors import QueueTimeoutError

NAME = "asyncio-example"
STEPS = 5


def write(go: Event) -> None:
    with MessageQueue(n_reader=1, name=NAME) as queue:
        go.wait()
        for step in range(STEPS):
            queue.enqueue({"step": step}, timeout=60)


async def tick() -> None:
    """Anything else that the loop has to do."""
    while True:
        print("the loop runs")
        await asyncio.sleep(0.05)


async def read(queue: MessageQueue, go: Event) -> None:
    ticking = asyncio.create_task(tick())
    try:
        await queue.aget(timeout=0.12)
    except QueueTimeoutError as error:
        print("timed out:", error)
    go.set()
    async for message in queue:  # until the writer closes
        print("received", message)
    ticking.cancel()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    writer = context.Process(target=write, args=(go,))
    writer.start()
    with MessageQueue.attach(NAME, timeout=60) as queue:
        asyncio.run(read(queue, go))
    writer.join()


if __name__ == "__main__":
    main()

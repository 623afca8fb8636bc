"""What the tests of asyncio share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ringcast import MessageQueue, _watch
from tests.support import eventually


def helpers() -> list[threading.Thread]:
    """The threads that wait for the ends that tasks wait for: one, or none."""
    return [thread for thread in threading.enumerate() if thread.name == "ringcast-aget"]


async def until(condition: Callable[[], Any], what: str) -> None:
    """`eventually`, while the loop runs."""
    await asyncio.to_thread(eventually, condition, what)


def sleeps() -> int:
    """How often that thread has slept while there was an end to wait for."""
    selections = [watch._selection for watch in list(_watch._watches.values())]
    return sum(selection._counters()["parks"] for selection in selections if selection is not None)


async def asleep(reader: MessageQueue, since: int = 0) -> None:
    """A task waits for the end, and the thread has slept more often than `since`."""
    await until(lambda: reader.stats()["waiting_s"] > 0 and sleeps() > since, "the sleep")


async def waiting(reader: MessageQueue) -> asyncio.Task[Any]:
    """A task in `aget`, for whom the thread sleeps."""
    since = sleeps()
    task = asyncio.create_task(reader.aget())
    await asleep(reader, since)
    return task

"""What the tests of asyncio share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ringcast import MessageQueue
from tests.support import eventually, parked


def helpers() -> list[threading.Thread]:
    """The threads of ends that have been waited on."""
    return [thread for thread in threading.enumerate() if thread.name == "ringcast-aget"]


async def until(condition: Callable[[], Any], what: str) -> None:
    """`eventually`, while the loop runs."""
    await asyncio.to_thread(eventually, condition, what)


async def waiting(reader: MessageQueue) -> asyncio.Task[Any]:
    """A task in `aget`, whose helper has parked since."""
    parks = reader.stats()["parks"]
    task = asyncio.create_task(reader.aget())
    await until(lambda: parked(reader, parks + 1), "the park")
    return task

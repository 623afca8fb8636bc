"""Is the result of a call still wanted? Asked by calls that wait in a thread of a pool.

A future cannot stop the thread that works for it: after `asyncio.wait_for(asyncio.to_thread(reader.dequeue), 1)` has
timed out, or its task was cancelled, that thread would wait on, keep the loop and the process from ending, and take a
message that nobody gets. What a call is for can be found out from within: the pool's frame further up the stack has the
future that will get the result, and that one the asyncio future that it is handed on to.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType


def is_given_up() -> bool | None:
    """True only if it is certain that nobody can get the result of the call that asks; None if that will never be, so
    that a wait need not ask again."""
    pool: Any = sys.modules.get("concurrent.futures.thread")
    if pool is None or "asyncio" not in sys.modules:
        return None
    work = getattr(pool, "_WorkItem", None)
    code = getattr(getattr(work, "run", None), "__code__", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    if frame is None:
        return None
    future = getattr(frame.f_locals.get("self"), "future", None)
    takers = [_handed_on_to(callback) for callback in list(getattr(future, "_done_callbacks", ()))]
    return bool(takers) and all(taker is not None and _is_gone(taker) for taker in takers)


def _handed_on_to(callback: Any) -> Any:
    """The asyncio future that `callback`, of asyncio.wrap_future, will hand the result on to; None: it is another."""
    code = getattr(callback, "__code__", None)
    if code is None or not callback.__module__.startswith("asyncio.") or "destination" not in code.co_freevars:
        return None
    return callback.__closure__[code.co_freevars.index("destination")].cell_contents


def _is_gone(taker: Any) -> bool:
    if taker.cancelled():
        return True
    import asyncio

    loop = taker.get_loop()
    if loop.is_closed():
        return True
    # asyncio.run has cancelled what was left, and waits for the threads in the only task that there is.
    return bool(getattr(loop, "_executor_shutdown_called", False)) and len(asyncio.all_tasks(loop)) <= 1

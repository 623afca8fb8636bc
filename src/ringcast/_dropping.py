"""What is done for an object that nobody has any more, where that takes its time: by a thread of its own.

Finalizers come in any thread, in the middle of anything, so they wait for nothing; not even for the thread that they
start to begin. One that has not begun when the interpreter goes away crashes the process, in CPython until 3.12: its
state is freed under it. So the end of the process waits for those, and starts no more.
"""

from __future__ import annotations

import atexit
import os
import time
from _thread import start_new_thread
from collections.abc import Callable
from typing import Any

_POLL_S = 0.0005
_PATIENCE_S = 10.0
"""Far longer than a thread takes that the system has started, on however busy a machine."""

_beginning: dict[object, None] = {}
"""Threads that have been started, and have not begun. A dict, of which each step is one for all threads."""
_is_over = False


def in_background(end: Callable[..., Any], *arguments: Any) -> None:
    """Call it in a thread of its own. If none can be had, or the process ends, it is left to its exit handlers."""
    if _is_over:
        return
    thread = object()
    _beginning[thread] = None
    try:
        start_new_thread(_run, (thread, end, arguments))
    except RuntimeError:
        del _beginning[thread]


def _run(thread: object, end: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    del _beginning[thread]
    end(*arguments)


def _forget_others() -> None:
    """A forked child has none of its parent's threads."""
    _beginning.clear()


@atexit.register
def _wait_for_beginnings() -> None:
    global _is_over
    _is_over = True
    until = time.monotonic() + _PATIENCE_S
    while _beginning and time.monotonic() < until:
        time.sleep(_POLL_S)  # nothing tells that a thread has begun


os.register_at_fork(after_in_child=_forget_others)

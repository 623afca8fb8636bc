"""The end of a process: what is open is closed before anybody waits for another process that may wait for a message.

An interpreter that ends joins its threads, then calls its exit handlers, the latest first. Somewhere on that way each
library joins the processes that it has started; these read until the end of their queue, which is there once its writer
has been closed. So ends are closed

- where multiprocessing, or a library that is made of its code, begins its exit, which is also how its children end;
- before the threads are joined, if that would not end otherwise: workers of a process pool have a queue of ours, or a
  thread reads a queue whose writer is here. Threads that may still send are waited for;
- in an exit handler of our own, and, so that no handler before it waits for ever, when the handlers take long;
- in another one, our last, what has been opened since. From then on a thread opens no end: as nobody would close it,
  other processes would take it for one that was killed.

Promised readers that have not attached are waited for as `close` does; what they miss is logged.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ringcast import _core
from ringcast._registry import Registry
from ringcast.errors import PoolClosedError, QueueClosedError, SystemCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ringcast._stats import QueueStats

_POLL_S = 0.02
_PATIENCE_S = 1.0
"""For so long, together, other exit handlers may take until the ends are shut down in spite of them."""
_DAEMONS_S = 0.1
"""The same for daemon threads that have just received a tensor: these end at their next call, others' may never."""
_LIBRARIES = ("multiprocessing.util", "multiprocess.util", "billiard.util")


class OpenEnd(Protocol):
    """What the end of a process needs to know of an end."""

    segment: str
    role: Literal["writer", "reader"]
    _segment: _core.Segment | None

    @property
    def _context(self) -> str: ...

    def stats(self) -> QueueStats: ...
    def _is_waiting(self, thread: int) -> bool: ...
    def shutdown(self) -> None: ...
    def _close_at_exit(self, failed: bool, since: float) -> None: ...


on_failure: list[Callable[[], None]] = []
"""What is to be done before threads are joined if the main program has ended by an exception: it ends what they wait
for, which they would else go on to do."""
afterwards: list[Callable[[], None]] = []
"""What is to be done once all ends are closed: threads of ours end that waited for them."""

_open: Registry[OpenEnd] = Registry()
_pid = 0
"""The process that has its exit handler, and whose threads are not joined before it was asked."""
_over = 0
"""The process whose exit handlers are over, as far as they are ours."""
_armed: set[tuple[int, int]] = set()
"""The libraries that call us, by process and the identity of their registry."""


def hold(end: OpenEnd) -> None:
    """See to it that `end` is closed when this process ends, if it is still there.

    Raises QueueClosedError, with the end closed, in a thread that goes on after that.
    """
    global _pid
    _open.add(end)
    if _over == os.getpid() and threading.current_thread() is not threading.main_thread():
        _close([end])
        raise QueueClosedError(f"{end._context}: it was closed at once, since the interpreter is exiting")
    if _pid != os.getpid():  # several threads may find that: each does it all, which does no harm
        atexit.unregister(_close_all)  # a forked child has its parent's
        atexit.register(_close_all)
        _come_before_threads_are_joined()
        _pid = os.getpid()
    for name in _LIBRARIES:
        _arm(sys.modules.get(name))


def process_has_failed() -> bool:
    """Does this process end by an exception, or with an exit code that says so as far as Python tells?"""
    error = sys.exc_info()[1]  # children of multiprocessing end while it is in flight
    if error is None and not hasattr(sys, "ps1"):  # where people type, an error is not the end
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return has_failed(error)


def has_failed(error: BaseException | None) -> bool:
    """Is that a failure, or a way to end in order?"""
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    return error is not None and not isinstance(error, GeneratorExit)


def _ends() -> list[OpenEnd]:
    return [end for end in _open.own() if end._segment is not None]


def _arm(library: Any) -> None:
    """Called at the beginning of the library's exit, at a finalizer's lowest priority, before it joins its children."""
    registry = getattr(library, "_finalizer_registry", None)
    if registry is not None and (armed := (os.getpid(), id(registry))) not in _armed:
        library.Finalize(None, _close_all, exitpriority=0)
        _armed.add(armed)


def _come_before_threads_are_joined() -> None:
    """The interpreter joins threads by `threading._shutdown`, and there is no public way to be there first."""
    usual: Any = getattr(threading, "_shutdown", None)
    if usual is None or hasattr(usual, "_of_ringcast"):
        return

    def shutdown() -> None:
        try:
            if _pid == os.getpid():
                if process_has_failed():
                    silence_threads()
                    for step in on_failure:
                        step()
                _let_threads_end()
        finally:
            usual()
        if _ends():
            with suppress(SystemCallError):  # no thread can be had: our own handler closes them when its turn comes
                _core.shut_down_after(_PATIENCE_S, _ends())

    shutdown._of_ringcast = True  # type: ignore[attr-defined]
    threading._shutdown = shutdown  # type: ignore[attr-defined]


def _let_threads_end() -> None:
    """The main program is over. Closes the ends without which the threads that will be joined never end."""
    for name, module in sys.modules.copy().items():
        if name.endswith(".util"):  # also those that were loaded after the last queue was made
            _arm(module)
    while True:
        threads = list(_others())
        reads = _reads(threads)
        held_up = _held_up(threads, reads)
        if not held_up:
            return
        if not any(_may_send(thread, reads[thread]) for thread in threads):
            _close(held_up)
        else:
            time.sleep(_POLL_S)  # nothing tells when a thread of somebody else's has no more to send


def _others() -> Iterator[threading.Thread]:
    """The threads that the interpreter will join."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread() and thread is not threading.current_thread():
            yield thread


def _pool_pids(thread: threading.Thread) -> set[int]:
    """The processes of a pool of concurrent.futures, or of its relatives, that has work: `thread` joins them."""
    processes = getattr(thread, "processes", None)
    if not processes or not getattr(thread, "pending_work_items", None):
        return set()
    return set(processes)


def _reads(threads: Iterable[threading.Thread]) -> dict[threading.Thread, set[str]]:
    """Of each thread the segments whose messages it waits for. A process may have thousands of ends."""
    readers = [end for end in _ends() if end.role == "reader"]
    return {
        thread: {end.segment for end in readers if thread.ident is not None and end._is_waiting(thread.ident)}
        for thread in threads
    }


def _held_up(threads: Iterable[threading.Thread], reads: Mapping[threading.Thread, set[str]]) -> list[OpenEnd]:
    """The ends that somebody waits for who will be joined, or may."""
    pids: set[int] = set().union(*map(_pool_pids, threads))
    awaited: set[str] = set().union(*reads.values())

    def holds_up(end: OpenEnd) -> bool:
        if end.role == "reader":
            return end._segment is not None and end._segment.creator_pid in pids
        if end.segment in awaited:
            return True
        if not pids:
            return False
        stats = end.stats()
        return bool(stats["expected_elsewhere"]) or any(
            reader["state"] == "expected" or reader["pid"] in pids for reader in stats["readers"]
        )

    return [end for end in _ends() if holds_up(end)]


def _may_send(thread: threading.Thread, reads: set[str]) -> bool:
    """Is `thread` doing something of its own, which it may end by sending a message? `reads`: what it waits for."""
    if hasattr(thread, "pending_work_items"):
        return False
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or (frame.f_code.co_name == "_worker" and frame.f_globals["__name__"].startswith("concurrent.")):
        return False  # it has ended, or is a pool's and has nothing to do
    return not any(end.role == "writer" and end.segment in reads for end in _ends())


def silence_threads() -> None:
    """Threads that still use an end or a pool are told that it is closed: at exit, that is no news to be printed."""
    if threading.active_count() == 1:
        return
    usual = threading.excepthook

    def hook(arguments: Any) -> None:
        # StopIteration: next(reader), whose writer was in this process.
        if not issubclass(arguments.exc_type, (QueueClosedError, PoolClosedError, StopIteration)):
            usual(arguments)

    threading.excepthook = hook


def _close_all() -> None:
    """Nobody closed these. Afterwards no other thread is, or comes, under a call of ours."""
    ends = _ends()
    if ends:
        _close(ends)
    for step in afterwards:
        step()
    _core.await_foreign_code(_PATIENCE_S)
    if ends and "torch" in sys.modules:
        _let_daemons_end()


@atexit.register  # when this is loaded, so that it comes after all handlers that were registered later
def _close_the_rest() -> None:
    """Other handlers, and threads, have opened these since."""
    global _over
    _over = os.getpid()
    if ends := _ends():
        _close(ends)


def _let_daemons_end() -> None:
    """Until Python 3.13, a daemon thread that drops a tensor while the interpreter goes away aborts the process.

    One that has just received it gets the time to do so now, and to learn that there will be no more.
    """
    until = time.monotonic() + _DAEMONS_S
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))


def _close(ends: list[OpenEnd]) -> None:
    _core.note_exit()
    silence_threads()
    failed = process_has_failed()
    # Writers first: that a reader of this very process gets no more is no news to them then. All of them at once: who
    # waits for readers that have not come, keeps nobody waiting for the end of another queue, and does not wait in vain
    # for each.
    writers = [end for end in ends if end.role == "writer"]
    since = time.monotonic()
    for end in writers:
        end.shutdown()
    for end in [*writers, *(end for end in ends if end.role == "reader")]:
        end._close_at_exit(failed, since)

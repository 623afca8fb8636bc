"""The thread that waits for the ends that tasks wait for: one for a process, however many ends and loops there are.

It waits natively for all of them at once (`_core.Selection`), and never takes a message. An end that can be read is
waited for no more until somebody asks again: what a loop has not taken yet keeps nobody awake, and while an end is
being read, its messages cost no wake-up. Whoever takes an end out tells those who wait for it, so that nobody relies on
a wait that is over.

The thread is a daemon, since one that must be joined before the exit handlers run would keep the process from exiting.
It ends when there has been nothing to wait for for a while; the exit handler (`_at_exit`) ends it once the ends are
closed, so that it does not run while the interpreter goes away.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from ringcast import _at_exit, _core
from ringcast.errors import BusyError, QueueClosedError
from ringcast.waiting import NativeStrategy

_LOOK_S = 1.0
_JOIN_S = 5.0


class WatchedEnd(Protocol):
    """What is asked of a reader's end."""

    @property
    def _context(self) -> str: ...
    def _report_wait(self, seconds: float, due: float) -> float: ...


class Watched(Protocol):
    """Who asks for an end, on behalf of those who wait for it."""

    def end(self) -> WatchedEnd | None: ...
    def is_wanted(self) -> bool: ...
    def tell(self, error: Exception | None = None, *, given: bool = False) -> None: ...


class Watch:
    """Waits for ends in one way of waiting. Get it from `watch_of`."""

    def __init__(self, strategy: NativeStrategy) -> None:
        self._strategy = strategy
        self._begin()

    def _begin(self) -> None:
        # Guards what follows; held for moments. Tasks that are collected let go of their ends, at any moment: in a
        # thread that has the lock, too.
        self._lock = threading.RLock()
        self._waits: dict[Watched, float] = {}  # since when
        self._selection: _core.Selection | None = None
        self._thread: threading.Thread | None = None
        self._is_idle = False
        # The thread's own: when it looks at all waits, and after how many seconds those that it has seen are news.
        self._looks_at = 0.0
        self._due: dict[Watched, tuple[float, float]] = {}

    def add(self, watched: Watched, end: Any) -> None:
        """Wait for `end`, once, and tell `watched`. Raises BusyError, QueueClosedError."""
        with self._lock:
            if watched in self._waits:
                return
            try:
                self._waits[watched] = since = time.monotonic()
                self._is_idle = False
                selection = self._selection or self._start()
                if not selection._add(end, watched):
                    raise BusyError(
                        f"{end._context}: it is registered with a Selector, which waits for it: take what `select` or "
                        "`aselect` gives, or unregister it before awaiting it"
                    )
                self._waits[watched] = since  # in case that somebody was collected who waited for this very end
            except BaseException:
                self._take_out(watched)
                raise

    def release(self, watched: Watched, error: Exception | None = None, *, given: bool = False) -> None:
        """Wait for its end no more, and tell it."""
        if watched not in self._waits:
            return  # who has taken it out tells it
        with self._lock:
            self._take_out(watched)
        try:
            watched.tell(error, given=given)
        except BaseException:
            with suppress(Exception):
                watched.tell(error)  # once more: it was taken out, so nobody else does
            raise

    def waits_for(self, watched: Watched) -> bool:
        """Is its end waited for now?"""
        return watched in self._waits

    def waited_s(self, watched: Watched) -> float:
        """For how long it has been."""
        since = self._waits.get(watched)
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """End the thread, and tell all that are waited for."""
        with self._lock:
            thread, selection = self._thread, self._selection
            self._thread = self._selection = None
        if selection is not None:
            selection._close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
        self._release_all()

    def _take_out(self, watched: Watched) -> None:
        if self._selection is not None:
            self._selection._remove(watched)
        self._waits.pop(watched, None)

    def _release_all(self, error: Exception | None = None) -> None:
        for watched in self._waits.copy():
            self.release(watched, error)

    def _start(self) -> _core.Selection:
        selection = _core.Selection(self._strategy)
        thread = threading.Thread(target=self._serve, args=(selection,), name="ringcast-aget", daemon=True)
        self._looks_at, self._due = time.monotonic() + _LOOK_S, {}
        thread.start()
        self._selection, self._thread = selection, thread
        return selection

    def _serve(self, selection: _core.Selection) -> None:
        error: BaseException | None = None
        try:
            while self._serve_once(selection):
                pass  # between two waits this frame holds nothing that could hold tasks or ends
        except BaseException as raised:
            error = raised.with_traceback(None)
        finally:
            self._serves_no_more(selection, error)

    def _serves_no_more(self, selection: _core.Selection, error: BaseException | None) -> None:
        """However it has ended: nobody waits for a thread that is gone, and the next one who waits starts another."""
        with self._lock:
            if self._selection is not selection:
                return
            self._thread = self._selection = None
            lost, self._waits = self._waits, {}
        for watched in lost:
            selection._remove(watched)
        selection._close()
        told = error if isinstance(error, Exception) else None
        for watched in lost:
            with suppress(Exception):
                watched.tell(told)

    def _serve_once(self, selection: _core.Selection) -> bool:
        """Is there a next time?"""
        left = self._looks_at - time.monotonic()
        if left <= 0:
            left = _LOOK_S
            self._look()
            if not self._goes_on():
                return False
        try:
            given = selection._select(left, briefly=False)
        except QueueClosedError:
            return False
        except Exception as raised:  # for so many ends the system gives no thread, or no memory
            self._release_all(raised.with_traceback(None))
            return True
        for watched in given:  # and then gives way at once to the loops, which have been told
            self.release(watched, given=True)
        return True

    def _goes_on(self) -> bool:
        """Not if nothing is waited for, nor was at the last look."""
        with self._lock:
            if self._waits or not self._is_idle:
                self._is_idle = not self._waits
                return True
            self._thread = self._selection = None
            return False

    def _look(self) -> None:
        """Does what a call that waits does now and then: says that it waits, and sees who wants it."""
        now = time.monotonic()
        self._looks_at = now + _LOOK_S
        seen, self._due = self._due, {}
        for watched, since in self._waits.copy().items():
            end = watched.end()
            if end is None or not watched.is_wanted():
                self.release(watched)
                continue
            began, due = seen.get(watched, (since, 0.0))
            try:
                self._due[watched] = since, end._report_wait(now - since, due if began == since else 0.0)
            except Exception as raised:
                self.release(watched, raised.with_traceback(None))  # the traceback would keep the end


_watches: dict[NativeStrategy, Watch] = {}


def watch_of(strategy: NativeStrategy) -> Watch:
    """That of this process for ends that wait in this way, as nearly all do that it has."""
    watch = _watches.get(strategy)
    return _watches.setdefault(strategy, Watch(strategy)) if watch is None else watch


def _stop_all() -> None:
    for watch in _watches.copy().values():
        watch.stop()


def _forget_the_parent_s() -> None:
    for watch in _watches.copy().values():
        watch._begin()


_at_exit.afterwards.append(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent_s)

"""A thread for what nobody waits for: futures with callbacks, deadlines of futures, answers that come too late.

It begins with the first of these, and sleeps when there are none. It leads only while a future is watched, and
otherwise looks now and then, because who asks a future for its result reads the answers himself.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress

from ringcast.workers._call import Call
from ringcast.workers._calls import Calls

_logger = logging.getLogger("ringcast.workers")

_FIRST_S = 0.002
_LAST_S = 0.05
"""Between two looks, while nothing has happened."""
_ROUND_S = 0.005
"""How often it looks through all that is under way, while it leads."""
_PATIENCE_S = 0.5
"""How long the same futures are tried on, when answers cannot be read: for want of memory, say."""


class Attendant:
    """Of one group's calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._wakes: queue.SimpleQueue[None] = (
            queue.SimpleQueue()
        )  # which finalizers may put into, whatever they interrupt
        self._awake = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = False
        calls.on_stray = self.need
        calls.on_watched = self._hurry
        calls.on_dropped = self._wake

    def need(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._over:
                    thread = threading.Thread(target=self._run, name="ringcast-attendant", daemon=True)
                    thread.start()
                    self._thread = thread
        if not self._awake:
            self._wake()

    def end(self) -> None:
        """What is complete is still told."""
        with self._lock:
            self._over = True
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        self._complete()

    def _wake(self) -> None:
        self._wakes.put(None)

    def _hurry(self) -> None:
        self.need()
        self._wake()

    def _run(self) -> None:
        while not self._over:
            self._await(None)
            self._awake = True  # from here on who needs it does not wake it
            failing_since: float | None = None
            while not self._over:
                began = time.monotonic()
                try:
                    self._serve()
                    break
                except BaseException as error:  # of a ring that cannot be read, or of an object that is rebuilt
                    now = time.monotonic()
                    if failing_since is None or now - began > _PATIENCE_S:  # it has served well meanwhile
                        failing_since = now
                    elif now - failing_since > _PATIENCE_S:
                        self._give_up(error)
                        failing_since = None  # and once more, for who has come meanwhile
                    self._await(_LAST_S)

    def _serve(self) -> None:
        """Until there is nothing to do."""
        pause = _FIRST_S
        quiet = False
        while not self._over:
            before = len(self._calls.under_way)
            soonest = self._round()
            if soonest is None:
                if quiet:
                    return
                self._awake = False
                quiet = True  # once more, for who came before that
                continue
            quiet, self._awake = False, True
            if soonest < 0:
                pause = _FIRST_S
                continue
            self._await(max(0.0, min(pause, soonest - time.monotonic())))
            self._calls.look()
            pause = min(2 * pause, _LAST_S) if len(self._calls.under_way) == before else _FIRST_S

    def _give_up(self, error: BaseException) -> None:
        _logger.error("%s: the answers of its workers cannot be read", self._calls.label, exc_info=error)
        with suppress(BaseException):
            self._calls.fail_futures(error)
            self._complete()

    def _await(self, seconds: float | None) -> None:
        try:
            self._wakes.get(timeout=seconds)
            while True:
                self._wakes.get_nowait()
        except queue.Empty:
            pass

    def _round(self) -> float | None:
        """When the next deadline is; negative if it has led meanwhile; None if there is nothing to do."""
        self._complete()
        self._calls.say_what_is_unsaid()
        outstanding = [call for call in list(self._calls.under_way.values()) if call.done or call.future is not None]
        if not outstanding and not self._calls.completed:
            return None
        soonest = self._expire(outstanding)
        if any(call.future is not None and call.future.watched and not call.done for call in outstanding):
            self._lead(soonest)
            return -1.0
        return soonest

    def _lead(self, soonest: float) -> None:
        until = time.monotonic() + _ROUND_S
        while True:
            seconds = min(soonest - time.monotonic(), 0.25)
            if seconds > 0:
                self._calls.serve(seconds)
            self._complete()
            over = self._over or not self._calls.under_way
            if over or seconds <= 0 or self._calls.deaths or time.monotonic() > until:
                return

    def _expire(self, outstanding: list[Call]) -> float:
        """When the next deadline is; those that have passed, it says so."""
        now = time.monotonic()
        soonest = now + 3600.0
        for call in outstanding:
            if call.expires is None or call.done or call.future is None:
                continue
            if call.expires <= now:
                call.future.expire()
            else:
                soonest = min(soonest, call.expires)
        return soonest

    def _complete(self) -> None:
        completed = self._calls.completed
        while completed:
            try:
                call = completed.popleft()
            except IndexError:
                return
            if call.future is not None:
                try:
                    call.future.complete()
                except BaseException:  # of a callback; those that are Exceptions its future has logged
                    _logger.critical("%s: a callback tried to end the thread that runs all", call.told, exc_info=True)

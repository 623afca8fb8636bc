"""A thread for what nobody waits for: futures with callbacks, deadlines of futures, answers that come too late.

It begins with the first of these, and sleeps when there are none. It leads only while a future is watched, and
otherwise looks now and then, because who asks a future for its result reads the answers himself.
"""

from __future__ import annotations

import threading
import time

from ringcast.workers._call import Call
from ringcast.workers._calls import Calls

_FIRST_S = 0.002
_LAST_S = 0.05
"""Between two looks, while nothing has happened."""
_ROUND_S = 0.005
"""How often it looks through all that is under way, while it leads."""


class Attendant:
    """Of one group's calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._needed = threading.Event()
        self._urgent = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = False
        calls.on_stray = self.need
        calls.on_watched = self._hurry

    def need(self) -> None:
        if self._needed.is_set() and self._thread is not None:
            return
        self._needed.set()
        with self._lock:
            if self._thread is None and not self._over:
                thread = threading.Thread(target=self._run, name="ringcast-attendant", daemon=True)
                thread.start()
                self._thread = thread

    def end(self) -> None:
        """What is complete is still told."""
        with self._lock:
            self._over = True
        self._urgent.set()
        self._needed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        self._complete()

    def _hurry(self) -> None:
        self._urgent.set()
        self.need()

    def _run(self) -> None:
        pause = _FIRST_S
        while not self._over:
            self._needed.wait()
            self._urgent.clear()
            self._needed.clear()
            while not self._over:
                self._complete()
                self._calls.say_what_is_unsaid()
                outstanding = [
                    call for call in list(self._calls.under_way.values()) if call.done or call.future is not None
                ]
                if not outstanding and not self._calls.completed:
                    break
                soonest = self._expire(outstanding)
                if any(call.future is not None and call.future.watched and not call.done for call in outstanding):
                    self._lead(soonest)
                    pause = _FIRST_S
                    continue
                before = len(self._calls.under_way)
                if self._urgent.wait(max(0.0, min(pause, soonest - time.monotonic()))):
                    self._urgent.clear()
                self._calls.look()
                pause = min(2 * pause, _LAST_S) if len(self._calls.under_way) == before else _FIRST_S

    def _lead(self, soonest: float) -> None:
        until = time.monotonic() + _ROUND_S
        while True:
            seconds = min(soonest - time.monotonic(), 0.25)
            if seconds > 0:
                self._calls.serve(seconds)
            self._complete()
            if seconds <= 0 or self._over or self._calls.deaths or time.monotonic() > until:
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
                call.future.complete()

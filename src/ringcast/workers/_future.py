"""The future of a call: whoever asks it for its result reads the answers himself, as `call` does.

It never runs, in the sense of `concurrent.futures`, so it can be cancelled until it is done. Callbacks, and through
them event loops, are served by a thread of the group, which runs them while it holds nothing.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ringcast.workers._call import Call

if TYPE_CHECKING:
    from ringcast.workers._calls import Calls

T = TypeVar("T")

_OVER = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"})


class _Waiters(list[Any]):
    """Those of `concurrent.futures.wait` and `as_completed`, who ask a future for nothing."""

    def __init__(self, added: Callable[[], None]) -> None:
        super().__init__()
        self._added = added

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._added()


class CallFuture(concurrent.futures.Future[T]):
    """What `submit` returns: a `concurrent.futures.Future` that can be awaited, too."""

    def __init__(self, calls: Calls, call: Call, group: object) -> None:
        super().__init__()
        self._calls = calls
        self._call = call
        self._group = group  # which lives as long as somebody waits for it
        self.watched: bool = False
        """Has it callbacks, or does somebody wait for it by `concurrent.futures.wait`?"""
        self._waiters = _Waiters(self._watch)

    def result(self, timeout: float | None = None) -> T:
        self._await(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)

    def done(self) -> bool:
        if not self._is_over():
            self._calls.look()
        return self._is_over()

    def cancel(self) -> bool:
        if self._is_over() or not super().cancel():
            return self.cancelled()
        self._calls.give_up(self._call)
        return True

    def add_done_callback(self, fn: Callable[[CallFuture[T]], object]) -> None:
        super().add_done_callback(fn)  # type: ignore[arg-type]
        if not self._is_over():
            self._watch()

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def complete_unless_watched(self) -> bool:
        """Sets what has become of the call, unless code of others would run. Is it set?"""
        if self._done_callbacks:  # type: ignore[attr-defined]
            return self._is_over()
        outcome = self._outcome()
        with self._condition:
            if self._done_callbacks and not self._is_over():  # type: ignore[attr-defined]
                return False
            self._set(outcome)
        return True

    def complete(self) -> None:
        """Sets what has become of the call; any number of times."""
        self._set(self._outcome())

    def _outcome(self) -> tuple[Any, BaseException | None] | None:
        """The result or the error; None where it is set already."""
        call = self._call
        # First of all: who drops them has set the future, or failed the call, before (expire, cancel).
        results = call.results
        if self._is_over():
            return None
        try:
            return (None, call.error()) if call.errors else (call.result(results), None)
        except Exception as broken:  # of code that the workers' exceptions brought along
            return None, broken

    def _set(self, outcome: tuple[Any, BaseException | None] | None) -> None:
        if outcome is None:
            return
        result, error = outcome
        with suppress(concurrent.futures.InvalidStateError):  # it was set, or cancelled, meanwhile
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)

    def expire(self) -> None:
        """The deadline has passed."""
        call = self._call
        if call.done:
            return
        error = self._calls.late(call)
        call.fail(-1, error)
        self._calls.give_up(call)
        self.complete()

    def _is_over(self) -> bool:
        """As `done` of its class, which takes a lock for it."""
        return self._state in _OVER

    def _watch(self) -> None:
        self.watched = True
        self._calls.on_watched()

    def _await(self, timeout: float | None) -> None:
        call = self._call
        if self._is_over():
            return
        until = None if timeout is None else time.monotonic() + timeout
        while not self._is_over():
            soonest = until if call.expires is None or (until is not None and until < call.expires) else call.expires
            if self._calls.wait(call, soonest):
                self.complete()
            elif call.expires is not None and time.monotonic() >= call.expires:
                self.expire()
            elif until is not None and time.monotonic() >= until:
                raise concurrent.futures.TimeoutError(f"{call.told} has not been answered within {timeout} s")

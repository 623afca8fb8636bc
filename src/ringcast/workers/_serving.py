"""A worker's loop: takes calls, runs one at a time, answers each.

Before it begins one it looks at all that has been sent, as far as its patience goes, so that a call that was cancelled
meanwhile is not begun. A stream's generator runs as long as it has credit; one that nobody reads holds nobody up.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ringcast._interruptions import Cause, cause_of
from ringcast.errors import (
    ArgumentError,
    DecodeError,
    MessageError,
    QueueClosedError,
    RingcastError,
    SegmentError,
    WriterDiedError,
)
from ringcast.queue import MessageQueue
from ringcast.workers._failures import packed
from ringcast.workers._records import CALL, CANCEL, CAST, CREDIT, DONE, ITEM, RAISED, SCATTER, SKIPPED

_PLAIN = (CALL, CAST)
_LOOK_AHEAD = 256
"""So many calls at most are taken from the ring before they are begun."""


class _Stream:
    """A generator that has been begun."""

    def __init__(self, number: int, items: Iterator[Any], credit: int) -> None:
        self.number = number
        self.items = items
        self.credit = credit


class Server:
    """What a worker's process does with its object."""

    def __init__(
        self, calls: MessageQueue, answers: MessageQueue, target: Any, rank: int, allow_callables: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._calls = calls
        self._answers = answers
        self._target = target
        self._rank = rank
        self._clock = clock
        """Of the times in answers: 0 where the group does not share it."""
        self._allow_callables = allow_callables
        self._backlog: deque[Any] = deque()
        self._streams: dict[int, _Stream] = {}
        self._next = 0

    def serve(self) -> None:
        """Until the group closes, or its process is gone. Raises SystemExit if a call does."""
        try:
            while True:
                ready = self._ready()
                self._look(idle=ready is None and not self._backlog)
                if self._streams and (ready := self._ready()) is not None:
                    self._advance(ready)
                elif self._backlog:
                    self._run(self._backlog.popleft())
        except WriterDiedError:
            return
        except QueueClosedError:
            while self._backlog:  # calls have failed; but what nobody waits for was promised
                message = self._backlog.popleft()
                if message[0] == CAST:
                    self._run(message)
            for stream in self._streams.values():
                _close(stream.items)

    def _ready(self) -> _Stream | None:
        """One that may send."""
        if not self._streams:
            return None
        return next((stream for stream in self._streams.values() if stream.credit > 0), None)

    def _look(self, idle: bool) -> None:
        """Takes what is there; waits for something if there is nothing to do."""
        calls, backlog = self._calls, self._backlog
        try:
            if idle:
                self._sort(_taken(partial(calls.dequeue, None, None, True)))
            while len(backlog) < _LOOK_AHEAD:
                message = _taken(calls.try_dequeue)
                if message is None:
                    return
                self._sort(message)
        except DecodeError as error:
            self._fail(self._next, error)
            self._next += 1

    def _sort(self, message: Any) -> None:
        kind, number, ranks, about, arguments, _ = message
        self._next = number + 1
        if ranks is not None and self._rank not in ranks:
            return
        if kind == CREDIT:
            if about in self._streams:
                self._streams[about].credit += arguments
        elif kind == CANCEL:
            self._cancel(about)
        else:
            self._backlog.append(message)

    def _cancel(self, number: int) -> None:
        """What has been begun, other than a stream, goes on."""
        for message in self._backlog:
            if message[1] == number:
                self._backlog.remove(message)
                self._answer(number, SKIPPED, None)
                return
        stream = self._streams.pop(number, None)
        if stream is not None:
            _close(stream.items)
            self._answer(number, SKIPPED, None)

    def _run(self, message: Any) -> None:
        kind, number, _, name, arguments, options = message
        del message
        try:
            method = getattr(self._target, name) if type(name) is str else self._function(name)
            if kind in _PLAIN:
                value = method(*arguments, **options)
            elif kind == SCATTER:
                value = method(arguments[self._rank], **options)
            else:
                credit, *rest = arguments
                self._streams[number] = _Stream(number, iter(method(*rest, **options)), credit)
                return
        except SystemExit:
            raise
        except BaseException as error:
            if kind == CAST:
                _print(error)
            else:
                self._fail(number, error)
        else:
            if kind != CAST:
                self._answer(number, DONE, value)

    def _advance(self, stream: _Stream) -> None:
        """One item more."""
        try:
            item = next(stream.items)
        except StopIteration:
            del self._streams[stream.number]
            self._answer(stream.number, DONE, None)
        except SystemExit:
            raise
        except BaseException as error:
            del self._streams[stream.number]
            self._fail(stream.number, error)
        else:
            stream.credit -= 1
            if not self._answer(stream.number, ITEM, item):
                self._streams.pop(stream.number, None)
                _close(stream.items)

    def _function(self, name: Any) -> Any:
        if isinstance(name, str):
            return getattr(self._target, name)
        if self._allow_callables:
            return partial(name, self._target)
        raise ArgumentError("this group calls methods by their names only: make it with allow_callables=True")

    def _answer(self, number: int, kind: int, value: Any) -> bool:
        """False: the value cannot be sent, and that was the answer."""
        try:
            self._answers.enqueue((number, self._rank, kind, value, self._clock()))
        except BaseException as error:
            if not _is_of_value(error):
                raise
            self._fail(number, error)
            return False
        return True

    def _fail(self, number: int, error: BaseException) -> None:
        failure, at = packed(error), self._clock()
        try:
            self._answers.enqueue((number, self._rank, RAISED, failure, at))
        except (MessageError, SegmentError):  # it holds more than a message may
            self._answers.enqueue((number, self._rank, RAISED, failure._replace(pickled=None), at))


def _taken(receive: Callable[[], Any]) -> Any:
    """The next message, tried twice where memory is wanting."""
    try:
        return receive()
    except BaseException as error:
        if cause_of(error, error.__traceback__) != Cause.WANT_OF_MEMORY:
            raise
        return receive()  # the same one; if memory is wanting again, that is a DecodeError


def _is_of_value(error: BaseException) -> bool:
    """Does it say that a value cannot be sent? Not if it says something of the ring, or only came meanwhile, or ends
    the worker, as SystemExit does in a call."""
    if isinstance(error, RingcastError):
        return isinstance(error, MessageError | SegmentError)
    return not isinstance(error, SystemExit) and cause_of(error, error.__traceback__) != Cause.INTERRUPTION


def _close(items: Iterator[Any]) -> None:
    """Of a generator whose items nobody wants."""
    try:
        close = getattr(items, "close", None)
        if close is not None:
            close()
    except SystemExit:
        raise
    except BaseException as error:
        _print(error)


def _print(error: BaseException) -> None:
    """Of what nobody waits for."""
    with suppress(Exception):  # of a stream that is closed, or that nobody reads any more
        traceback.print_exception(error)

"""What a signal's handler raises while an object is pickled or rebuilt reaches the caller, and no message is lost."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import DecodeError


class Stop(Exception):
    pass


def handler(*_: Any) -> None:
    raise Stop


class Handler:
    def __call__(self, *_: Any) -> None:
        raise Stop

    def method(self, *_: Any) -> None:
        raise Stop


HANDLERS: dict[str, Any] = {
    "function": handler,
    "object": Handler(),
    "method": Handler().method,
    "partial": functools.partial(handler, 1),
}


def interrupt() -> None:
    """Once for each test."""
    if pending:
        pending.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(10):  # the handler runs before the loop ends
            pass


pending: list[bool] = []


@pytest.fixture(autouse=True, params=list(HANDLERS))
def _one_signal(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, HANDLERS[request.param])
    pending[:] = [True]
    yield
    signal.signal(signal.SIGUSR1, before)


class WhenRebuilt:
    def __init__(self) -> None:
        self.value = 7

    def __setstate__(self, state: dict[str, Any]) -> None:
        interrupt()
        self.__dict__.update(state)


class WhenPickled:
    def __reduce__(self) -> Any:
        interrupt()
        return int, (7,)


class Wrong:
    def __init__(self) -> None:
        self.value = 7

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ValueError(state)


@pytest.mark.parametrize("many", [False, True])
def test_the_exception_of_a_handler_ends_a_dequeue_and_the_next_one_begins_with_its_message(many: bool) -> None:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        queue.enqueue_many([WhenRebuilt(), "next"], timeout=10)
        with pytest.raises(Stop):
            reader.dequeue_many(5, 10) if many else reader.dequeue(10)
        assert reader.dequeue(10).value == 7
        assert reader.dequeue(10) == "next"


def test_the_exception_of_a_handler_ends_an_enqueue_that_sends_nothing() -> None:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        with pytest.raises(Stop):
            queue.enqueue(WhenPickled(), timeout=10)
        queue.enqueue(WhenPickled(), timeout=10)
        assert reader.dequeue(10) == 7
        assert reader.try_dequeue() is None


def test_an_exception_of_the_object_is_none_of_a_handler() -> None:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        queue.enqueue_many([Wrong(), "next"], timeout=10)
        with pytest.raises(DecodeError, match=r"Wrong.*ValueError"):
            reader.dequeue(10)
        assert reader.dequeue(10) == "next"

"""A message that raises what ends programs each time it is rebuilt is refused; what only came meanwhile loses none."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringcast import MessageQueue, Selector
from ringcast._interruptions import NotRebuilt, Tries
from ringcast.errors import DecodeError, QueueTimeoutError
from tests.support import Background, broadcast


class Final(BaseException):
    pass


class MuteForGood(SystemExit):
    def __str__(self) -> str:
        raise SystemExit


strikes: list[BaseException] = []
"""What the next rebuildings raise."""


class Struck:
    def __reduce__(self) -> Any:
        return rebuild, ()


class Poison:
    def __init__(self, kind: type[BaseException], padding: bytes = b"") -> None:
        self.kind = kind
        self.padding = padding

    def __reduce__(self) -> Any:
        return rebuild, (self.kind, self.padding)


def rebuild(kind: type[BaseException] | None = None, padding: bytes = b"") -> Any:
    if kind is not None:
        raise kind
    if strikes:
        raise strikes.pop(0)
    return "rebuilt"


def selected(reader: MessageQueue) -> Any:
    with Selector[str]() as selector:
        selector.register(reader, "it")
        [(_, end)] = selector.select(10)
        return end.try_dequeue()


CALLS: dict[str, Callable[[MessageQueue], Any]] = {
    "dequeue": lambda reader: reader.dequeue(10),
    "try_dequeue": lambda reader: reader.try_dequeue(),
    "dequeue_many": lambda reader: reader.dequeue_many(1, 10)[0],
    "iteration": lambda reader: next(iter(reader)),
    "aget": lambda reader: asyncio.run(reader.aget(10)),
    "Selector": selected,
}

every_call = pytest.mark.parametrize("receive", list(CALLS.values()), ids=list(CALLS))


@contextmanager
def struck_by(*errors: BaseException) -> Iterator[None]:
    strikes[:] = errors
    try:
        yield
    finally:
        strikes.clear()


@every_call
@pytest.mark.parametrize("size", [0, 100_000])
@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, Final, MuteForGood])
def test_a_message_that_ends_programs_is_consumed_and_told_of(
    kind: type[BaseException], size: int, receive: Callable[[MessageQueue], Any]
) -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many(["first", Poison(kind, bytes(size)), "next"])
        assert receive(reader) == "first"
        with pytest.raises(
            DecodeError, match=rf"number 1, .*test_poison\.rebuild.*{kind.__name__}.*consumed"
        ) as caught:
            receive(reader)
        assert type(caught.value.__cause__) is kind
        assert receive(reader) == "next"


def test_in_a_batch_it_comes_after_those_before_it() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([1, Poison(SystemExit), 3])
        assert reader.dequeue_many(10) == [1]
        with pytest.raises(DecodeError):
            reader.dequeue_many(10)
        assert reader.dequeue_many(10) == [3]


def test_a_module_that_exits_when_it_is_imported_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_module_that_exits.py").write_text("import sys\nsys.exit('not installed properly')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_module_that_exits", raising=False)
    with broadcast() as (writer, (reader,)):
        writer.enqueue(Named())
        with pytest.raises(DecodeError, match=r"importlib.import_module.*not installed properly"):
            reader.dequeue(10)


class Named:
    def __reduce__(self) -> Any:
        return importlib.import_module, ("a_module_that_exits",)


@every_call
@pytest.mark.parametrize("kind", [SystemExit, Final])
def test_what_comes_once_is_an_interruption_and_its_message_the_next(
    kind: type[BaseException], receive: Callable[[MessageQueue], Any]
) -> None:
    with broadcast() as (writer, (reader,)), struck_by(kind("only once")):
        writer.enqueue_many([Struck(), "next"])
        with pytest.raises(kind, match="only once"):
            receive(reader)
        assert [receive(reader), receive(reader)] == ["rebuilt", "next"]


def test_an_exit_that_a_signal_s_handler_asks_for_is_an_interruption_each_time() -> None:
    def exits(*_: object) -> None:
        raise SystemExit(3)

    before = signal.signal(signal.SIGUSR1, exits)
    try:
        with broadcast() as (writer, (reader,)):
            writer.enqueue(Signalled(4))
            for _ in range(4):
                with pytest.raises(SystemExit):
                    reader.dequeue(10)
            assert reader.dequeue(10) == "rebuilt"
    finally:
        signal.signal(signal.SIGUSR1, before)


signals: list[int] = []


class Signalled:
    def __init__(self, times: int) -> None:
        signals[:] = range(times)

    def __reduce__(self) -> Any:
        return signal_oneself, ()


def signal_oneself() -> str:
    if signals:
        signals.pop()
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(10):  # the handler runs before the loop ends
            pass
    return "rebuilt"


def test_ctrl_c_comes_to_the_main_thread_any_number_of_times_and_to_no_other() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Poison(KeyboardInterrupt), "next"])
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                reader.dequeue(10)
        with pytest.raises(DecodeError, match="KeyboardInterrupt"):
            Background(reader.dequeue, 10).result()
        assert reader.dequeue(10) == "next"


def test_it_can_be_passed_over_as_a_chunk() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Poison(KeyboardInterrupt), "next"])
        with pytest.raises(KeyboardInterrupt):
            reader.dequeue(10)
        with reader.acquire_read(10):
            pass
        assert reader.dequeue(10) == "next"


@every_call
def test_a_message_for_which_memory_is_wanting_is_tried_once_more(receive: Callable[[MessageQueue], Any]) -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Poison(MemoryError), "next"])
        with pytest.raises(MemoryError):
            receive(reader)
        with pytest.raises(DecodeError, match=r"MemoryError.*consumed") as caught:
            receive(reader)
        assert type(caught.value.__cause__) is MemoryError
        assert receive(reader) == "next"


@every_call
def test_an_error_of_ours_out_of_a_message_is_none_of_the_call(receive: Callable[[MessageQueue], Any]) -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Poison(QueueTimeoutError), "next"])
        with pytest.raises(DecodeError, match="QueueTimeoutError"):
            receive(reader)
        assert receive(reader) == "next"


def test_python_s_own_rebuilding_goes_by_the_same_rule() -> None:
    def fail(*errors: BaseException) -> Callable[[], Any]:
        left = list(errors)

        def load() -> Any:
            if left:
                raise left.pop(0)
            return "rebuilt"

        return load

    for refused in ([ValueError()], [SystemExit(), SystemExit()], [SystemExit(), ValueError()]):
        with pytest.raises(NotRebuilt) as caught:
            Tries().rebuilt(fail(*refused))
        assert caught.value.__cause__ is refused[-1]
    for passed in ([SystemExit()], [KeyboardInterrupt()], [MemoryError()], [SystemExit(), KeyboardInterrupt()]):
        tries, load = Tries(), fail(*passed)
        with pytest.raises(type(passed[-1])) as raised:
            tries.rebuilt(load)
        assert raised.value is passed[-1]
        assert tries.rebuilt(load) == "rebuilt"
    tries, load = Tries(), fail(MemoryError(), MemoryError())
    with pytest.raises(MemoryError):
        tries.rebuilt(load)
    with pytest.raises(NotRebuilt, match="MemoryError"):
        tries.rebuilt(load)

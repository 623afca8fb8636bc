"""What comes between two steps of putting an answer in its place: a signal, a cancellation, a failure."""

from __future__ import annotations

import concurrent.futures
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from ringcast import WorkerGroup
from ringcast.errors import BusyError, CallTimeoutError
from ringcast.workers._call import Call, move_first
from ringcast.workers._calls import Calls
from ringcast.workers._future import CallFuture
from ringcast.workers._rings import Rings
from ringcast.workers._stream import Stream
from tests.interrupts import Interrupt
from tests.support import Background, eventually
from tests.workers.objects import LONG_S, Frozen, Model

PUTTING_AN_ANSWER_IN_ITS_PLACE: list[Callable[..., Any]] = [
    Calls._dispatch, Calls._put, Calls._put_item, Calls._whose, Calls._put_unknown, Calls._finish, Call.fail,
    move_first, CallFuture.complete_unless_watched, CallFuture._outcome, CallFuture._set, Stream._sort,
]  # fmt: skip


def look_in(thread: threading.Thread, look: Callable[[], bool]) -> bool:
    return threading.current_thread() is thread and look()


def at_each_instruction(
    group: WorkerGroup, prepare: Callable[[], Any], read: Callable[[Any], object], check: Callable[[Any], None]
) -> int:
    """How often `read` was interrupted; after each time, and once without, what is there has to be right."""
    n = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            # So that the group's own thread, which nobody interrupts, reads no answer.
            patch.setattr(group._calls, "look", partial(look_in, threading.current_thread(), group._calls.look))
            patch.setattr(group._calls, "serve", time.sleep)
            with group._calls._lead:
                pass  # it has left
            prepared = prepare()
            interrupted = Interrupt(PUTTING_AN_ANSWER_IN_ITS_PLACE, n).run(partial(read, prepared))
        check(prepared)
        if not interrupted:
            return n
        n += 1


def test_an_interruption_loses_no_result_and_no_failure(group: WorkerGroup) -> None:
    def check(futures: list[CallFuture[Any]]) -> None:
        one, failed, undecoded, after = futures
        assert one.result(LONG_S) == [1, 1]
        assert isinstance(failed.exception(LONG_S), BaseException)
        assert "not here" in repr(undecoded.exception(LONG_S))
        assert after.result(LONG_S) == "after"

    def prepare() -> list[CallFuture[Any]]:
        return [
            group.submit("echo_only", 1),
            group.submit("fail"),
            group[0].submit("give_what_cannot_be_rebuilt"),
            group[0].submit("echo_only", "after"),
        ]

    def read(futures: list[CallFuture[Any]]) -> None:
        for future in futures:
            future.exception(LONG_S)

    assert at_each_instruction(group, prepare, read, check) > 15


def test_an_interruption_keeps_no_callback_from_being_called(group: WorkerGroup) -> None:
    def prepare() -> tuple[list[CallFuture[Any]], list[threading.Event]]:
        futures = [group.submit("echo_only", 1), group.submit("fail")]
        told = [threading.Event() for _ in futures]
        for future, event in zip(futures, told, strict=True):
            # Not by `add_done_callback` yet, which wakes the group's own thread.
            future._done_callbacks.append(lambda _, event=event: event.set())  # type: ignore[attr-defined]
        return futures, told

    def read(prepared: tuple[list[CallFuture[Any]], list[threading.Event]]) -> None:
        assert group.call("echo_only", 2) == [2, 2]  # which reads the answers before it

    def check(prepared: tuple[list[CallFuture[Any]], list[threading.Event]]) -> None:
        futures, told = prepared
        for future in futures:
            future.add_done_callback(lambda _: None)
        assert all(event.wait(LONG_S) for event in told)
        assert futures[0].result(0) == [1, 1]
        assert isinstance(futures[1].exception(0), KeyError)

    assert at_each_instruction(group, prepare, read, check) > 15


def test_an_interruption_doubles_no_item_of_a_stream(group: WorkerGroup) -> None:
    def read(stream: Stream) -> None:
        while not stream._call.done:
            group.call("echo_only", 1)  # which puts the items into their place, too
        stream._sort()

    def check(stream: Stream) -> None:
        assert list(stream) == list(range(4))

    assert at_each_instruction(group, lambda: group[0].stream("count_to", 4), read, check) > 5


A_CALL: list[Callable[..., Any]] = [
    Calls.send, Calls.tell, Calls.give_up, Calls.result_of, Calls.wait, Calls.look, Calls._read, Calls._hand_on,
    Calls._lead_in, Calls._follows_no_more, Rings.take, Rings._take_from, *PUTTING_AN_ANSWER_IN_ITS_PLACE,
]  # fmt: skip


POINTS = 50
"""More than a call has, most times: how many it has depends on who reads its answers."""


@pytest.mark.parametrize("name", ["echo_only", "fail_with"])
def test_an_interruption_at_any_point_of_a_call_leaves_the_group_to_all(group: WorkerGroup, name: str) -> None:
    struck = 0
    for n in range(POINTS):
        interrupt = Interrupt(A_CALL, n)
        with suppress(KeyError):
            interrupt.run(partial(group.call, name, n))
        assert not group._calls._leads(), interrupt.struck
        assert not group._calls._sending._is_owned(), interrupt.struck
        assert group[0].call("echo_only", n) == n
        assert Background(group.call, "echo_only", n).result(LONG_S) == [n, n]
        struck += bool(interrupt.struck)
    assert struck > 5


@pytest.mark.parametrize("within", ["call", "fail_with", "late"])
def test_a_handler_that_uses_the_group_in_the_midst_of_a_call_does_so_or_is_refused(
    group: WorkerGroup, within: str
) -> None:
    """Whatever a signal's handler or a finalizer does there, each answer is its own call's."""
    counts = {"struck": 0, "refused": 0, "answered": 0, "promised": 0}
    for n in range(POINTS):
        outer, inner = ("outer", n), ("inner", n)
        futures: list[CallFuture[Any]] = []

        def handler(inner: Any = inner, futures: list[CallFuture[Any]] = futures) -> None:
            try:
                assert group.call("echo_only", inner) == [inner, inner]
                counts["answered"] += 1
            except BusyError:
                counts["refused"] += 1
            with suppress(BusyError):
                futures.append(group.submit("echo_only", inner))
            with suppress(BusyError):
                group.cast("echo_only", inner)

        def call(outer: Any = outer) -> None:
            if within == "call":
                assert group.call("echo_only", outer) == [outer, outer]
            elif within == "late":
                with suppress(CallTimeoutError):
                    group.call("nap", 0.001, outer, deadline=0.0005)
            else:
                with pytest.raises(KeyError):
                    group[0].call("fail_with", outer)

        signal = Interrupt(A_CALL, n, handler)
        signal.run(call)
        for future in futures:
            assert future.result(LONG_S) == [inner, inner]
            counts["promised"] += 1
        assert group.call("echo_only", n) == [n, n]
        counts["struck"] += bool(signal.struck)
    assert all(counts.values()), counts


class _Meanwhile(dict[int, Any]):
    """Answers; while the last of them is read, another thread does something."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__()
        self.what = what

    def __getitem__(self, rank: int) -> Any:
        if rank == 1:
            thread = threading.Thread(target=self.what)
            thread.start()
            thread.join()
        return super().__getitem__(rank)


@pytest.mark.parametrize("how", ["cancelled", "late"])
@pytest.mark.parametrize("watched", [False, True])
def test_a_future_that_is_given_up_while_its_result_is_set_is_given_up(
    group: WorkerGroup, how: str, watched: bool
) -> None:
    future = group.submit("nap", 0.1, deadline=LONG_S)
    call = future._call

    def give_up() -> None:
        if how == "cancelled":
            future.cancel()
        else:
            call.done = False  # as it was a moment ago, when the deadline was looked at
            future.expire()

    call.results = _Meanwhile(give_up)
    told = threading.Event()
    if watched:
        future.add_done_callback(lambda _: told.set())
        assert told.wait(LONG_S)
    with pytest.raises(concurrent.futures.CancelledError if how == "cancelled" else CallTimeoutError):
        future.result(LONG_S)
    check_callbacks_are_called(group)


def check_callbacks_are_called(group: WorkerGroup) -> None:
    told = threading.Event()
    group.submit("echo_only", 1).add_done_callback(lambda _: told.set())
    assert told.wait(LONG_S)


def test_a_callback_that_ends_its_thread_ends_no_other_s(group: WorkerGroup, caplog: pytest.LogCaptureFixture) -> None:
    group.submit("nap", 0.1).add_done_callback(lambda _: sys.exit(3))
    check_callbacks_are_called(group)
    eventually(lambda: "a callback tried to end the thread" in caplog.text)
    assert caplog.records[-1].levelno == logging.CRITICAL


@pytest.mark.parametrize("watched", [False, True])
def test_an_exception_that_nothing_can_be_added_to_is_raised_as_it_is(group: WorkerGroup, watched: bool) -> None:
    future = group[0].submit("fail_frozen", 3)
    if watched:
        told = threading.Event()
        future.add_done_callback(lambda _: told.set())
        assert told.wait(LONG_S)
    error = future.exception(LONG_S)
    assert isinstance(error, Frozen)
    assert error.code == 3
    assert "fail_frozen" in str(error.__cause__)
    assert "4" in repr(group.submit("fail_frozen", 4).exception(LONG_S))
    check_callbacks_are_called(group)


def test_an_interruption_while_one_waits_for_another_keeps_no_callback_waiting(group: WorkerGroup) -> None:
    struck = 0
    for n in range(POINTS):
        with group_led_by_another(group) as follower:
            interrupt = Interrupt([Calls.wait, Calls._read], n)
            interrupt.run(follower)
        check_callbacks_are_called(group)
        struck += bool(interrupt.struck)
    assert struck > 5


@contextmanager
def group_led_by_another(group: WorkerGroup) -> Iterator[Callable[[], object]]:
    """Gives a call that waits while another thread reads the answers."""
    future = group[0].submit("nap", 0.02)
    leader = Background(group[0].call, "nap", 0.02)
    eventually(lambda: not group._calls._lead.acquire(False) or group._calls._lead.release())
    yield lambda: future.result(LONG_S)
    leader.result(LONG_S)
    future.result(LONG_S)


def test_futures_whose_answers_cannot_be_read_fail(group: WorkerGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: float) -> None:
        raise OSError(24, "Too many open files")

    told = threading.Event()
    future = group.submit("nap", 0.1)
    monkeypatch.setattr(group._calls, "serve", broken)
    future.add_done_callback(lambda _: told.set())
    assert told.wait(LONG_S)
    monkeypatch.undo()
    with pytest.raises(OSError, match="Too many open files"):
        future.result(LONG_S)
    check_callbacks_are_called(group)


def test_what_is_complete_while_its_group_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerGroup(Model, 1) as group:
        attendant = group._crew._attendant
        monkeypatch.setattr(group._calls, "look", lambda: False)  # so that not the group's own thread reads the answers
        future, other = group[0].submit("echo_only", 1), group[0].submit("echo_only", 2)
        told, there, go_on = threading.Event(), threading.Event(), threading.Event()
        finish = group._calls._finish

        def finish_late(call: Call) -> None:
            if call.future is not future:
                return finish(call)
            # As a callback that comes just then.
            future._done_callbacks.append(lambda _: told.set())  # type: ignore[attr-defined]
            attendant.need()
            call.finish()
            there.set()
            assert go_on.wait(LONG_S)
            return finish(call)

        monkeypatch.setattr(group._calls, "_finish", finish_late)
        leader = Background(other.exception, LONG_S)
        assert there.wait(LONG_S)
        closing = Background(group.close, 0)
        eventually(lambda: attendant._thread is not None and not attendant._thread.is_alive())
        go_on.set()
        closing.result(LONG_S)
        leader.result(LONG_S)
        assert told.wait(LONG_S)

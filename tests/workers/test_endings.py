"""Ends of workers and groups, with what may come between: interruptions, closes, failures of others' code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringcast import MessageQueue, WorkerGroup, _reports
from ringcast.errors import ArgumentError, BusyError, CallTimeoutError, QueueClosedError, WorkerDiedError
from ringcast.workers import _crew, _worker
from ringcast.workers._call import Call
from ringcast.workers._calls import Calls
from ringcast.workers._crew import Crew
from ringcast.workers._echo import Echo
from ringcast.workers._guests import Guest, Guests
from ringcast.workers._keeper import Keeper
from ringcast.workers._records import CALL
from ringcast.workers._rings import Rings
from ringcast.workers._starting import Patience
from ringcast.workers._steps import Steps
from ringcast.workers._worker import Worker
from tests.interrupts import Interrupt
from tests.support import Background, eventually, runs, segments, stop
from tests.workers.objects import LONG_S, Model

# What a stopped worker is doing.


def test_a_worker_that_ends_while_its_stacks_are_asked_for_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerGroup(Model, 1) as group:
        (worker,) = group._crew.workers
        (pid,) = group.pids

        def end_it(_: float) -> None:
            os.kill(pid, signal.SIGKILL)
            assert worker.ended.wait(LONG_S)

        stop(pid)
        monkeypatch.setattr(_worker, "time", SimpleNamespace(monotonic=time.monotonic, sleep=end_it))
        with pytest.raises(CallTimeoutError) as late:
            group.call("rank", deadline=0.1)
        monkeypatch.undo()
        assert late.value.stacks == {0: "(was ended by SIGKILL)"}


def test_who_asks_for_stacks_never_writes_to_what_has_got_the_descriptor_since(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import multiprocessing

    worker = Worker(multiprocessing.get_context("spawn"), 0, prints=False)
    theirs = {number: tmp_path / str(number) for number in (worker._asked, worker._ask, worker._stacks)}
    told = []
    os_close = os.close

    def close(descriptor: int) -> None:
        os_close(descriptor)
        if descriptor in theirs:
            theirs[descriptor].write_text("a user's")
            opened = os.open(theirs[descriptor], os.O_RDWR | os.O_APPEND)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os_close(opened)
            told.append(Background(worker.stacks).result())

    monkeypatch.setattr(os, "close", close)
    assert worker.reap(surely_ended=True)
    monkeypatch.undo()
    assert told == ["(could not be started)"] * 3
    for descriptor, path in theirs.items():
        assert path.read_text() == "a user's"
        os.close(descriptor)


# Interruptions.


class _Group(Guests):
    """One rank, whose answers the test itself sends."""

    def __init__(self, ends: ExitStack) -> None:
        ring: MessageQueue[Any] = ends.enter_context(MessageQueue(1))
        asks: MessageQueue[Any] = ends.enter_context(MessageQueue(1))
        self.answers: MessageQueue[Any] = ends.enter_context(MessageQueue(1))
        super().__init__("of the test", ring, asks, [Guest(0)], None)
        self.calls.rings.add(0, MessageQueue.create_from_handle(self.answers.export_handle(), 0))

    def call(self) -> Call:
        call = Call("step", (0,), True, LONG_S)
        self.calls.send(CALL, call, (), {})
        return call

    def end(self, timeout: float, why: str) -> None:
        self.calls.close(why)
        self._let_go()

    def respawn(self, rank: int, timeout: float | None) -> None:
        raise NotImplementedError


@pytest.fixture
def guests() -> Iterator[Callable[[], _Group]]:
    with ExitStack() as ends:

        def make() -> _Group:
            group = _Group(ends)
            ends.callback(group.end, 0.0, "is over")
            return group

        yield make


def test_a_close_that_is_interrupted_is_made_good_by_the_next(guests: Callable[[], _Group]) -> None:
    n, interrupted = 0, True
    while interrupted:
        calls, call = (group := guests()).calls, group.call()
        parts: list[Callable[..., Any]] = [Calls.close, Calls._finish, Calls.closed_error, Call.fail, Call.finish]
        interrupted = Interrupt(parts, n).run(partial(calls.close, "is closed"))
        calls.close("is closed once more" if calls.closed else "is closed")
        assert calls.wait(call, call.expires)
        with pytest.raises(QueueClosedError, match=r"of the test is closed$"):
            call.outcome()
        n += 1
    assert n > 10


def test_an_interruption_keeps_no_death_from_being_told(guests: Callable[[], _Group]) -> None:
    n, interrupted = 0, True
    while interrupted:
        group = guests()
        call = group.call()
        group.answers.close(0)
        parts: list[Callable[..., Any]] = [Rings._failed, Guests._left, Guests._died, Steps.take]
        interrupted = Interrupt(parts, n).run(partial(group.calls.wait, call, call.expires))
        assert group.calls.wait(call, call.expires)
        with pytest.raises(WorkerDiedError, match="has left"):
            call.outcome()
        with pytest.raises(WorkerDiedError, match="nothing was sent"):
            group.call()
        assert group.worker(0).ended.is_set()
        n += 1
    assert n > 10


def test_an_interruption_keeps_no_worker_alive_that_serves_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Keeper.look

    def interrupted(_: Keeper) -> None:
        monkeypatch.setattr(Keeper, "look", look)
        raise KeyboardInterrupt

    with WorkerGroup(Model, 1) as group:
        monkeypatch.setattr(Keeper, "look", interrupted)
        future = group[0].submit("linger")
        with pytest.raises(KeyboardInterrupt):
            future.result(LONG_S)
        with pytest.raises(WorkerDiedError):
            future.result(LONG_S)


def test_a_start_that_is_interrupted_leaves_nobody_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Worker] = []
    start = Keeper.start

    def interrupted(keeper: Keeper, worker: Worker, birth: Any) -> None:
        asked.append(worker)
        if len(asked) == 2:
            raise KeyboardInterrupt
        start(keeper, worker, birth)

    monkeypatch.setattr(Keeper, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WorkerGroup(Model, 2)
    assert all(worker.ended.is_set() for worker in asked)
    assert segments() == set()


# Failures of what is not the group's.


class _Stream:
    """In the place of sys.stdout."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.text = ""
        self.has_failed = threading.Event()

    def write(self, text: str) -> None:
        if self.error is not None:
            self.has_failed.set()
            raise self.error
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("error", [RuntimeError("the widget is gone"), SystemExit(3)])
def test_a_stream_that_fails_stops_no_output(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    out, err = os.pipe(), os.pipe()
    worker: Any = SimpleNamespace(rank=0, outputs=(out[0], err[0]))
    echo = Echo("Model")
    broken, well = _Stream(error), _Stream(None)
    monkeypatch.setattr(sys, "stdout", broken)
    echo.add(worker)
    os.write(out[1], b"not seen\n")
    assert broken.has_failed.wait(LONG_S)
    monkeypatch.setattr(sys, "stdout", well)
    os.write(out[1], b"seen\n")
    eventually(lambda: well.text.endswith("[Model rank 0] seen\n"))
    for descriptor in (out[1], err[1]):
        os.close(descriptor)
    echo.close()
    assert not echo._thread.is_alive()


def failing(thread: str, error: BaseException, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*arguments: Any) -> Any:
        if threading.current_thread().name == thread:
            raise error
        return otherwise(*arguments)

    return fail


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), SystemExit(3)])
@pytest.mark.parametrize("what", ["look", "doing", "log"])
def test_a_failure_while_a_death_is_told_keeps_none_from_being_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, error: BaseException
) -> None:
    with WorkerGroup(Model, 1) as group:
        if what == "log":
            monkeypatch.setattr(_reports, "worker_died", failing("ringcast-keeper", error, _reports.worker_died))
        else:
            monkeypatch.setattr(group._calls, what, failing("ringcast-keeper", error, getattr(group._calls, what)))
        for _ in range(2):
            with pytest.raises(WorkerDiedError, match="was ended by SIGKILL"):
                group[0].submit("end", "kill").result(LONG_S)
            group.respawn(0)
        assert group.call("rank") == [0]
    told = [record for record in caplog.records if "the group goes on" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno == logging.ERROR


def test_a_failure_while_answers_are_read_keeps_no_group_from_being_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group = WorkerGroup(Model, 1)
    monkeypatch.setattr(group._calls, "look", failing("MainThread", OSError(24, "Too many open files"), bool))
    group.cast("nap", 0.1)
    group.close()
    assert not any(map(runs, group.pids))
    assert sum("the group goes on" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("what", ["_heard", "_look_at", "look"])
@pytest.mark.parametrize("error", [OSError("of Ray's"), SystemExit(3)])
def test_a_failure_while_guests_are_watched_ends_no_watch(
    guests: Callable[[], _Group], monkeypatch: pytest.MonkeyPatch, what: str, error: BaseException
) -> None:
    group = guests()
    failed, heard = threading.Event(), threading.Event()

    def fail(*_: Any) -> None:
        failed.set()
        raise error

    monkeypatch.setattr(group.calls if what == "look" else group, what, fail)
    group._thread.start()
    group._news.put(0)
    assert failed.wait(LONG_S)
    monkeypatch.setattr(group, "_heard", lambda _: heard.set())
    group._news.put(0)
    assert heard.wait(LONG_S)


# Closes.


def closes_in_between(group: WorkerGroup, how: str) -> Callable[[], None]:
    """As a signal handler does, or another thread."""
    if how == "a handler":
        return partial(group.close, LONG_S)
    return lambda: Background(group.close, LONG_S).result()


@pytest.mark.parametrize("how", ["a handler", "another thread"])
@pytest.mark.parametrize("when", ["made", "not ordered", "ordered"])
def test_a_rank_is_not_brought_back_into_a_group_that_is_closed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, how: str, when: str
) -> None:
    group = WorkerGroup(Model, 2)
    close = closes_in_between(group, how)
    make, start = Worker, Keeper.start
    made: list[Worker] = []

    def making(*arguments: Any) -> Worker:
        if when == "made":
            close()
        made.append(make(*arguments))
        return made[0]

    def starting(keeper: Keeper, worker: Worker, birth: Any) -> None:
        if when == "not ordered":
            close()
        start(keeper, worker, birth)
        if when == "ordered":
            close()

    with pytest.raises(WorkerDiedError):
        group.call("end", "kill", 1)
    monkeypatch.setattr(_crew, "Worker", making)
    monkeypatch.setattr(Keeper, "start", starting)
    with pytest.raises(QueueClosedError, match="is closed"):
        group.respawn(1, start_timeout=None)
    assert made[0].ended.is_set()
    assert not any(map(runs, filter(None, group.pids)))
    assert segments() == set()


class MadeLate(Model):
    """The second of a rank says that it is being made, and never is."""

    def __init__(self, first: str, begun: str) -> None:
        super().__init__()
        if os.path.exists(first):
            Path(begun).write_text("")
            time.sleep(600)
        Path(first).write_text("")


def test_a_close_ends_a_rank_s_coming_back(tmp_path: Path) -> None:
    first, begun = tmp_path / "first", tmp_path / "begun"
    group = WorkerGroup(MadeLate, 1, (str(first), str(begun)))
    with pytest.raises(WorkerDiedError):
        group[0].call("end", "kill")
    coming = Background(group.respawn, 0, start_timeout=None)
    eventually(begun.exists)
    group.close(0)
    with pytest.raises(QueueClosedError, match="is closed"):
        coming.result()
    assert not any(map(runs, group.pids))


def test_a_wait_for_a_start_ends_with_what_else_ends_it() -> None:
    def check() -> None:
        raise QueueClosedError("of the test")

    with pytest.raises(QueueClosedError):
        Patience(None, "of the test", check).over([0], "while it is made")


def test_a_rank_is_brought_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerGroup(Model, 2) as group:
        make = Worker

        def meanwhile(*arguments: Any) -> Worker:
            with pytest.raises(BusyError, match="rank 1 is being brought back already"):
                Background(group.respawn, 1).result()
            return make(*arguments)

        with pytest.raises(WorkerDiedError):
            group.call("end", "kill", 1)
        with group._calls._lead, pytest.raises(BusyError, match="in the midst of another call"):
            group.respawn(1)  # as a signal's handler does, while answers are read: the death could not be told
        monkeypatch.setattr(_crew, "Worker", meanwhile)
        group.respawn(1)
        assert group.call("rank") == [0, 1]
        with pytest.raises(ArgumentError, match="has not ended"):
            group.respawn(1)


def test_a_signal_handler_may_close_a_group_wherever_it_comes(capfd: pytest.CaptureFixture[str]) -> None:
    group = WorkerGroup(Model, 1)
    group.call("say", "words")
    crew = group._crew
    assert isinstance(crew, Crew)
    assert crew._echo is not None
    with crew._keeper._bell._lock, crew._echo._bell._lock:  # as if it came while the threads are rung for
        group.close()
        assert not crew._keeper._thread.is_alive()
        assert not crew._echo._thread.is_alive()
    crew._keeper.look()
    assert "[Model rank 0] words\n" in capfd.readouterr().out

"""Waiting: every strategy delivers, no wake-up is lost, long waits are reported, and the environment is obeyed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

import ringcast
from ringcast import Busy, MessageQueue, SpinSleepTimer, SpinTimer, _reports, memory_fence
from ringcast.errors import ArgumentError, QueueClosedError, QueueTimeoutError, WaitCancelledError
from tests.support import FORGIVEN_RESCUES, Background, broadcast, eventually, parked, unique_name

STRATEGIES: dict[str, Any] = {
    "adaptive": "adaptive",
    "spin": "spin",
    "yield": "yield",
    "park": "park",
    "busy": "busy",
    "Busy": Busy(0.0005),
    "SpinTimer": SpinTimer(),
    "SpinSleepTimer": SpinSleepTimer(busy_loop_s=0.001, wait_sleep_s=0.01),
    "SpinSleepTimer that sleeps at once": SpinSleepTimer(busy_loop_s=0, wait_sleep_s=10),
}


@contextmanager
def waiting_by(wait: Any, n_reader: int = 1) -> Iterator[tuple[MessageQueue, list[MessageQueue]]]:
    """A queue all of whose ends wait in this way."""
    with MessageQueue(n_reader, wait=wait) as writer, ExitStack() as stack:
        handle = writer.export_handle()
        yield (
            writer,
            [stack.enter_context(MessageQueue.create_from_handle(handle, rank, wait=wait)) for rank in range(n_reader)],
        )


@pytest.mark.parametrize("wait", STRATEGIES)
def test_every_strategy_delivers_both_ways(wait: str) -> None:
    with MessageQueue(1, max_chunks=2, wait=STRATEGIES[wait]) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0, wait=STRATEGIES[wait])

        def echo() -> list[int]:
            return [reader.dequeue(60) for _ in range(300)]

        receiving = Background(echo)
        for n in range(300):
            writer.enqueue(n, timeout=60)
        assert receiving.result() == list(range(300))
        assert max(end.stats()["rescued_wakes"] for end in (writer, reader)) <= FORGIVEN_RESCUES
        reader.close()


@pytest.mark.parametrize("wait", STRATEGIES)
def test_every_strategy_keeps_its_time_out(wait: str) -> None:
    with MessageQueue(1, max_chunks=1, wait=STRATEGIES[wait]) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0, wait=STRATEGIES[wait])
        started = time.monotonic()
        with pytest.raises(QueueTimeoutError, match=r"waited 0\.060 s"):
            reader.dequeue(timeout=0.06)
        assert time.monotonic() - started >= 0.06
        writer.enqueue(1)
        with pytest.raises(QueueTimeoutError):
            writer.enqueue(2, timeout=0.06)
        reader.close()


@pytest.mark.parametrize("wait", ["adaptive", "park"])
def test_a_sleeping_reader_is_woken_by_each_message(wait: str) -> None:
    with waiting_by(wait, 2) as (writer, readers):
        received: list[list[int]] = [[], []]

        def collect(reader: MessageQueue, into: list[int]) -> None:
            into.extend(reader)

        threads = [Background(collect, reader, into) for reader, into in zip(readers, received, strict=True)]
        for n in range(50):
            parks = [reader.stats()["parks"] for reader in readers]
            eventually(
                lambda p=parks: all(parked(r, k + 1) for r, k in zip(readers, p, strict=True)),  # type: ignore[misc]
                "the readers' sleep",
            )
            writer.enqueue(n)
        writer.close()
        for thread in threads:
            thread.result()
        assert received == [list(range(50))] * 2
        assert max(reader.stats()["rescued_wakes"] for reader in readers) <= FORGIVEN_RESCUES


def test_a_set_cancel_event_ends_the_wait_and_the_queue_works_on() -> None:
    with broadcast() as (writer, (reader,)):
        cancel = threading.Event()
        waiting = Background(reader.dequeue, cancel=cancel)
        eventually(lambda: parked(reader), "the reader's sleep")
        cancel.set()
        with pytest.raises(WaitCancelledError, match="cancelled by its `cancel` event"):
            waiting.result()
        with pytest.raises(WaitCancelledError):
            reader.dequeue_many(5, cancel=cancel)
        writer.enqueue("there already")
        assert reader.dequeue(cancel=cancel) == "there already"


def test_shutdown_from_another_thread_ends_a_sleeping_wait_on_either_side() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        waiting = Background(reader.dequeue)
        eventually(lambda: parked(reader), "the reader's sleep")
        reader.shutdown()
        with pytest.raises(QueueClosedError, match="this end has been shut down"):
            waiting.result()
    with broadcast(max_chunks=1) as (writer, _):
        writer.enqueue(1)
        waiting = Background(writer.enqueue, 2)
        eventually(lambda: parked(writer), "the writer's sleep")
        writer.shutdown()
        with pytest.raises(RuntimeError, match="this end has been shut down"):
            waiting.result()


def test_a_long_wait_of_a_reader_is_logged_with_all_that_matters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.01")
    with MessageQueue(1, name=unique_name()) as writer:
        assert writer.name is not None
        with MessageQueue.attach(writer.name) as reader, caplog.at_level(logging.WARNING, "ringcast"):
            waiting = Background(reader.dequeue)
            eventually(lambda: caplog.records, "the log line")
            writer.enqueue("at last")
            assert waiting.result() == "at last"
            assert reader.stats()["long_waits"] >= 1
    (text, *_) = [record.getMessage() for record in caplog.records]
    for part in (f"queue '{writer.name}' (reader, rank 0, ", f"pid {os.getpid()}", "has waited", "alive"):
        assert part in text
    assert all(record.name == "ringcast.wait" and record.levelno == logging.WARNING for record in caplog.records)


def test_a_long_wait_of_a_writer_names_the_reader_that_lags(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.01")
    with broadcast(2, max_chunks=2) as (writer, (fast, slow)), caplog.at_level(logging.WARNING, "ringcast"):
        writer.enqueue_many([1, 2])
        fast.dequeue_many(2)
        waiting = Background(writer.enqueue, 3)
        eventually(lambda: caplog.records, "the log line")
        assert slow.dequeue() == 1
        waiting.result()
        assert writer.stats()["long_waits"] >= 1
    text = caplog.records[0].getMessage()
    for part in (writer.segment, "(writer, pid", "rank 1", "alive, running", "2 messages behind"):
        assert part in text
    assert "rank 0" not in text
    facts = vars(caplog.records[0])["ringcast"]
    assert (facts["segment"], facts["role"], facts["rank"], facts["pid"]) == (
        writer.segment,
        "writer",
        None,
        os.getpid(),
    )
    assert facts["waited_s"] > 0
    (lagging,) = facts["waiting_for"]
    assert (lagging["rank"], lagging["process"], lagging["behind"]) == (1, "running", 2)


def test_what_is_lost_is_logged_though_another_thread_closes_the_end_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = MessageQueue(1)
    writer.close()
    with caplog.at_level(logging.WARNING, "ringcast"):
        _reports.loss(writer, 0, 77, "left", 5, 3, True)
        _reports.eviction(writer, 0, 77, "slow", 3, 1.0)
        _reports.skipped(writer, 3)
        _reports.chunk_wait(writer, 1.0)
        assert len(caplog.records) == 4
        _reports.long_wait(writer, 1.0)  # waits of an end that is closed are over
        _reports.self_wait(writer, 1.0)
    assert len(caplog.records) == 4
    assert all(vars(record)["ringcast"]["pid"] == os.getpid() for record in caplog.records)


def test_a_wait_that_is_expected_to_be_long_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.01")
    with broadcast() as (_, (reader,)), caplog.at_level(logging.WARNING, "ringcast"):
        with pytest.raises(QueueTimeoutError):
            reader.dequeue(timeout=0.2, indefinite=True)
        with pytest.raises(QueueTimeoutError):
            reader.acquire_read(timeout=0.2, indefinite=True).__enter__()
    assert caplog.records == []


def test_a_short_wait_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with broadcast() as (_, (reader,)), caplog.at_level(logging.WARNING, "ringcast"):
        with pytest.raises(QueueTimeoutError):
            reader.dequeue(timeout=0.2)
    assert caplog.records == []


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1s"])
def test_an_interval_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", text)
    with pytest.raises(ArgumentError, match="RINGCAST_WARNING_INTERVAL is"):
        MessageQueue(1)


@pytest.mark.parametrize("text", ["", "1e300", "inf"])
def test_an_endless_interval_means_never(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", text)
    with MessageQueue(1):
        pass


@pytest.mark.parametrize("strategy", ["adaptive", "busy", "spin", "yield", "park"])
def test_the_environment_chooses_the_strategy(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    monkeypatch.setenv("RINGCAST_WAIT", strategy)
    assert ringcast.waiting.strategy(None) == ringcast.waiting.strategy(strategy)
    with broadcast() as (writer, (reader,)):
        waiting = Background(reader.dequeue, 60)
        if strategy == "park":
            eventually(lambda: parked(reader), "the reader's sleep")
        writer.enqueue(1)
        assert waiting.result() == 1
        if strategy in ("spin", "yield"):
            assert reader.stats()["parks"] == 0


def test_statistics_tell_how_waits_have_ended() -> None:
    with waiting_by("park", 2) as (writer, (sleeper, other)):
        for n in range(50):
            parks = sleeper.stats()["parks"]
            waiting = Background(sleeper.dequeue, 60)
            eventually(lambda p=parks: parked(sleeper, p + 1), "the reader's sleep")  # type: ignore[misc]
            writer.enqueue(n)
            assert waiting.result() == n
            waits = sleeper.stats()["waits"]
            assert waits["brief"] == 0
            assert waits["awake"] + waits["parked"] == n + 1  # awake: the message came before it slept
            if waits["parked"] >= 5:
                break
        assert waits["parked"] >= 5
        assert waits["wakeup_s"] is not None
        assert 0 < waits["wakeup_s"] < 1
        assert other.stats()["waits"] == {
            "brief": 0, "awake": 0, "parked": 0, "parks": 0, "rescued_wakes": 0, "long_waits": 0, "vain_s": 0.0,
            "wakeup_s": None, "penalties": 0,
        }  # fmt: skip


def test_statistics_tell_of_waits_that_ended_awake() -> None:
    with waiting_by("yield") as (writer, (reader,)):
        waiting = Background(reader.dequeue, 60)
        eventually(lambda: reader.stats()["waiting_s"] > 0, "the wait")
        writer.enqueue(1)
        assert waiting.result() == 1
        waits = reader.stats()["waits"]
        assert (waits["awake"], waits["parked"], waits["wakeup_s"]) == (1, 0, None)


def test_what_was_awake_in_vain_is_told_whether_it_parked_or_timed_out() -> None:
    with waiting_by(Busy(0.001)) as (_, (reader,)):

        def waits_after(timeout: float) -> Any:
            with pytest.raises(QueueTimeoutError):
                reader.dequeue(timeout)
            waits = reader.stats()["waits"]
            assert (waits["brief"], waits["awake"], waits["parked"]) == (0, 0, 0)
            return waits

        def is_told(timeout: float, before: Any) -> bool:  # where others have the CPU it may be away all the time
            waits = waits_after(timeout)
            return bool(waits["vain_s"] > before["vain_s"] or waits["penalties"])

        for timeout in (0.0005, 0.05):
            eventually(partial(is_told, timeout, reader.stats()["waits"]), "what was in vain")
        eventually(lambda: waits_after(0.05)["parks"] >= 1, "a sleep")


def test_busy_is_a_window_in_which_an_end_is_awake() -> None:
    assert ringcast.waiting.strategy("busy") == ringcast.waiting.strategy(Busy())
    assert ringcast.waiting.strategy(Busy(0)) == ringcast.waiting.strategy("adaptive")
    assert (Busy(0.5).window, repr(Busy())) == (0.5, "Busy(0.002)")


@pytest.mark.parametrize("window", [-1, 61, float("nan"), float("inf"), "2 ms", None, True, b"1"])
def test_a_window_that_is_no_time_is_refused(window: Any) -> None:
    with pytest.raises(ArgumentError, match="window"):
        Busy(window)


def test_a_wait_can_be_roused_to_look_at_what_its_caller_changes() -> None:
    class Cancel:
        wanted = False

        def is_set(self) -> bool:
            return self.wanted

    cancel = Cancel()
    with waiting_by("park") as (_, (reader,)):
        waiting = Background(reader.dequeue, cancel=cancel)
        eventually(lambda: parked(reader), "the sleep")

        def roused() -> bool:
            reader._rouse()
            return reader.stats()["waits"]["wakeup_s"] is not None  # no time-out ended a sleep

        eventually(roused, "a wake-up")
        parks = reader.stats()["parks"]
        eventually(lambda: parked(reader, parks + 1), "the next sleep: nothing had changed")
        cancel.wanted = True
        reader._rouse()
        with pytest.raises(WaitCancelledError):
            waiting.result()


def test_an_unknown_strategy_in_the_environment_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_WAIT", "fast")
    with pytest.raises(ArgumentError, match="environment variable RINGCAST_WAIT is 'fast'"):
        MessageQueue(1)
    with MessageQueue(1, wait="park"):  # an argument goes before the environment
        pass


def test_the_timers_work_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", calls.append)
    monkeypatch.setattr(os, "sched_yield", lambda: calls.append("yield"))
    SpinTimer().record_activity()
    SpinTimer().spin()
    timer = SpinSleepTimer(busy_loop_s=3.0, wait_sleep_s=0.1)
    timer.spin()
    now[0] += 2.9
    timer.spin()
    now[0] += 0.2
    timer.spin()
    timer.record_activity()
    timer.spin()
    assert calls == ["yield", "yield", "yield", 0.1, "yield"]


def test_the_timer_s_defaults_are_those_of_the_reference() -> None:
    timer = SpinSleepTimer()
    assert (timer.busy_loop_s, timer.wait_sleep_s) == (3.0, 0.1)


def test_the_memory_fence_is_callable() -> None:
    assert memory_fence() is None  # type: ignore[func-returns-value]

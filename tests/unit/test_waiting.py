"""Waiting: every strategy delivers, no wake-up is lost, long waits are reported, and the environment is obeyed."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import pytest

import ringcast
from ringcast import MessageQueue, SpinSleepTimer, SpinTimer, memory_fence
from ringcast.errors import ArgumentError, QueueClosedError, QueueTimeoutError, WaitCancelledError
from tests.support import Background, broadcast, eventually, parked, unique_name

STRATEGIES: dict[str, Any] = {
    "adaptive": "adaptive",
    "spin": "spin",
    "yield": "yield",
    "park": "park",
    "SpinTimer": SpinTimer(),
    "SpinSleepTimer": SpinSleepTimer(busy_loop_s=0.001, wait_sleep_s=0.01),
    "SpinSleepTimer that sleeps at once": SpinSleepTimer(busy_loop_s=0, wait_sleep_s=10),
}


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
        assert writer.stats()["rescued_wakes"] == reader.stats()["rescued_wakes"] == 0
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
    with broadcast(2, wait=wait) as (writer, readers):
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
        assert [reader.stats()["rescued_wakes"] for reader in readers] == [0, 0]


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
            with pytest.raises(QueueTimeoutError):
                reader.dequeue(timeout=0.2)
            assert reader.stats()["long_waits"] >= 1
    (text, *_) = [record.getMessage() for record in caplog.records]
    for part in (f"queue '{writer.name}' (reader, rank 0, ", f"pid {os.getpid()}", "has waited", "alive"):
        assert part in text
    assert all(record.name == "ringcast" and record.levelno == logging.WARNING for record in caplog.records)


def test_a_long_wait_of_a_writer_names_the_reader_that_lags(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.01")
    with broadcast(2, max_chunks=2) as (writer, (fast, _)), caplog.at_level(logging.WARNING, "ringcast"):
        writer.enqueue_many([1, 2])
        fast.dequeue_many(2)
        with pytest.raises(QueueTimeoutError):
            writer.enqueue(3, timeout=0.2)
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


@pytest.mark.parametrize("strategy", ["adaptive", "spin", "yield", "park"])
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

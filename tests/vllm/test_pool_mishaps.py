"""Whatever is raised in an engine's threads for the pool: what they were to do is told as over, and they go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ringcast import errors
from ringcast.pool import KVLayout, PoolClient, PoolEvent, PoolServer
from ringcast.vllm import _pool_events
from ringcast.vllm._copying import Copying
from ringcast.vllm._plans import Load, Plan, Store
from ringcast.vllm._pool_events import Announcements, Removed, Stored
from ringcast.vllm._pool_settings import Settings
from tests.mishaps import MISHAPS, no_threads
from tests.support import DEADLINE_S, eventually, unique_name
from tests.vllm.toy import CHUNK, Toy, ToyRequest

SETTINGS = Settings.of({"pool": "no-such-pool", "retry": 0.0})
BLOCKS = [Stored(bytes([i]), None, [i]) for i in range(2)]


def of_another_release() -> BaseException:
    return errors.SegmentMismatchError("of another release")


@pytest.mark.parametrize("kind", [*MISHAPS, of_another_release])
def test_blocks_are_told_as_gone_whatever_ends_their_events_and_the_next_ones_are_heard(
    kind: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = [threading.Event(), threading.Event()]
    looks = iter(range(2))

    def watch(_: str) -> Iterator[list[PoolEvent]]:
        look = next(looks, None)
        if look is not None:
            assert go_on[look].wait(DEADLINE_S)
            if look == 0:
                raise kind()
            yield [PoolEvent(0, "resync")]

    monkeypatch.setattr(_pool_events, "watch", watch)
    announcements = Announcements(SETTINGS)
    for i, block in enumerate(BLOCKS):
        announcements.stored(str(i).encode(), block, 0, lambda: True)
        assert announcements.take() == [block]
        go_on[i].set()
        eventually(lambda: announcements.waiting, "that it has gone")
        assert announcements.take() == [Removed(block.hash)]
    announcements.close()
    assert f"the pool's events could not be read: {type(kind()).__name__}" in caplog.text


def test_a_block_of_which_a_tier_lost_its_copy_is_still_there() -> None:
    announcements = Announcements(SETTINGS)
    announcements.stored(b"key", BLOCKS[0], 0, lambda: True)
    announcements._saw([PoolEvent(1, "removed", b"key", medium="FileTier")])
    assert announcements.take() == [BLOCKS[0]]
    announcements._saw([PoolEvent(2, "removed", b"key")])
    assert announcements.take() == [Removed(BLOCKS[0].hash)]
    announcements.close()


def copying(fence: Callable[[], Callable[[], object]] | None = None) -> Copying:
    caches = [np.zeros((8, 64), np.uint8)]
    return Copying(SETTINGS, KVLayout.pages([(cache, 64) for cache in caches]), 0, fence)


def plan(number: int) -> Plan:
    return Plan([Load(f"request {number}", b"", [1, 2])], [Store(number, b"", [3])])


def told_as_failed(worker: Copying, number: int) -> None:
    """All of a plan is told once, and nothing of it has been done."""
    received: set[str] = set()
    not_stored: dict[int, int] = {}

    def all_told() -> bool:
        received.update(worker.take_received())
        report = worker.take_report()
        not_stored.update(report.not_stored)
        assert not report.stored
        return bool(received and not_stored)

    eventually(all_told, "what became of the plan")
    assert received == {f"request {number}"}
    assert not_stored == {number: 1}
    assert worker.take_failed_blocks() == {1, 2}


@pytest.mark.parametrize("kind", MISHAPS)
def test_what_a_device_raises_fails_a_step_s_copies_and_no_others(
    kind: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fence() -> Callable[[], object]:
        def wait() -> None:
            raise kind()

        return wait

    worker = copying(fence)
    for number in range(4):  # more than there are threads
        worker.begin(plan(number))
        told_as_failed(worker, number)
    worker.close()
    assert f"blocks of request request 0 were not loaded: {type(kind()).__name__}" in caplog.text
    assert f"1 blocks were not stored: {type(kind()).__name__}" in caplog.text


def test_copies_that_no_thread_can_be_had_for_are_told_as_failed_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = copying()
    with no_threads(monkeypatch):
        worker.begin(plan(0))
    told_as_failed(worker, 0)
    worker.begin(plan(1))
    told_as_failed(worker, 1)
    worker.close()
    assert not worker.take_received()
    worker.begin(plan(2))
    told_as_failed(worker, 2)


@pytest.mark.parametrize("kind", MISHAPS)
def test_a_store_that_comes_to_nothing_holds_up_no_step_and_no_other_store(
    kind: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(*_: Any) -> Any:
        raise kind()

    with PoolServer(unique_name("v"), 64 * (CHUNK + 4096), entries=64) as pool, Toy(pool.name) as engine:
        for number, call in enumerate(["prepare_store", "commit_store"]):
            with monkeypatch.context() as patch:
                patch.setattr(PoolClient, call, raises)
                engine.run(ToyRequest("a", [number] * 12))
        assert engine.counted().get("blocks_stored", 0) == 0
        engine.run(ToyRequest("b", [7] * 12))
        assert engine.counted()["blocks_stored"] == 3
        assert not engine.held
    assert caplog.text.count(f"a store has come to nothing: {type(kind()).__name__}") == 2

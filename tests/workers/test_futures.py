"""Calls that nobody waits for at once: futures, event loops, deadlines, cancellation, and very many of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from typing import Any

import pytest

from ringcast import WorkerGroup
from ringcast.errors import ArgumentError, CallTimeoutError, EncodeError
from tests.support import committed_bytes, eventually
from tests.workers.objects import LONG_S, Gate, late_at_a_gate


def test_a_future_has_what_a_call_would_return(group: WorkerGroup) -> None:
    assert group.submit("echo", 1).result(LONG_S) == [1, 1]
    assert group[1].submit("echo", 1).result(LONG_S) == 1
    assert isinstance(group.submit("fail").exception(LONG_S), KeyError)
    with pytest.raises(EncodeError):
        group.submit("echo", threading.Lock())


def test_futures_are_done_also_when_nobody_asks_for_them(group: WorkerGroup) -> None:
    futures = [group.submit("echo", number) for number in range(20)]
    done, _ = concurrent.futures.wait(futures, LONG_S)
    assert done == set(futures)
    assert [future.result(0) for future in futures] == [[number] * 2 for number in range(20)]


def test_a_callback_runs_once_and_may_call_the_group(group: WorkerGroup, gate: Gate) -> None:
    called: list[Any] = []
    told = threading.Event()

    def callback(future: Any) -> None:
        called.append((future.result(), group.call("echo", 2), group[1].submit("echo", 3).result(LONG_S)))
        told.set()

    future = group.submit("wait_at", gate.path, 1)
    future.add_done_callback(callback)
    gate.open()
    assert told.wait(LONG_S)
    assert called == [([1, 1], [2, 2], 3)]
    future.add_done_callback(callback)  # of one that is done: at once
    assert len(called) == 2


def test_a_callback_that_never_returns_keeps_nobody_from_calling(group: WorkerGroup, gate: Gate) -> None:
    leave = threading.Event()
    inside = threading.Event()

    def callback(_: Any) -> None:
        inside.set()
        leave.wait(LONG_S)

    group.submit("wait_at", gate.path).add_done_callback(callback)  # of one that is done it would run here
    gate.open()
    try:
        assert inside.wait(LONG_S)
        assert group.call("echo", 2) == [2, 2]
        assert group.submit("echo", 3).result(LONG_S) == [3, 3]
    finally:
        leave.set()


def test_a_result_that_is_not_there_in_time_can_be_asked_for_again(group: WorkerGroup, gate: Gate) -> None:
    future = group[0].submit("wait_at", gate.path, "waited")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    assert not future.done()
    gate.open()
    assert future.result(LONG_S) == "waited"


def test_tasks_await_futures(group: WorkerGroup) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(awaited(number) for number in range(100)))

    async def awaited(number: int) -> Any:
        return await group.submit("echo", number)

    assert asyncio.run(main()) == [[number] * 2 for number in range(100)]


@pytest.mark.usefixtures("whole_stacks")
def test_a_missed_deadline_says_who_is_late_and_what_it_does(group: WorkerGroup) -> None:
    deadlines: list[float] = []

    def ask(gate: str, deadline: float) -> None:
        deadlines.append(deadline)
        group.call("wait_at", gate, ranks=[1], deadline=deadline)

    late = late_at_a_gate(ask, 1)
    assert f"rank 1 has not answered within {deadlines[-1]:.3f} s" in str(late)
    assert late.ranks == (1,)
    assert "objects.py" in late.stacks[1]
    assert "in wait_at" in late.stacks[1]
    with pytest.raises(ArgumentError):
        group.call("rank", deadline=-1)


@pytest.mark.usefixtures("whole_stacks")
def test_a_stack_is_written_also_where_the_interpreter_s_lock_is_held(group: WorkerGroup) -> None:
    late = late_at_a_gate(lambda gate, deadline: group.call("hold_the_lock_at", gate, ranks=[0], deadline=deadline), 0)
    assert "in hold_the_lock_at" in late.stacks[0]


def test_a_future_s_deadline_passes_also_when_nobody_asks_for_it(group: WorkerGroup, gate: Gate) -> None:
    future = group[0].submit("wait_at", gate.path, deadline=0.2)
    done, _ = concurrent.futures.wait([future], LONG_S)
    assert done
    with pytest.raises(CallTimeoutError):
        future.result(0)


def test_what_was_given_up_before_it_began_never_begins(group: WorkerGroup, gate: Gate) -> None:
    busy = group.submit("wait_at", gate.path)
    cancelled = group.submit("echo", "cancelled")
    with pytest.raises(CallTimeoutError, match=r"has not begun: call \d+, 'wait_at' is before it"):
        group.call("echo", "expired", deadline=0.1)
    assert cancelled.cancel()
    gate.open()
    assert cancelled.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result(LONG_S)
    assert busy.result(LONG_S) == [None, None]
    assert not busy.cancel()
    for seen in group.call("seen"):
        assert "cancelled" not in seen
        assert "expired" not in seen


def test_a_task_that_is_cancelled_cancels_its_call(group: WorkerGroup, gate: Gate) -> None:
    async def main() -> None:
        busy = group.submit("wait_at", gate.path)
        task = asyncio.ensure_future(_awaited(group, "of a cancelled task"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await busy

    asyncio.run(main())
    assert all("of a cancelled task" not in seen for seen in group.call("seen"))


async def _awaited(group: WorkerGroup, value: Any) -> Any:
    return await group.submit("echo", value)


def test_an_interrupted_call_leaves_the_group_as_it_was(group: WorkerGroup) -> None:
    main = threading.main_thread().ident
    assert main is not None
    for round_ in range(5):
        timer = threading.Timer(0.05 + 0.02 * round_, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _call_for_ever(group, timer)
        timer.join()
        assert group.call("echo", round_) == [round_, round_]


def _call_for_ever(group: WorkerGroup, timer: threading.Timer) -> None:
    timer.start()  # here, because it may be sooner than anything else
    while True:
        group.call("nap", 0.01)


def _interrupt() -> None:
    import signal

    signal.raise_signal(signal.SIGINT)


def test_a_thousand_calls_at_once_whose_answers_are_larger_than_the_rings(group: WorkerGroup) -> None:
    futures = [group.submit("blob", 1 << 20) for _ in range(1000)]  # of 1 MiB, in rings of 64 messages
    assert all([len(one) for one in future.result(LONG_S)] == [1 << 20] * 2 for future in futures)


def test_calls_larger_than_the_rings_pass_their_answers(group: WorkerGroup) -> None:
    blob = bytes(1 << 20)
    futures = [group.submit("echo_only", blob) for _ in range(300)]
    assert all(future.result(LONG_S) == [blob, blob] for future in futures)


def test_memory_of_answers_that_nobody_took_comes_back(group: WorkerGroup) -> None:
    np = pytest.importorskip("numpy")
    for _ in range(3):
        with Gate() as gate, pytest.raises(CallTimeoutError):
            group[0].call("array_behind", gate.path, 1 << 22, deadline=0.1)
    ring = group._calls.rings.of(0)
    memory = ring._segment
    assert memory is not None
    eventually(lambda: not group._calls.under_way, "the late answers")
    gc.collect()
    eventually(lambda: memory.block_bytes_in_use < 1 << 22, "the memory")
    kept = group[0].call("array", 1 << 20)
    assert np.all(kept == 1)
    assert committed_bytes(ring.segment) > 0

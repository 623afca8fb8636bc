"""Arguments that make no sense are refused before anything is made, sent or waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue, ShmRingBuffer, SpinSleepTimer
from ringcast.errors import ArgumentError, ArgumentTypeError, QueueTimeoutError, RoleError, SegmentNotFoundError
from tests.support import broadcast, segments

NOT_SIZES = [0, -1, True, False, 1.0, "4", None, 1 << 64, 1 << 70, -(1 << 70), float("nan")]
NOT_TIMES: list[tuple[Any, type[Exception]]] = [
    (-1, ArgumentError),
    (-0.001, ArgumentError),
    (float("nan"), ArgumentError),
    (float("-inf"), ArgumentError),
    ("1", TypeError),
    ([1], TypeError),
    (1j, TypeError),
]


@pytest.mark.parametrize("size", NOT_SIZES, ids=repr)
@pytest.mark.parametrize("argument", ["n_reader", "max_chunk_bytes", "max_chunks"])
def test_a_size_that_makes_no_sense_is_refused_and_leaves_nothing(argument: str, size: Any) -> None:
    before = segments()
    sizes: dict[str, Any] = {"n_reader": 1, argument: size}
    if (argument, size) != ("max_chunk_bytes", None):  # its default
        with pytest.raises(ArgumentError, match=argument):
            MessageQueue(**sizes)
    ring: dict[str, Any] = {"n_reader": 1, "max_chunk_bytes": 100, "max_chunks": 4, argument: size}
    with pytest.raises(ArgumentError, match=argument):
        ShmRingBuffer(**ring)
    assert segments() == before


def test_the_default_size_of_a_chunk_gives_way_to_max_bytes_and_one_that_was_asked_for_does_not() -> None:
    with MessageQueue(1, max_bytes=8 << 20) as queue:
        memory = queue.stats()["memory"]
        assert queue.stats()["max_chunk_bytes"] == memory["data_budget"] == (8 << 20) - memory["control"]
    with MessageQueue(1) as queue:
        assert queue.stats()["max_chunk_bytes"] == 24 << 20
    with pytest.raises(ArgumentError, match="max_bytes"):
        MessageQueue(1, max_chunk_bytes=24 << 20, max_bytes=8 << 20)


@pytest.mark.parametrize(
    ("argument", "size"), [("n_reader", 4097), ("max_chunks", (1 << 24) + 1), ("max_chunk_bytes", (1 << 40) + 1)]
)
def test_a_size_beyond_reason_is_refused_and_the_limit_is_named(argument: str, size: int) -> None:
    sizes: dict[str, Any] = {"n_reader": 1, argument: size}
    with pytest.raises(ArgumentError, match=f"{argument} must be from 1 to {size - 1}, not {size}"):
        MessageQueue(**sizes)


@pytest.mark.parametrize("budget", [-1, True, 1.5, "1", 1, 1 << 14, 1 << 60], ids=repr)
def test_a_budget_that_cannot_hold_one_message_is_refused(budget: Any) -> None:
    with pytest.raises(ArgumentError, match="max_bytes"):
        MessageQueue(1, max_bytes=budget)


def test_numpy_integers_are_sizes_too() -> None:
    with MessageQueue(np.int64(1), max_chunk_bytes=np.uint32(5000), max_chunks=np.int8(3)) as queue:  # type: ignore[arg-type]
        assert queue.stats()["max_chunk_bytes"] == 5000


@pytest.mark.parametrize("ranks", [[0], [0, 1, 2], [1, 1], [0, -1], [0, True], [0, 1 << 31], [0, "1"]], ids=repr)
def test_ranks_must_be_as_many_as_readers_and_different(ranks: list[Any]) -> None:
    with pytest.raises(ArgumentError, match="rank"):
        MessageQueue(2, local_reader_ranks=ranks)


def test_more_local_readers_than_readers_are_refused() -> None:
    with pytest.raises(ArgumentError, match="n_local_reader=3 is more than n_reader=2"):
        MessageQueue(2, 3)


def test_a_machine_that_may_be_out_of_reach_for_ever_is_refused() -> None:
    with pytest.raises(ArgumentError, match="link_timeout must be finite"):
        MessageQueue(2, 1, connect_ip="127.0.0.1", link_timeout=float("inf"))
    with pytest.raises(ArgumentTypeError, match="encrypt"):
        MessageQueue(2, 1, connect_ip="127.0.0.1", encrypt="no")  # type: ignore[arg-type]


def test_an_address_for_remote_readers_means_nothing_where_all_are_local() -> None:
    """Engines always give one, positionally, and read the handle's fields by these names."""
    with MessageQueue(2, 2, None, 1 << 20, 10, "127.0.0.1") as queue:
        handle = queue.export_handle()
        assert handle.buffer_handle == (2, 1 << 20, 10, queue.segment)
        assert (handle.local_reader_ranks, handle.remote_subscribe_addr) == ((0, 1), None)
        readers = [MessageQueue.create_from_handle(handle, rank) for rank in range(2)]
        queue.enqueue(1)
        assert [reader.dequeue() for reader in readers] == [1, 1]
    with pytest.raises(ArgumentTypeError, match="connect_ip must be an IP address as text, or None, not 7"):
        MessageQueue(2, connect_ip=7)  # type: ignore[arg-type]


CALLS: dict[str, Callable[[MessageQueue, MessageQueue, Any], Any]] = {
    "enqueue": lambda w, _, t: w.enqueue(b"", t),
    "enqueue_object": lambda w, _, t: w.enqueue({}, timeout=t),
    "enqueue_many": lambda w, _, t: w.enqueue_many([b""], timeout=t),
    "dequeue": lambda _, r, t: r.dequeue(t),
    "dequeue_many": lambda _, r, t: r.dequeue_many(3, timeout=t),
    "acquire_write": lambda w, _, t: w.acquire_write(t).__enter__(),
    "acquire_read": lambda _, r, t: r.acquire_read(t).__enter__(),
    "writer's wait_until_ready": lambda w, _, t: w.wait_until_ready(t),
    "reader's wait_until_ready": lambda _, r, t: r.wait_until_ready(t),
}


@pytest.mark.parametrize(("timeout", "error"), NOT_TIMES, ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_a_time_out_that_is_no_time_is_refused(call: str, timeout: Any, error: type[Exception]) -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(error, match="timeout must be"):
            CALLS[call](writer, reader, timeout)
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"


@pytest.mark.parametrize("timeout", [float("nan"), -1, "1"], ids=repr)
def test_attaching_with_a_time_out_that_is_no_time_is_refused(timeout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = iter(range(20))
    monkeypatch.setattr(time, "sleep", lambda _: next(naps))  # StopIteration ends a wait without end
    with pytest.raises((ArgumentError, TypeError, SegmentNotFoundError)):
        MessageQueue.attach("nobody-has-this", timeout=timeout)


@pytest.mark.parametrize("linger", [float("nan"), -1, "1"], ids=repr)
def test_a_linger_that_is_no_time_is_refused_and_the_queue_can_still_be_closed(linger: Any) -> None:
    queue = MessageQueue(1)
    queue.enqueue(b"for a reader that never comes")
    with pytest.raises((ArgumentError, TypeError)):
        queue.close(linger)
    with pytest.raises(QueueTimeoutError) if not queue.closed else _nothing():
        queue.close(0)


class _nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def test_a_time_out_of_zero_never_waits_but_takes_what_is_there() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        with pytest.raises(QueueTimeoutError, match=r"waited 0\.000 s for a message"):
            reader.dequeue(timeout=0)
        writer.enqueue("there", timeout=0)
        with pytest.raises(QueueTimeoutError, match=r"rank 0 .*messages unread: 1"):
            writer.enqueue("no room", timeout=0)
        assert not writer.try_enqueue("no room")
        assert reader.dequeue(timeout=0) == "there"
        assert reader.try_dequeue() is None
        assert reader.try_dequeue("nothing") == "nothing"


def test_an_endless_time_out_is_no_time_out() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(1, timeout=float("inf"))
        assert reader.dequeue(timeout=float("inf")) == 1


@pytest.mark.parametrize("wait", ["fast", "", 3, object()], ids=["fast", "empty", "int", "object"])
def test_an_unknown_strategy_is_refused_and_leaves_nothing(wait: Any) -> None:
    with pytest.raises(ArgumentError, match="it must be one of adaptive, spin, yield, park"):
        MessageQueue(1, wait=wait)


@pytest.mark.parametrize("times", [(-1, 0.1), (0, 0), (0, -1), (float("nan"), 1), (1, float("nan"))], ids=repr)
def test_a_timer_with_times_that_make_no_sense_is_refused(times: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="SpinSleepTimer needs"):
        SpinSleepTimer(*times)


@pytest.mark.parametrize("times", [(float("inf"), 0.1), (0.0, float("inf")), (1e300, 1e300)], ids=repr)
def test_a_timer_may_have_endless_times(times: tuple[float, float]) -> None:
    with MessageQueue(1, wait=SpinSleepTimer(*times)):
        pass


@pytest.mark.parametrize("count", [0, -1, "2", 1.0, None], ids=repr)
def test_a_count_of_messages_must_be_a_positive_int(count: Any) -> None:
    with broadcast() as (_, (reader,)):
        with pytest.raises((ArgumentError, TypeError), match="max_n must be"):
            reader.dequeue_many(count)


def test_only_the_writer_sends_and_only_readers_receive() -> None:
    with broadcast() as (writer, (reader,)):
        for call in (writer.dequeue, writer.try_dequeue, writer.acquire_read().__enter__, lambda: next(writer)):
            with pytest.raises(RoleError, match="is for readers; this is the writer's end"):
                call()
        with pytest.raises(RoleError):
            writer.dequeue_many(1)
        for refused in (reader.enqueue, reader.try_enqueue, reader.evict):
            with pytest.raises(RoleError, match="is for the writer; this is a reader's end"):
                refused(0)
        with pytest.raises(RoleError):
            reader.enqueue_many([])
        with pytest.raises(RoleError):
            reader.acquire_write().__enter__()


def test_wrong_calls_are_type_errors_like_those_of_python_functions() -> None:
    with broadcast() as (writer, (reader,)):
        wrong_calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
            (writer.enqueue, (), {}),
            (writer.enqueue, (1, 2, 3), {}),
            (writer.enqueue, (1,), {"obj": 2}),
            (writer.enqueue, (1,), {"time": 2}),
            (reader.dequeue, (1, None, False, 4), {}),
            (reader.dequeue, (1,), {"timeout": 2}),
        ]
        for method, arguments, named in wrong_calls:
            with pytest.raises(TypeError, match=r"queue\(\)"):
                method(*arguments, **named)
        assert reader.qsize() == 0


def test_keyword_arguments_work_in_any_order() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(timeout=5, obj=b"x")
        assert reader.dequeue(indefinite=True, cancel=None, timeout=5) == b"x"


def test_an_end_that_was_never_opened_says_so() -> None:
    with pytest.raises(RuntimeError, match="was not initialised"):
        MessageQueue.__new__(MessageQueue).enqueue(b"")

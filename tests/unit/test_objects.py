"""Objects: what goes in comes out; what cannot be sent or rebuilt is an error of its own and the queue works on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringcast import MessageQueue
from ringcast.errors import DecodeError, EncodeError, MessageTooLargeError, QueueTimeoutError
from tests.support import broadcast

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=3000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


class FailsToRebuild:
    def __init__(self, text: str = "no") -> None:
        self.text = text

    def __setstate__(self, state: Any) -> None:
        raise ValueError("cannot be rebuilt")


class FailsToReduce:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("cannot be taken apart")


class InterruptsRebuilding:
    def __reduce__(self) -> Any:
        return (_interrupt, ())


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[MessageQueue, MessageQueue]]:
    with broadcast() as (writer, (reader,)):
        yield writer, reader


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_what_goes_in_comes_out(pair: tuple[MessageQueue, MessageQueue], value: Any) -> None:
    writer, reader = pair
    writer.enqueue(value)
    assert reader.dequeue(10) == value


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1119, 1120, 1121, 4096, 65535, 65536, 1 << 20, 24 << 20])
def test_bytes_of_any_size_arrive_whole(pair: tuple[MessageQueue, MessageQueue], size: int) -> None:
    writer, reader = pair
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    writer.enqueue(message)
    received = reader.dequeue(10)
    assert type(received) is bytes
    assert received == message


def test_a_subclass_of_bytes_keeps_its_type(pair: tuple[MessageQueue, MessageQueue]) -> None:
    writer, reader = pair
    writer.enqueue(np.bytes_(b"abc"))
    assert type(reader.dequeue(10)) is np.bytes_


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (200, 50, 3)], ids=repr)
def test_arrays_arrive_aligned_and_read_only(pair: tuple[MessageQueue, MessageQueue], shape: tuple[int, ...]) -> None:
    writer, reader = pair
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    writer.enqueue({"a": array, "step": 3, "b": array.T})
    received = reader.dequeue(10)
    np.testing.assert_array_equal(received["a"], array)
    np.testing.assert_array_equal(received["b"], array.T)
    if array.size:
        assert not received["a"].flags.writeable
    assert received["a"].ctypes.data % array.itemsize == 0


def test_a_received_array_is_the_reader_s_own_and_outlives_the_queue() -> None:
    with broadcast(max_chunks=2) as (writer, (reader,)):
        writer.enqueue(np.full(10_000, 1))
        kept = reader.dequeue(10)
        for _ in range(5):
            writer.enqueue(np.full(10_000, 2))
            reader.dequeue(10)
    assert (kept == 1).all()


def test_an_array_changed_after_it_was_sent_arrives_as_it_was_sent(pair: tuple[MessageQueue, MessageQueue]) -> None:
    writer, reader = pair
    array = np.zeros(100_000)
    writer.enqueue(array)
    array[:] = 9
    assert not reader.dequeue(10).any()


@pytest.mark.parametrize("bad", [threading.Lock(), FailsToReduce()], ids=["lock", "reduce"])
def test_an_object_that_cannot_be_pickled_is_refused_and_the_queue_works_on(bad: Any) -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(EncodeError, match="cannot be pickled") as caught:
            writer.enqueue(bad)
        assert caught.value.__cause__ is not None
        assert type(bad).__qualname__ in str(caught.value)
        with pytest.raises(EncodeError):
            writer.try_enqueue([bad])
        assert reader.qsize() == 0
        writer.enqueue("next")
        assert reader.dequeue(10) == "next"


def test_a_message_that_is_too_large_is_refused_and_the_queue_works_on() -> None:
    with broadcast(max_chunk_bytes=10_000, max_bytes=400_000) as (writer, (reader,)):
        budget = writer.stats()["memory"]["data_budget"]
        for message in (b"x" * (budget + 1), "y" * (budget + 1), np.zeros(budget, np.uint8)):
            with pytest.raises(MessageTooLargeError, match=f"may take only {budget} for all .* raise max_bytes"):
                writer.enqueue(message)
            with pytest.raises(MessageTooLargeError):
                writer.try_enqueue(message)
        assert reader.qsize() == 0
        assert writer.stats()["memory"]["blocks"] == 0
        writer.enqueue(b"x" * budget)
        assert len(reader.dequeue(10)) == budget


def test_a_message_that_cannot_be_rebuilt_is_consumed_and_the_queue_works_on() -> None:
    with broadcast(2) as (writer, readers):
        writer.enqueue(FailsToRebuild())
        writer.enqueue("next")
        for reader in readers:
            with pytest.raises(DecodeError, match="cannot be rebuilt") as caught:
                reader.dequeue(10)
            assert isinstance(caught.value.__cause__, ValueError)
            assert reader.dequeue(10) == "next"


def test_a_bad_message_in_a_batch_comes_after_those_before_it_and_before_those_behind() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([1, b"two", FailsToRebuild(), 4, b"five"])
        assert reader.dequeue_many(10) == [1, b"two"]
        with pytest.raises(DecodeError):
            reader.dequeue_many(10)
        assert reader.dequeue_many(10) == [4, b"five"]


def test_an_interrupt_during_rebuilding_is_not_lost_in_a_batch() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([1, InterruptsRebuilding(), 3])
        with pytest.raises(KeyboardInterrupt):
            reader.dequeue_many(10)


def test_a_batch_of_at_most_n_takes_no_more_and_waits_for_none() -> None:
    with broadcast(max_chunks=20) as (writer, (reader,)):
        assert writer.enqueue_many(range(10)) == 10
        assert reader.dequeue_many(1) == [0]
        assert reader.dequeue_many(4, timeout=0) == [1, 2, 3, 4]
        assert reader.dequeue_many(max_n=100) == [5, 6, 7, 8, 9]
        with pytest.raises(QueueTimeoutError):
            reader.dequeue_many(1, timeout=0)


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_many_messages_arrive_in_order_however_they_are_given(kind: Any) -> None:
    with broadcast(max_chunks=100) as (writer, (reader,)):
        assert writer.enqueue_many(kind([b"%d" % n for n in range(50)])) == 50
        assert writer.enqueue_many(kind([])) == 0
        assert reader.dequeue_many(100) == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "iterator"])
def test_many_messages_with_a_bad_one_tell_how_many_were_sent(kind: Any) -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(EncodeError) as caught:
            writer.enqueue_many(kind([b"one", 2, FailsToReduce(), 4]))
        assert caught.value.sent == 2
        assert reader.dequeue_many(10) == [b"one", 2]


@pytest.mark.parametrize("first", [b"one", 1], ids=["bytes", "object"])
def test_many_messages_with_one_too_large_tell_how_many_were_sent(first: Any) -> None:
    with broadcast(max_chunk_bytes=5000, max_bytes=400_000) as (writer, (reader,)):
        with pytest.raises(MessageTooLargeError) as caught:
            writer.enqueue_many([first, b"two", b"x" * 400_000, b"four"])
        assert reader.dequeue_many(10) == [first, b"two"]
        assert caught.value.sent == 2


@pytest.mark.parametrize("message", [b"x", "x"], ids=["bytes", "object"])
def test_many_messages_without_room_for_all_tell_how_many_were_sent(message: Any) -> None:
    with broadcast(max_chunks=4) as (writer, (reader,)):
        with pytest.raises(QueueTimeoutError) as caught:
            writer.enqueue_many([message] * 10, timeout=0.01)
        assert reader.dequeue_many(10) == [message] * 4
        assert caught.value.sent == 4


def test_an_iterable_that_fails_ends_the_batch_where_it_failed() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with broadcast() as (writer, (reader,)):
        with pytest.raises(LookupError, match="no more") as caught:
            writer.enqueue_many(failing())
        assert reader.dequeue_many(10) == [1]
        assert vars(caught.value)["sent"] == 1
        if sys.version_info >= (3, 11):
            assert [note.partition("enqueue_many ")[2] for note in caught.value.__notes__] == [
                "had sent 1 messages before this was raised"
            ]


class TakesNothing(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Postage(Exception):
    sent = "by airmail"


@pytest.mark.parametrize("error", [TakesNothing, Postage])
def test_an_exception_that_cannot_tell_how_many_were_sent_stays_as_it_is(error: type[Exception]) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise error("no more")

    with broadcast() as (writer, (reader,)):
        with pytest.raises(error, match="no more") as caught:
            writer.enqueue_many(failing())
        assert reader.dequeue_many(10) == [1]
        assert getattr(caught.value, "sent", "by airmail") == "by airmail"


class LacksMemory:
    """When it is pickled, or once when it is rebuilt."""

    failures: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.value = 7

    def _fail(self, when: str) -> None:
        if when in self.failures:
            self.failures.remove(when)
            raise MemoryError(when)
        if f"{when} by torch" in self.failures:
            self.failures.remove(f"{when} by torch")
            pytest.importorskip("torch").empty(1 << 55)  # more than anybody has: a RuntimeError

    def __getstate__(self) -> dict[str, int]:
        self._fail("pickled")
        return vars(self)

    def __setstate__(self, state: dict[str, int]) -> None:
        self._fail("rebuilt")
        self.__dict__.update(state)


@pytest.mark.parametrize("many", [False, True])
def test_a_lack_of_memory_is_no_fault_of_the_message_which_is_the_next_to_be_received(many: bool) -> None:
    def receive(reader: MessageQueue) -> list[Any]:
        return reader.dequeue_many(3, timeout=10) if many else [reader.dequeue(10) for _ in range(3)]

    with broadcast() as (writer, (reader,)):
        LacksMemory.failures[:] = ["pickled", "rebuilt"]
        with pytest.raises(MemoryError, match="pickled") as caught:
            writer.enqueue(LacksMemory())
        assert type(caught.value) is MemoryError
        writer.enqueue_many([LacksMemory(), 2, 3])
        with pytest.raises(MemoryError, match="rebuilt") as caught:
            receive(reader)
        assert type(caught.value) is MemoryError
        first, *rest = receive(reader)
        assert (first.value, rest) == (7, [2, 3])


def test_nor_is_a_lack_of_memory_that_torch_reports() -> None:
    pytest.importorskip("torch")
    with broadcast() as (writer, (reader,)):
        LacksMemory.failures[:] = ["pickled by torch", "rebuilt by torch"]
        with pytest.raises(RuntimeError, match="memory") as caught:
            writer.enqueue(LacksMemory())
        assert type(caught.value) is RuntimeError
        writer.enqueue(LacksMemory())
        with pytest.raises(RuntimeError, match="memory") as caught:
            reader.dequeue(10)
        assert type(caught.value) is RuntimeError
        assert reader.dequeue(10).value == 7


def test_broadcast_object_sends_on_one_side_and_receives_on_the_other() -> None:
    with broadcast(2) as (writer, readers):
        assert writer.broadcast_object({"step": 1}) == {"step": 1}
        assert [reader.broadcast_object() for reader in readers] == [{"step": 1}] * 2

# ruff: noqa: E501 - the table of calls has a line for each
"""Whatever is given to a public call is taken or refused in words that name the argument: never in those of the binding
library, and never after something has been done."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ringcast import Handle, MessageQueue, ShmRingBuffer, SpinSleepTimer, memory_fence
from ringcast.errors import ArgumentError, ArgumentTypeError, RankError, RingcastError, SegmentNotFoundError
from ringcast.instruments import list_queues, sweep
from tests.support import segments


class Ends(NamedTuple):
    writer: MessageQueue
    reader: MessageQueue
    handle: Handle
    ring: ShmRingBuffer
    free: MessageQueue
    """A writer whose rank 0 nobody has."""


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        writer = stack.enter_context(MessageQueue(1, max_chunks=4))
        reader = stack.enter_context(MessageQueue.create_from_handle(writer.export_handle(), 0))
        ring = stack.enter_context(ShmRingBuffer(1, 100, 4))
        free = MessageQueue(1)
        stack.callback(free.close, 0)
        yield Ends(writer, reader, free.export_handle(), ring, free)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


NOT_INTS: list[Any] = [None, "0", "", b"1", 1.0, 1.5, float("nan"), 1j, True, False, np.True_, np.float64(2), [], {},
                       object(), Hostile(), Decimal(1), int, threading.Event()]  # fmt: skip
NOT_COUNTS: list[Any] = [*NOT_INTS, -1, 1 << 31 << 40, -(1 << 70), 10**5000]
ASKED_INTS = [value for value in NOT_INTS if value is not None]
ASKED_COUNTS = [value for value in NOT_COUNTS if value is not None]
NOT_NAMES = [value for value in ASKED_INTS if not isinstance(value, str)]
NOT_SHAPES = [value for value in NOT_INTS if not isinstance(value, list | dict)]
NOT_TIMES: list[Any] = ["1", b"1", "", True, False, np.True_, -1, -0.001, float("nan"), float("-inf"), 1j, [], {}, [1],
                        object(), Hostile(), np.array([1.0, 2.0]), threading.Event(), -(10**400)]  # fmt: skip
NOT_FLAGS: list[Any] = ["", "no", "True", 2, -1, 0.5, 1.0, [], [1], object(), Hostile(), threading.Event(), 10**400]
NOT_WORDS: list[Any] = [3, True, b"park", "", "fast", [], {}, object(), np.array(["park"])]
NOT_RANKS: list[Any] = [5, "0", b"0", [0, 0], ["0"], [True], [-1], [[0]], [None], object(), [0, 1, 2], {"a": 1}]
NOT_HANDLES: list[Any] = [None, "handle", b"handle", 5, 1.5, True, [], (), [1, 2], {}, {"segment": "x"}, object(),
                          Hostile(), ["x"] * 4, ["x", 1, [0], []], ["", 1, [0], [1, 1, 1, "x"]], Handle, Path("/x"),
                          ["x", "1", [0], [1, 1, 1, "x"]], ["x", -1, [0], [1, 1, 1, "x"]], [1, 2, 3, 4, 5, 6, 7, 8],
                          ["x", 1, 0, [1, 1, 1, "x"]], ["x", 1, ["a"], [1, 1, 1, "x"]], ["x", 1, [0], [1, 1, 1, "x"], 5],
                          ["x\ud800", 1, [0], [1, 1, 1, "x"]], ["x\0y", 1, [0], [1, 1, 1, "x"]],
                          ["x", 1, [0], [1, 1, 1, "x"], None, False, [1]], (1, 100, 4, "ringcast_x.0")]  # fmt: skip

Call = Callable[[Ends, Any], Any]
CALLS: dict[str, tuple[str, list[Any], Call]] = {
    "MessageQueue(n_reader)": ("n_reader", [*NOT_COUNTS, 0], lambda e, v: MessageQueue(v)),
    "MessageQueue(n_local_reader)": ("n_local_reader", ASKED_COUNTS,
                                     lambda e, v: MessageQueue(1, v)),
    "MessageQueue(local_reader_ranks)": ("rank", NOT_RANKS, lambda e, v: MessageQueue(2, local_reader_ranks=v)),
    "MessageQueue(max_chunk_bytes)": ("max_chunk_bytes", [*ASKED_COUNTS, 0], lambda e, v: MessageQueue(1, max_chunk_bytes=v)),
    "MessageQueue(max_chunks)": ("max_chunks", [*NOT_COUNTS, 0], lambda e, v: MessageQueue(1, max_chunks=v)),
    "MessageQueue(max_bytes)": ("max_bytes", ASKED_COUNTS, lambda e, v: MessageQueue(1, max_bytes=v)),
    "MessageQueue(max_leases)": ("max_leases", ASKED_COUNTS, lambda e, v: MessageQueue(1, max_leases=v)),
    "MessageQueue(name)": ("name", [*NOT_NAMES, "", "a b", "x" * 200], lambda e, v: MessageQueue(1, name=v)),
    "MessageQueue(codec)": ("codec", [None, *NOT_WORDS], lambda e, v: MessageQueue(1, codec=v)),
    "MessageQueue(on_full)": ("on_full", [None, *NOT_WORDS], lambda e, v: MessageQueue(1, on_full=v)),
    "MessageQueue(on_reader_death)": ("on_reader_death", [None, *NOT_WORDS], lambda e, v: MessageQueue(1, on_reader_death=v)),
    "MessageQueue(full_deadline)": ("full_deadline", [None, *NOT_TIMES], lambda e, v: MessageQueue(1, full_deadline=v)),
    "MessageQueue(wait)": ("wait", NOT_WORDS, lambda e, v: MessageQueue(1, wait=v)),
    "create_from_handle(handle)": ("handle", NOT_HANDLES, lambda e, v: MessageQueue.create_from_handle(v, 0)),
    "create_from_handle(rank)": ("rank", NOT_COUNTS, lambda e, v: MessageQueue.create_from_handle(e.handle, v)),
    "create_from_handle(timeout)": ("timeout", NOT_TIMES, lambda e, v: MessageQueue.create_from_handle(e.handle, 0, timeout=v)),
    "create_from_handle(zero_copy)": ("zero_copy", [None, *NOT_FLAGS], lambda e, v: MessageQueue.create_from_handle(e.handle, 0, zero_copy=v)),
    "create_from_handle(allow_pickle)": ("allow_pickle", NOT_FLAGS, lambda e, v: MessageQueue.create_from_handle(e.handle, 0, allow_pickle=v)),
    "create_from_handle(wait)": ("wait", NOT_WORDS, lambda e, v: MessageQueue.create_from_handle(e.handle, 0, wait=v)),
    "attach(name)": ("name", [None, *NOT_NAMES], lambda e, v: MessageQueue.attach(v, timeout=0)),
    "attach(rank)": ("rank", ASKED_INTS, lambda e, v: MessageQueue.attach("nobody", v, timeout=0)),
    "attach(timeout)": ("timeout", NOT_TIMES, lambda e, v: MessageQueue.attach("nobody", timeout=v)),
    "attach(zero_copy)": ("zero_copy", [None, *NOT_FLAGS], lambda e, v: MessageQueue.attach("nobody", timeout=0, zero_copy=v)),
    "enqueue(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.enqueue(b"", v)),
    "enqueue_many(objs)": ("objs", [None, 5, True, 1.5, object(), Hostile(), int], lambda e, v: e.writer.enqueue_many(v)),
    "enqueue_many(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.enqueue_many([b""], timeout=v)),
    "dequeue(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.reader.dequeue(v)),
    "dequeue(cancel)": ("cancel", [True, 5, "x", object(), Hostile()], lambda e, v: e.reader.dequeue(5, v)),
    "dequeue(indefinite)": ("indefinite", [None, *NOT_FLAGS], lambda e, v: e.reader.dequeue(5, indefinite=v)),
    "dequeue_many(max_n)": ("max_n", [*NOT_COUNTS, 0], lambda e, v: e.reader.dequeue_many(v)),
    "dequeue_many(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.reader.dequeue_many(1, v)),
    "dequeue_many(cancel)": ("cancel", [True, 5, "x", object()], lambda e, v: e.reader.dequeue_many(1, 5, v)),
    "dequeue_many(indefinite)": ("indefinite", [None, *NOT_FLAGS], lambda e, v: e.reader.dequeue_many(1, 5, indefinite=v)),
    "acquire_write(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.acquire_write(v).__enter__()),
    "acquire_write(nbytes)": ("nbytes", ASKED_COUNTS,
                              lambda e, v: e.writer.acquire_write(nbytes=v).__enter__()),
    "acquire_read(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.reader.acquire_read(v).__enter__()),
    "acquire_read(cancel)": ("cancel", [True, 5, object()], lambda e, v: e.reader.acquire_read(5, v).__enter__()),
    "acquire_read(indefinite)": ("indefinite", [None, *NOT_FLAGS], lambda e, v: e.reader.acquire_read(5, None, v).__enter__()),
    "loan(nbytes)": ("nbytes", NOT_COUNTS, lambda e, v: e.writer.loan(v).__enter__()),
    "loan(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.loan(5, v).__enter__()),
    "loan_array(shape)": ("shape", [*NOT_SHAPES, -1, (1, -1), (1.0,), ("1",), (True,), [[1]]], lambda e, v: e.writer.loan_array(v, "f8").__enter__()),
    "loan_array(dtype)": ("dtype", ["nonsense", 5, object(), [1]], lambda e, v: e.writer.loan_array(1, v).__enter__()),
    "loan_array(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.loan_array(1, "f8", v).__enter__()),
    "evict(rank)": ("rank", [*NOT_COUNTS], lambda e, v: e.writer.evict(v)),
    "close(linger)": ("linger", NOT_TIMES, lambda e, v: e.writer.close(v)),
    "writer's wait_until_ready(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.writer.wait_until_ready(v)),
    "reader's wait_until_ready(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.reader.wait_until_ready(v)),
    "aget(timeout)": ("timeout", NOT_TIMES, lambda e, v: asyncio.run(e.reader.aget(v))),
    "ShmRingBuffer(n_reader)": ("n_reader", [*NOT_COUNTS, 0], lambda e, v: ShmRingBuffer(v, 100, 4)),
    "ShmRingBuffer(max_chunk_bytes)": ("max_chunk_bytes", [*NOT_COUNTS, 0], lambda e, v: ShmRingBuffer(1, v, 4)),
    "ShmRingBuffer(max_chunks)": ("max_chunks", [*NOT_COUNTS, 0], lambda e, v: ShmRingBuffer(1, 100, v, e.ring.name)),
    "ShmRingBuffer(name)": ("name", NOT_NAMES,
                            lambda e, v: ShmRingBuffer(1, 100, 4, v)),
    "ShmRingBuffer(rank)": ("rank", ASKED_COUNTS, lambda e, v: ShmRingBuffer(1, 100, 4, e.ring.name, rank=v)),
    "ring's acquire_write(timeout)": ("timeout", NOT_TIMES, lambda e, v: e.ring.acquire_write(v).__enter__()),
    "ring's acquire_write(nbytes)": ("nbytes", ASKED_COUNTS,
                                     lambda e, v: e.ring.acquire_write(nbytes=v).__enter__()),
    "slot_state(index)": ("index", NOT_COUNTS, lambda e, v: e.ring.slot_state(v)),
    "SpinSleepTimer(busy_loop_s)": ("busy_loop_s", [None, *NOT_TIMES], lambda e, v: SpinSleepTimer(v)),
    "SpinSleepTimer(wait_sleep_s)": ("wait_sleep_s", [None, *NOT_TIMES, 0], lambda e, v: SpinSleepTimer(1, v)),
    "sweep(dry_run)": ("dry_run", [None, *NOT_FLAGS], lambda e, v: sweep(v)),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_odd_values_are_refused_in_words_that_name_the_argument_and_nothing_is_done(ends: Ends, call: str) -> None:
    argument, values, function = CALLS[call]
    before = segments()
    for value in values:
        with pytest.raises(ArgumentError) as caught:
            function(ends, value)
        text = str(caught.value)
        assert argument in text, (value, text)
        assert "incompatible function" not in text, text
        assert "Invoked with" not in text, text
        assert len(text) < 700, text
    assert segments() == before
    ends.writer.enqueue(b"works on")
    assert ends.reader.dequeue(10) == b"works on"


def test_a_wrong_type_is_a_type_error_and_a_wrong_value_is_not(ends: Ends) -> None:
    with pytest.raises(TypeError, match=r"rank must be an int, not '0' \(str\)"):
        MessageQueue.create_from_handle(ends.handle, "0")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"max_n must be an int, not 2\.0 \(float\)"):
        ends.reader.dequeue_many(2.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="max_n must be at least 1, not 0") as caught:
        ends.reader.dequeue_many(0)
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize("rank", [-1, 1, 2, 1 << 20])
def test_a_rank_that_the_queue_has_not_is_told_with_those_it_has(ends: Ends, rank: int) -> None:
    with pytest.raises(RankError, match=rf"rank {rank} is not one of its local ranks: 0"):
        MessageQueue.create_from_handle(ends.handle, rank)


def test_the_queue_itself_as_handle_is_told_what_to_pass(ends: Ends) -> None:
    for wrong, advice in [
        (ends.free, "pass what its export_handle() returns"),
        (ends.free.export_handle, "call it"),
        (json.dumps(ends.handle), "json.loads"),
        ("sched", "attach(name)"),
        (b"pickled", "pickle.loads"),
    ]:
        with pytest.raises(ArgumentTypeError) as caught:
            MessageQueue.create_from_handle(wrong, 0)  # type: ignore[arg-type]
        assert advice in str(caught.value)


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8, np.int8])
def test_numpy_s_integers_are_ints_everywhere(number: Any) -> None:
    two, one, none = number(2), number(1), number(0)
    with MessageQueue(two, two, [none, one], number(100), number(4), max_bytes=1 << 26, max_leases=number(7)) as writer:
        handle = writer.export_handle()
        readers = [MessageQueue.create_from_handle(handle, number(rank)) for rank in (0, 1)]
        with writer.acquire_write(nbytes=two) as view:
            view[:] = b"ab"
        with writer.loan(two) as view:
            view[:] = b"cd"
        for shape in (two, [two, one], (two,), np.array([2, 1])):
            with writer.loan_array(shape, np.float32) as array:  # type: ignore[arg-type]
                array[...] = 1
            del array
            for reader in readers:
                assert len(reader.dequeue_many(number(5), np.float64(5))) >= 1
        assert writer.evict(one) is True
        for reader in readers:
            reader.close()
    with ShmRingBuffer(one, number(100), two) as ring:
        assert ring.slot_state(one) == "empty"
        with ShmRingBuffer(one, number(100), two, ring.name, rank=none) as reader_ring:
            with ring.acquire_write(nbytes=one) as view:
                view[:] = b"x"
            with reader_ring.acquire_read(np.float64(5)) as seen:
                assert bytes(seen) == b"x"


def test_whatever_acts_as_a_float_is_a_time(ends: Ends) -> None:
    for time in (1, 1.0, np.float32(1), np.int16(1), Decimal("0.5"), np.array(1.0), float("inf"), 1e300, None):
        ends.writer.enqueue(b"x", timeout=time)  # type: ignore[arg-type]
        assert ends.reader.dequeue(time) == b"x"  # type: ignore[arg-type]


def test_flags_are_true_and_false_also_numpy_s(ends: Ends) -> None:
    for flag in (True, False, np.True_, np.False_, 0, 1):
        ends.writer.enqueue(b"x")
        assert ends.reader.dequeue(5, None, flag) == b"x"  # type: ignore[arg-type]


def test_calls_without_arguments_refuse_them_like_those_of_python() -> None:
    with MessageQueue(1) as queue:
        calls: list[Any] = [queue.qsize, queue.shutdown, queue.stats, queue.export_handle, memory_fence, list_queues]
        for call in calls:
            with pytest.raises(TypeError, match="argument") as caught:
                call(1)
            assert "incompatible" not in str(caught.value)
        with pytest.raises(TypeError, match=r"evict\(\) needs 'rank'"):
            queue.evict()  # type: ignore[call-arg]
        queue.evict(0)


def _through_json(handle: Handle) -> list[Any]:
    found: list[Any] = json.loads(json.dumps(handle))
    return found


def _with_floats(handle: Handle) -> list[Any]:
    found: list[Any] = json.loads(json.dumps(handle), parse_int=float)
    return found


@pytest.mark.parametrize(
    "way",
    [
        _through_json,
        _with_floats,
        lambda handle: tuple(_through_json(handle)),
        lambda handle: Handle(*_through_json(handle)),
        lambda handle: json.loads(json.dumps(handle._asdict())),
        lambda handle: _through_json(handle)[:4],
        tuple,
    ],
    ids=["list", "floats", "tuple", "Handle", "dict", "four", "plain tuple"],
)
def test_a_handle_that_went_through_json_is_one(way: Callable[[Handle], Any]) -> None:
    for _ in range(20):  # the epoch is random: each must be exact as a double
        with MessageQueue(2, local_reader_ranks=[3, 1]) as queue:
            queue.enqueue("promised")
            handle = queue.export_handle()
            for rank in (3, 1):
                with MessageQueue.create_from_handle(way(handle), rank) as reader:
                    assert reader.dequeue(10) == "promised"


def _fields_and_more(handle: Handle) -> list[Any]:
    return [handle.key, *handle, "more"]


@pytest.mark.parametrize(
    "way",
    [
        _fields_and_more,
        lambda handle: {"key": handle.key},
        lambda handle: json.dumps({"key": handle.key, **handle._asdict()}),
        lambda handle: handle._replace(segment=1, attributes=[handle.key]),
    ],
    ids=["too much", "dict", "text", "wrong fields"],
)
def test_a_handle_that_is_refused_is_shown_without_its_key(way: Callable[[Handle], Any]) -> None:
    key = "5ec12e7" * 9 + "0"
    wrong = way(Handle("name", 1, (0,), (1, 100, 4, "name"), key=key))
    with pytest.raises(ArgumentError, match="handle must be") as caught:
        MessageQueue.create_from_handle(wrong, 0)
    assert key[:8] not in str(caught.value)


def test_a_handle_of_another_epoch_leads_nowhere(ends: Ends) -> None:
    with pytest.raises(SegmentNotFoundError, match="was closed; another queue has its name now"):
        MessageQueue.create_from_handle(ends.handle._replace(epoch=ends.handle.epoch ^ 1), 0)


def test_an_end_is_made_once(ends: Ends) -> None:
    for end in (ends.writer, ends.reader):
        with pytest.raises(RingcastError, match="this object is an end already"):
            MessageQueue.__init__(end, 1)
    ends.writer.enqueue(b"x")
    assert ends.reader.dequeue(10) == b"x"

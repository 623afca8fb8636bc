"""Who holds a chunk by an address and a reference that nobody can see changes no message and no freed memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from types import FrameType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import ViewsAliveError
from tests.support import WAYS_TO_WRITE, Background, broadcast, eventually, parked

SMALL = 1000
LARGE = 100_000
"""In a slot, and in a block."""

in_every_size = pytest.mark.parametrize("nbytes", [SMALL, LARGE])
in_every_way_to_write = pytest.mark.parametrize("call", WAYS_TO_WRITE)


def blocks(writer: MessageQueue) -> int:
    return writer.stats()["memory"]["blocks"]


def hidden_tensor(memory: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.frombuffer(memory, dtype=torch.uint8)


def fill(memory: Any, value: int) -> None:
    memory[:] = np.full(len(memory), value, "u1")


@in_every_size
@in_every_way_to_write
def test_a_tensor_that_alone_outlives_the_block_changes_nothing_that_is_published(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        kept = []
        for n in range(20):
            with WAYS_TO_WRITE[call](writer, nbytes) as memory:
                tensor = hidden_tensor(memory)
                del memory
                tensor.fill_(n)
            kept.append(tensor)
            tensor.fill_(0x41)
            assert bytes(reader.dequeue(10)) == bytes([n]) * nbytes
        others = [bytes([n]) * (nbytes - n) for n in range(100)]
        for tensor in kept:
            assert tensor.tolist() == [0x41] * nbytes
            tensor.fill_(0x42)
        assert others == [bytes([n]) * (nbytes - n) for n in range(100)]
        for n in range(20):
            writer.enqueue(others[n], timeout=10)
            kept[n].fill_(0x43)
            assert reader.dequeue(10) == others[n]
        kept.clear()
        del tensor
        assert blocks(writer) == 0


@in_every_size
@in_every_way_to_write
def test_a_tensor_that_alone_outlives_a_block_left_by_an_exception_changes_nothing(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        kept = []
        for _ in range(20):
            with contextlib.suppress(LookupError), WAYS_TO_WRITE[call](writer, nbytes) as memory:
                kept.append(hidden_tensor(memory))
                del memory
                raise LookupError
        others = [bytes([n]) * (nbytes - n) for n in range(100)]
        for n in range(20):
            writer.enqueue(others[n], timeout=10)
            kept[n].fill_(0x41)
            assert reader.dequeue(10) == others[n]
        assert others == [bytes([n]) * (nbytes - n) for n in range(100)]
        kept.clear()
        assert blocks(writer) == 0


@pytest.mark.parametrize("nbytes", [SMALL, LARGE])
@pytest.mark.parametrize("make", [np.from_dlpack, lambda array: pytest.importorskip("torch").from_numpy(array)])
def test_what_alone_holds_a_loaned_array_changes_nothing_that_is_published(
    make: Callable[[Any], Any], nbytes: int
) -> None:
    with broadcast() as (writer, (reader,)):
        with writer.loan_array(nbytes, "u1") as array:
            fill(array, 7)
            view = make(array)
            del array
        with contextlib.suppress(ValueError):  # some of NumPy's are read-only
            view[:] = 8
        assert reader.dequeue(10).tolist() == [7] * nbytes
        del view
        assert blocks(writer) == 0


def by_its_name(writer: MessageQueue, call: str) -> int:
    with WAYS_TO_WRITE[call](writer, LARGE) as memory:
        fill(memory, 7)
    return blocks(writer)


def by_an_exit_stack(writer: MessageQueue, call: str) -> int:
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(WAYS_TO_WRITE[call](writer, LARGE))
        fill(memory, 7)
    return blocks(writer)


def by_a_closure(writer: MessageQueue, call: str) -> int:
    def fill_it() -> None:
        fill(memory, 7)

    with WAYS_TO_WRITE[call](writer, LARGE) as memory:
        fill_it()
    return blocks(writer)


def by_a_generator(writer: MessageQueue, call: str) -> int:
    def filling() -> Generator[int, None, None]:
        with WAYS_TO_WRITE[call](writer, LARGE) as memory:
            fill(memory, 7)
            yield 0
        yield blocks(writer)

    return list(filling())[1]


def by_nobody(writer: MessageQueue, call: str) -> int:
    with WAYS_TO_WRITE[call](writer, LARGE) as memory:
        fill(memory, 7)
        del memory
    return blocks(writer)


def by_a_module(writer: MessageQueue, call: str) -> int:
    code = "with way(writer, nbytes) as memory: fill(memory, 7)\nresult = blocks(writer)"
    names = {"way": WAYS_TO_WRITE[call], "writer": writer, "nbytes": LARGE, "fill": fill, "blocks": blocks}
    exec(code, names)
    return cast("int", names["result"])


@pytest.mark.parametrize("held", [by_its_name, by_an_exit_stack, by_a_closure, by_a_generator, by_a_module, by_nobody])
@in_every_way_to_write
def test_a_chunk_that_only_a_variable_holds_is_published_without_a_copy(
    call: str, held: Callable[[MessageQueue, str], int]
) -> None:
    with broadcast() as (writer, (reader,)):
        assert held(writer, call) == 1
        assert bytes(reader.dequeue(10)) == b"\7" * LARGE
        assert blocks(writer) == 0


@in_every_size
@in_every_way_to_write
def test_a_chunk_that_something_else_holds_is_published_too(call: str, nbytes: int) -> None:
    with broadcast() as (writer, (reader,)):
        holder = SimpleNamespace()
        with WAYS_TO_WRITE[call](writer, nbytes) as holder.memory:
            fill(holder.memory, 7)
        with pytest.raises(ValueError, match="released" if call != "loan_array" else "read-only"):
            holder.memory[0] = 8
        assert bytes(reader.dequeue(10)) == b"\7" * nbytes
        del holder
        assert blocks(writer) == 0


@in_every_way_to_write
def test_a_chunk_that_something_else_holds_waits_at_its_end_for_room_for_a_copy(call: str) -> None:
    with broadcast(max_leases=2) as (writer, (reader,)):
        writer.enqueue(bytes(LARGE), timeout=10)
        chunk = WAYS_TO_WRITE[call](writer, LARGE)
        tensor = hidden_tensor(chunk.__enter__())
        tensor.fill_(7)
        leaving = Background(chunk.__exit__, None, None, None)
        eventually(lambda: parked(writer), "the wait for room")
        tensor.fill_(8)  # in time
        assert reader.dequeue(10) == bytes(LARGE)
        leaving.result()
        tensor.fill_(9)
        assert bytes(reader.dequeue(10)) == b"\x08" * LARGE


@in_every_way_to_write
def test_a_chunk_that_something_else_holds_in_the_only_block_of_a_queue_is_an_error_and_no_wait(call: str) -> None:
    with broadcast(max_leases=1) as (writer, (reader,)):
        chunk = WAYS_TO_WRITE[call](writer, LARGE)
        tensor = hidden_tensor(chunk.__enter__())
        with pytest.raises(ViewsAliveError, match="nothing was published"):
            chunk.__exit__(None, None, None)
        tensor.fill_(7)
        del chunk, tensor
        assert reader.try_dequeue() is None
        writer.enqueue(b"x" * LARGE, timeout=10)
        assert reader.dequeue(10) == b"x" * LARGE


def test_looking_for_a_variable_keeps_no_other_alive_and_takes_none_away() -> None:
    with broadcast() as (writer, (reader,)):
        other = {"an object"}
        references = sys.getrefcount(other)
        with writer.loan(LARGE) as memory:
            fill(memory, 7)
        assert sys.getrefcount(other) == references
        seen = locals()
        with writer.loan(LARGE) as memory:
            fill(memory, 8)
        assert seen["other"] is other
        del seen, memory
        assert [bytes(reader.dequeue(10))[0] for _ in range(2)] == [7, 8]


def test_a_trace_function_that_makes_a_message_leaves_the_traced_code_its_variables() -> None:
    with broadcast() as (writer, (reader,)):

        def traced() -> list[int]:
            first, second = 1, 2
            third = first + second
            return [first, second, third]

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code is not traced.__code__:
                return None
            if event == "line":
                with writer.loan(LARGE) as holder.memory:
                    fill(holder.memory, 7)
                assert bytes(reader.dequeue(10)) == b"\7" * LARGE
                holder.memory = None
            return trace

        holder = SimpleNamespace()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            result = traced()
        finally:
            sys.settrace(before)
        assert result == [1, 2, 3]

"""loan and loan_array: messages made where they will lie, published on leaving, and unchanged from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import ArgumentError, BusyError, MessageTooLargeError, QueueTimeoutError, ViewsAliveError
from tests.support import WAYS_TO_WRITE, broadcast, eventually

SIZES = [1, 8, 1000, 100_000]
"""As elements of 8 bytes: in the slot, and in blocks."""


def blocks(end: MessageQueue) -> int:
    return end.stats()["memory"]["blocks"]


@pytest.mark.parametrize("nbytes", [1, 1120, 1121, 70_000, 3_000_000])
def test_a_loan_is_published_on_leaving_and_received_as_bytes(nbytes: int) -> None:
    content = bytes(n % 251 for n in range(nbytes))
    with broadcast(2) as (writer, (first, second)):
        with writer.loan(nbytes) as view:
            assert (view.nbytes, view.readonly, view.format, view.ndim) == (nbytes, False, "B", 1)
            view[:] = content
            assert first.try_dequeue() is None
        assert first.dequeue(10) == content
        with second.acquire_read(timeout=10) as received:
            assert received.readonly
            assert received == content
        del received
        assert blocks(writer) == 0


@pytest.mark.parametrize("dtype", ["f4", ">i8", "?", "S5", "<U3", "<M8[us]", "c16", [("a", "<i4"), ("b", "<f8", (2,))]])
@pytest.mark.parametrize("shape", [5, (), (0, 3), (300, 200), (2, 3, 4, 5)])
def test_a_loaned_array_of_any_shape_and_dtype_arrives(shape: Any, dtype: Any) -> None:
    with broadcast(2) as (writer, readers):
        with writer.loan_array(shape, dtype) as array:
            assert array.shape == ((shape,) if isinstance(shape, int) else shape)
            assert array.dtype == np.dtype(dtype)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            array[...] = np.zeros((), dtype)
            if array.size:
                array.reshape(-1).view("u1")[-1] = 1
            expected = array.tobytes()
            assert readers[0].try_dequeue() is None
        for reader in readers:
            received = reader.dequeue(10)
            assert (received.shape, received.dtype) == (array.shape, array.dtype)
            assert not received.flags.writeable
            assert received.tobytes() == expected


@pytest.mark.parametrize("size", SIZES)
def test_an_exception_publishes_nothing_and_the_block_comes_back(size: int) -> None:
    with broadcast() as (writer, (reader,)):
        enters: list[Callable[[], Any]] = [lambda: writer.loan(8 * size), lambda: writer.loan_array(size, "i8")]
        for enter in enters:
            loan = enter()
            memory = loan.__enter__()
            memory[:1] = memory[:1]
            loan.__exit__(LookupError, LookupError(), None)
            del memory, loan
            assert blocks(writer) == 0
            assert reader.try_dequeue() is None
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"


@pytest.mark.parametrize("size", SIZES)
def test_the_array_is_read_only_after_the_block_and_readers_see_what_it_was(size: int) -> None:
    with broadcast() as (writer, (reader,)):
        with writer.loan_array(size, "i8") as array:
            array[:] = 7
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 8
        assert reader.dequeue(10).tolist() == [7] * size
        assert array.tolist() == [7] * size


def _as_strided(array: Any) -> Any:
    return np.lib.stride_tricks.as_strided(array, (1,), (8,))


def _from_numpy(array: Any) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


VIEWS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda a: a[:1],
    "reshape": lambda a: a.reshape(-1, 1),
    "transpose": lambda a: a.T,
    "whole view": lambda a: a.view(),
    "another dtype": lambda a: a.view("u1"),
    "slice of a slice": lambda a: a[:][:][:1],
    "np.ndarray": lambda a: np.ndarray((1,), "i8", a),
    "np.ndarray of a memoryview": lambda a: np.ndarray((1,), "i8", memoryview(a)),
    "np.frombuffer": lambda a: np.frombuffer(a, "u1"),
    "np.asarray of a memoryview": lambda a: np.asarray(memoryview(a)),
    "memoryview": memoryview,
    "subclass": lambda a: a.view(np.recarray),
    "as_strided": _as_strided,
    "sliding window": lambda a: np.lib.stride_tricks.sliding_window_view(a, 1, writeable=True),
    "from_dlpack": np.from_dlpack,
    "flat iterator": lambda a: a.flat,
    "torch.from_numpy": _from_numpy,
}


def scribble(view: Any) -> None:
    """Changes the first bytes that the view shows, if it lets us."""
    try:
        if isinstance(view, memoryview):
            view.cast("B")[0] = 255
        elif isinstance(view, np.flatiter):
            view[0] = -1
        elif isinstance(view, np.ndarray):
            view.reshape(-1).view(np.uint8)[0] = 255
        else:
            view.fill_(-1)
    except (TypeError, ValueError):
        pass


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("kind", VIEWS)
def test_nothing_that_is_made_of_a_loaned_array_can_change_what_is_published(kind: str, size: int) -> None:
    with broadcast() as (writer, (reader,)):
        try:
            with writer.loan_array(size, "i8") as array:
                array[:] = 7
                view = VIEWS[kind](array)
            published = True
        except ViewsAliveError:
            published = False
        received: Any = reader.try_dequeue()
        assert (received is not None) is published
        scribble(view)
        if published:
            assert received[0] == 7
        for n in range(30):
            writer.enqueue(np.full(size, n))
            later = reader.dequeue(10)
            scribble(view)
            assert later[0] == n
            del later
        del view, array, received
        assert blocks(writer) == 0


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("kind", ["slice", "reshape", "transpose", "whole view", "another dtype", "np.ndarray"])
def test_slices_that_are_alive_are_an_error_and_nothing_is_published(kind: str, size: int) -> None:
    with broadcast() as (writer, (reader,)):
        view: Any = None
        with pytest.raises(ViewsAliveError, match="nothing was published"), writer.loan_array(size, "i8") as array:
            view = VIEWS[kind](array)
        assert reader.try_dequeue() is None
        del view, array
        assert blocks(writer) == 0
        with writer.loan_array(size, "i8") as array:
            view = VIEWS[kind](array)
            del view
            array[:] = 3
        assert reader.dequeue(10)[0] == 3


@pytest.mark.parametrize("nbytes", [8, 100_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda view: np.ndarray((8,), np.uint8, view),
        lambda view: np.ndarray((8,), np.uint8, view[:8]),
        lambda view: np.frombuffer(view, np.uint8),
        np.asarray,
        memoryview,
        lambda view: view[:4],
        lambda view: view.cast("B", (2, 2)) if view.nbytes == 4 else view.cast("Q"),
    ],
)
def test_views_of_a_loan_that_are_alive_are_an_error_and_never_reach_a_later_message(
    make: Callable[[memoryview], Any], nbytes: int
) -> None:
    with broadcast(max_leases=11) as (writer, (reader,)):
        kept: Any = None
        with pytest.raises(ViewsAliveError, match="nothing was published"), writer.loan(nbytes) as view:
            kept = make(view)
        assert reader.try_dequeue() is None
        for n in range(30):
            kept[:1] = np.full(1, 255, np.uint8) if isinstance(kept, np.ndarray) else kept[-1:]
            writer.enqueue(bytes([n]) * nbytes, timeout=10)
            if isinstance(kept, np.ndarray):
                kept[:] = 255
            assert reader.dequeue(10) == bytes([n]) * nbytes
        assert blocks(writer) == (1 if nbytes > 8 else 0)
        del kept, view
        eventually(lambda: blocks(writer) == 0, "the block's return")


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_slice_kept_by_an_aborted_loan_never_reaches_a_later_message(size: int) -> None:
    with broadcast() as (writer, (reader,)):
        kept: list[Any] = []
        for _ in range(3):
            loan = writer.loan_array(size, "i8")
            kept.append(loan.__enter__()[:1])
            loan.__exit__(LookupError, LookupError(), None)
        assert blocks(writer) == (3 if size > 1 else 0)
        for n in range(50):
            writer.enqueue(np.full(size, n), timeout=10)
            for view in kept:
                view[0] = -1
            assert reader.dequeue(10).tolist() == [n] * size
        del view
        kept.clear()
        assert blocks(writer) == 0


def test_the_array_kept_after_the_block_keeps_its_memory_until_it_is_dropped() -> None:
    with broadcast(max_leases=3) as (writer, (reader,)):
        arrays = []
        for n in range(2):
            with writer.loan_array(100_000, "i8") as array:
                array[:] = n
            arrays.append(array)
            assert reader.dequeue(10)[0] == n
        del array
        assert blocks(writer) == 2
        assert all(r["leased_blocks"] == 0 for r in writer.stats()["readers"])
        for n in range(50):
            writer.enqueue(np.full(100_000, -n), timeout=10)
            assert reader.dequeue(10)[-1] == -n
        assert [int(array.min()) for array in arrays] == [int(array.max()) for array in arrays] == [0, 1]
        with writer.loan_array(100_000, "i8") as array:
            pass
        arrays.append(array)
        reader.dequeue(10)
        with pytest.raises(QueueTimeoutError, match="max_leases"):
            writer.enqueue(np.zeros(100_000), timeout=0.02)
        del array, arrays[1]
        assert blocks(writer) == 2
        writer.enqueue(np.zeros(100_000), timeout=10)


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_loaned_array_outlives_the_writer_and_the_reader(size: int) -> None:
    with broadcast() as (writer, (reader,)):
        with writer.loan_array(size, "i8") as array:
            array[:] = 9
        received = reader.dequeue(10)
    del writer, reader
    assert array.tolist() == received.tolist() == [9] * size


@pytest.mark.parametrize("dtype", [object, [("a", "i4"), ("b", "O")], "O"])
def test_an_array_of_objects_cannot_be_loaned(dtype: Any) -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(ArgumentError, match="cannot be made in shared memory"):
            writer.loan_array(3, dtype)
        writer.enqueue(1)
        assert reader.dequeue(10) == 1


def test_what_makes_no_sense_or_does_not_fit_is_refused_and_takes_nothing() -> None:
    with broadcast(max_bytes=4 << 20, max_chunk_bytes=1 << 20) as (writer, (reader,)):
        for shape in (-1, (3, -1), 2.5, True):
            with pytest.raises((ArgumentError, TypeError)):
                writer.loan_array(shape, "f8")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError):
            writer.loan(-1)
        with pytest.raises(ArgumentError, match="the size in bytes"):
            writer.loan_array((1 << 40, 1 << 40), "f8")
        for loan in (
            writer.loan(4 << 20),
            writer.loan_array(1 << 19, "f8"),
        ):
            with pytest.raises((MessageTooLargeError, ArgumentError)):
                loan.__enter__()
        assert blocks(writer) == 0
        with writer.loan(100) as view:
            with pytest.raises(BusyError):
                writer.loan_array(1, "f8").__enter__()
            view[:] = bytes(100)
        assert reader.dequeue(10) == bytes(100)


@pytest.mark.parametrize("nbytes", [1000, 100_000])
@pytest.mark.parametrize("call", WAYS_TO_WRITE)
def test_a_tensor_on_a_loan_that_outlives_it_changes_no_message_and_no_freed_memory(call: str, nbytes: int) -> None:
    torch = pytest.importorskip("torch")
    with broadcast() as (writer, (reader,)):
        for make in (torch.frombuffer, lambda view, dtype: torch.frombuffer(view, dtype=dtype)[1:]):
            kept = []
            for _ in range(20):
                opened = WAYS_TO_WRITE[call](writer, nbytes)
                with pytest.raises(ViewsAliveError, match="nothing was published"), opened as view:
                    kept.append(make(view, dtype=torch.uint8))
                del view
            later = [bytes([n]) * nbytes for n in range(40)]
            for tensor in kept:
                tensor.fill_(0x41)
            for n in range(20):
                writer.enqueue(later[n])
                kept[n].fill_(0x42)
                assert reader.dequeue(10) == later[n]
            assert later == [bytes([n]) * nbytes for n in range(40)]
        kept.clear()
        del tensor
        writer.enqueue(b"x" * nbytes)
        assert reader.dequeue(10) == b"x" * nbytes


@pytest.mark.parametrize("shape", [(0, 1 << 62), (1,) * 65])
def test_a_shape_that_numpy_refuses_leaves_the_end_as_it_was(shape: tuple[int, ...]) -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises((ValueError, ArgumentError)):
            writer.loan_array(shape, "f8").__enter__()
        writer.enqueue("goes on", timeout=10)
        assert reader.dequeue(10) == "goes on"

"""Arrays and tensors through a queue: equal in every respect, read-only in place if large, private if small."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from tests.support import SHM, broadcast, eventually, unique_name

Make = Callable[[], Any]
CODECS = ["pickle", "msgpack"]
LARGE = 100_000
RECORD = np.dtype([("id", "<u4"), ("at", ">f8"), ("tag", "S3"), ("grid", "<i2", (2, 3)), ("in", [("x", "?")])])

DTYPES: list[Any] = [
    *("?", "b", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">i8", "<f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c16", "g"),
    *("S1", "S7", "<U1", "<U5", ">U5", "V6", "<m8[ns]", "<m8[D]", "<M8[us]", "<M8[s]", ">M8[s]", RECORD),
]


def raw(array: Any) -> bytes:
    """The elements in C order; NaNs and what is not a number are compared as they lie."""
    return bytes(np.ascontiguousarray(array).tobytes())


def same(a: Any, b: Any) -> bool:
    assert type(a) is np.ndarray
    assert type(b) is np.ndarray
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    return a.tolist() == b.tolist() if a.dtype.hasobject else raw(a) == raw(b)


def filled(dtype: Any, shape: tuple[int, ...]) -> Any:
    """An array without two equal neighbours, of any dtype but objects."""
    made = np.dtype(dtype)
    if made.char == "?":
        return (np.arange(np.prod(shape)) % 3 == 0).reshape(shape)
    if made.kind in "SU":
        texts = [
            f"{n % 9973}"[-(made.itemsize // np.dtype(made.str[:2] + "1").itemsize) :] for n in range(np.prod(shape))
        ]
        return np.array(texts, made).reshape(shape)
    if made.names is not None:
        result = np.zeros(shape, made)
        result["id"], result["at"], result["tag"] = np.arange(np.prod(shape)).reshape(shape), 0.5, b"ab"
        result["grid"][...] = np.arange(6).reshape(2, 3)
        return result
    if made.kind == "V":
        return np.frombuffer(bytes(n % 251 for n in range(int(np.prod(shape)) * 6)), made).reshape(shape)
    return (np.arange(np.prod(shape)) % 100).astype(made).reshape(shape)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [3, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_array_of_every_dtype_arrives_equal_and_read_only(dtype: Any, size: int, codec: Any) -> None:
    sent = filled(dtype, (size,))
    with broadcast(2, codec=codec) as (writer, readers):
        # NumPy's own pickling copies dates and loses their byte order.
        numpy_s_own = codec == "pickle" and sent.dtype.kind in "mM"
        for message in (sent,) if numpy_s_own else (sent, {"k": [sent, 7]}):
            writer.enqueue(message, timeout=10)
            for reader in readers:
                received = reader.dequeue(10)
                array = received["k"][0] if isinstance(received, dict) else received
                assert same(array, sent)
                assert not array.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    array[:1] = array[1:2]


SHAPES: dict[str, Make] = {
    "no elements": lambda: np.empty((0,), "f4"),
    "no elements among others": lambda: np.empty((3, 0, 2), "i8"),
    "0-d": lambda: np.array(2.5),
    "5-d": lambda: np.arange(2 * 3 * 4 * 5 * 6, dtype="u2").reshape(2, 3, 4, 5, 6),
    "32-d": lambda: np.ones((1,) * 32, "u1"),
    "items of no bytes": lambda: np.zeros(3, [("a", "S0")])["a"],
}
ORDERS: dict[str, Make] = {
    "C": lambda: np.arange(60_000.0).reshape(200, 300),
    "F": lambda: np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
    "transposed": lambda: np.arange(60_000.0).reshape(2, 300, 100).transpose(2, 0, 1),
    "strided": lambda: np.arange(120_000.0).reshape(200, 600)[:, ::2],
    "negative strides": lambda: np.arange(60_000.0).reshape(200, 300)[::-1, ::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(300.0), (200, 300)),
    "unaligned": lambda: np.frombuffer(bytes(range(1, 241)) * 1000, "u1")[1:-7].view("<f4"),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", [*SHAPES, *ORDERS])
def test_shapes_and_orders_arrive_equal(name: str, codec: Any) -> None:
    sent = {**SHAPES, **ORDERS}[name]()
    with broadcast(codec=codec) as (writer, (reader,)):
        for message in (sent, [sent]):
            writer.enqueue(message, timeout=10)
            received = reader.dequeue(10)
            array = received[0] if isinstance(received, list) else received
            assert same(array, sent)
            if name in ("C", "F"):
                assert array.strides == sent.strides


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_read_only_array_is_sent_and_an_array_s_later_change_is_not_seen(size: int) -> None:
    with broadcast(2) as (writer, readers):
        sent = np.arange(size)
        writer.enqueue(sent)
        sent[:] = -1
        sent.setflags(write=False)
        writer.enqueue(sent)
        for reader in readers:
            assert same(reader.dequeue(10), np.arange(size))
            assert same(reader.dequeue(10), np.full(size, -1))


@pytest.mark.parametrize("size", [3, 20_000])
def test_an_array_of_objects_is_pickled_and_arrives_equal(size: int) -> None:
    sent = np.array([{"n": n} for n in range(size)], object)
    record = np.array([(1, None), (2, "x")], [("a", "i4"), ("b", "O")])
    with broadcast() as (writer, (reader,)):
        writer.enqueue(sent)
        assert same(reader.dequeue(10), sent)
        writer.enqueue(record)
        assert same(reader.dequeue(10), record)


def test_a_subclass_of_ndarray_keeps_its_class() -> None:
    masked: Any = np.ma
    sent = masked.masked_array(np.arange(LARGE), mask=np.arange(LARGE) % 2 == 0)
    with broadcast() as (writer, (reader,)):
        writer.enqueue(sent)
        received = reader.dequeue(10)
        assert type(received) is masked.MaskedArray
        assert received.sum() == sent.sum()


def leases(reader: MessageQueue) -> tuple[int, int]:
    (seat,) = [r for r in reader.stats()["readers"] if r["rank"] == reader.rank]
    return seat["leased_blocks"], seat["leased_bytes"]


def root(array: Any) -> Any:
    while getattr(array, "base", None) is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def lies_in(segment: str, array: Any) -> bool:
    """Is the array's memory a mapping of the segment?"""
    inode = os.stat(SHM / segment).st_ino
    address = array.__array_interface__["data"][0]
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines if int(line[4]) == inode]
    assert spans
    return any(begin <= address < end for begin, end in spans)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc/self/maps")
def test_a_large_array_lies_in_the_segment_and_a_small_one_does_not() -> None:
    with broadcast(name=unique_name()) as (writer, (reader,)):
        for size, where in ((100, False), (LARGE, True)):
            for wrap in (lambda a: a, lambda a: [a]):
                writer.enqueue(wrap(np.arange(size)))
                array = reader.dequeue(10)
                array = array[0] if isinstance(array, list) else array
                assert lies_in(writer.segment, array) is where
                assert (type(root(array)).__name__ == "Lease") is where
                assert (leases(reader)[0] == 1) is where
                del array
        assert leases(reader) == (0, 0)


def test_all_arrays_of_a_message_hold_one_lease_until_the_last_of_them_is_gone() -> None:
    with broadcast(2) as (writer, (first, second)):
        writer.enqueue({"a": np.arange(LARGE), "b": np.ones(LARGE)})
        received, other = first.dequeue(10), second.dequeue(10)
        blocks, held = leases(first)
        assert blocks == 1
        assert held >= 2 * LARGE * 8
        part = received["b"][5:7].reshape(1, 2)
        del received
        assert leases(first) == (blocks, held)
        assert writer.stats()["memory"]["blocks"] == 1
        del part
        assert leases(first) == (0, 0)
        assert writer.stats()["memory"]["blocks"] == 1  # the other reader's
        del other
        eventually(lambda: writer.stats()["memory"]["blocks"] == 0, "the block's return")


def test_a_small_array_beside_a_large_one_does_not_hold_the_block() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue([np.arange(10), np.arange(LARGE)])
        small = reader.dequeue(10)[0]
        assert leases(reader) == (0, 0)
        assert writer.stats()["memory"]["blocks"] == 0
        for _ in range(20):
            writer.enqueue(np.full(LARGE, -1))
            reader.dequeue(10)
        assert small.tolist() == list(range(10))


def test_large_bytes_are_a_copy_and_hold_nothing() -> None:
    with broadcast() as (writer, (reader,)):
        for message in (b"x" * LARGE, "y" * LARGE):
            writer.enqueue(message)
            assert reader.dequeue(10) == message
        assert leases(reader) == (0, 0)
        assert writer.stats()["memory"]["blocks"] == 0


TENSORS = ["uint8", "int16", "int64", "float16", "bfloat16", "float32", "float64", "complex64", "bool", "float8_e5m2"]


def zero_copy_readers(writer: MessageQueue, count: int) -> list[MessageQueue]:
    return [MessageQueue.create_from_handle(writer.export_handle(), n, zero_copy=True) for n in range(count)]


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_every_dtype_arrive_equal_writable_and_private(name: str, zero_copy: bool) -> None:
    torch = pytest.importorskip("torch")
    with MessageQueue(2) as writer:
        handle = writer.export_handle()
        readers = [MessageQueue.create_from_handle(handle, n, zero_copy=zero_copy) for n in (0, 1)]
        for size in (4, LARGE):
            bits = torch.arange(size * 16).remainder(2 if name == "bool" else 120).to(torch.uint8)
            sent = bits.view(getattr(torch, name))
            writer.enqueue({"x": sent, "view": sent[:2]})
            for reader in readers:
                received = reader.dequeue(10)
                assert received["x"].dtype == sent.dtype
                assert torch.equal(received["x"].view(torch.uint8), bits)
                received["x"].view(torch.uint8).fill_(1)  # the next reader must not see it
                assert received["view"].view(torch.uint8).unique().tolist() == [1]  # but its own aliases do
                blocks = leases(reader)[0]
                assert blocks == (1 if zero_copy and size == LARGE else 0)
            del received
        for reader in readers:
            reader.close()
        assert writer.stats()["memory"]["blocks"] == 0


def test_parameters_and_modules_arrive() -> None:
    torch: Any = pytest.importorskip("torch")
    layer = torch.nn.Linear(300, 200)
    with broadcast() as (writer, (reader,)):
        writer.enqueue([layer.weight, layer])
        weight, received = reader.dequeue(10)
        assert type(weight) is torch.nn.Parameter
        assert weight.requires_grad
        assert received.weight is weight
        assert all(starmap(torch.equal, zip(layer.parameters(), received.parameters(), strict=True)))
        assert leases(reader) == (0, 0)


def test_a_change_of_a_zero_copy_tensor_is_seen_by_no_reader_and_by_no_later_message_in_its_block() -> None:
    torch: Any = pytest.importorskip("torch")
    with MessageQueue(2, max_leases=1) as writer:
        first, second = zero_copy_readers(writer, 2)
        places = set()
        for n in range(20):
            writer.enqueue(torch.full((LARGE,), n))
            changed, other = first.dequeue(10), second.dequeue(10)
            places.add(changed.data_ptr())
            assert int(changed.min()) == int(changed.max()) == n
            changed.mul_(0).sub_(n + 1)
            assert int(changed.min()) == int(changed.max()) == -n - 1
            assert int(other.min()) == int(other.max()) == n
            del changed, other
        assert len(places) < 20  # blocks were used again
        for reader in (first, second):
            reader.close()


def test_a_changed_zero_copy_tensor_keeps_its_values_after_the_queue_is_gone() -> None:
    torch: Any = pytest.importorskip("torch")
    writer = MessageQueue(1)
    (reader,) = zero_copy_readers(writer, 1)
    writer.enqueue(torch.zeros(LARGE))
    tensor = reader.dequeue(10)
    tensor[:10] = 5
    for _ in range(20):
        writer.enqueue(np.ones(LARGE))
        reader.dequeue(10)
    reader.close()
    writer.close()
    del reader, writer
    assert float(tensor.sum()) == 50
    tensor.add_(1)
    assert float(tensor.sum()) == 50 + LARGE

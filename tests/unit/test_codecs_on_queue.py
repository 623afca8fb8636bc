"""The codecs through a real queue: what each carries, what readers refuse, and that the arena is empty afterwards."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ringcast import MessageQueue
from ringcast.errors import DecodeError, EncodeError, PickleRefusedError
from tests.support import Background, broadcast, eventually

LARGE = 100_000


def blocks(writer: MessageQueue) -> int:
    return writer.stats()["memory"]["blocks"]


class Order(msgspec.Struct):
    symbol: str
    prices: list[float]
    book: Any = None


class Reader:
    """A reader's end with options, closed with its block."""

    def __init__(self, writer: MessageQueue, rank: int = 0, **options: Any) -> None:
        self._end = MessageQueue.create_from_handle(writer.export_handle(), rank, **options)

    def __enter__(self) -> MessageQueue:
        return self._end

    def __exit__(self, *_: object) -> None:
        self._end.close()


@pytest.mark.parametrize(
    "sent",
    [None, True, 0, -(2**63), 2**64 - 1, 1.5, "text", "t" * LARGE, [1, [2]], {"a": {"b": None}}, list(range(50_000))],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
def test_plain_objects_arrive(codec: Any, sent: Any) -> None:
    with broadcast(2, codec=codec) as (writer, readers):
        writer.enqueue(sent)
        assert [reader.dequeue(10) for reader in readers] == [sent, sent]
        assert blocks(writer) == 0


@pytest.mark.parametrize("codec", ["pickle", "msgpack", "raw"])
@pytest.mark.parametrize("size", [0, 1, 1120, 1121, LARGE])
def test_bytes_arrive_as_bytes_with_every_codec(size: int, codec: Any) -> None:
    with broadcast(codec=codec) as (writer, (reader,)):
        writer.enqueue(b"b" * size)
        received = reader.dequeue(10)
        assert type(received) is bytes
        assert received == b"b" * size


@pytest.mark.parametrize("size", [3, LARGE])
def test_raw_sends_the_bytes_of_what_has_some_and_refuses_the_rest(size: int) -> None:
    with broadcast(codec="raw") as (writer, (reader,)):
        for sent in (bytearray(size), memoryview(bytes(size)), np.arange(size), np.ones((size, 2), order="F")):
            writer.enqueue(sent)
            view = sent.T if isinstance(sent, np.ndarray) and not sent.flags.c_contiguous else sent
            assert reader.dequeue(10) == bytes(memoryview(view).cast("B") if not isinstance(view, np.ndarray) else view)
        refused: list[Any] = ["text", 5, [b"x"], np.arange(2 * size)[::2], np.array([None] * size)]
        for sent in refused:
            with pytest.raises(EncodeError, match="raw"):
                writer.enqueue(sent)
        assert reader.try_dequeue() is None
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"


def test_what_a_codec_cannot_encode_sends_nothing_and_holds_nothing() -> None:
    for codec, sent in (("msgpack", [np.ones(LARGE), object()]), ("pickle", [np.ones(LARGE), threading.Lock()])):
        with broadcast(codec=codec) as (writer, (reader,)):
            with pytest.raises(EncodeError):
                writer.enqueue(sent)
            assert reader.try_dequeue() is None
            assert blocks(writer) == 0
            writer.enqueue([1])
            assert reader.dequeue(10) == [1]


def test_a_lambda_travels_by_cloudpickle_with_the_arrays_it_holds() -> None:
    pytest.importorskip("cloudpickle")
    held = np.arange(LARGE)
    with broadcast() as (writer, (reader,)):
        writer.enqueue(lambda n: held[n])
        function = reader.dequeue(10)
        for _ in range(20):
            writer.enqueue(np.zeros(LARGE))
            reader.dequeue(10)
        assert [function(n) for n in (0, 5, LARGE - 1)] == [0, 5, LARGE - 1]
        del function
        assert blocks(writer) == 0


@pytest.mark.parametrize("size", [2, LARGE])
def test_messages_are_converted_to_the_reader_s_type_and_others_are_an_error(size: int) -> None:
    with MessageQueue(1, codec="msgpack") as writer, Reader(writer, message_type=Order) as reader:
        writer.enqueue(Order("ACME", [1.5, 2.5], np.arange(size)))
        writer.enqueue({"symbol": 5, "prices": [], "book": np.arange(size)})
        writer.enqueue({"symbol": "X", "prices": [1]})
        received = reader.dequeue(10)
        assert type(received) is Order
        assert (received.symbol, received.prices, received.book.tolist()) == ("ACME", [1.5, 2.5], list(range(size)))
        del received
        with pytest.raises(DecodeError, match="consumed"):
            reader.dequeue(10)
        assert reader.dequeue(10) == Order("X", [1.0])
        assert blocks(writer) == 0


def by_argument(writer: MessageQueue, _: pytest.MonkeyPatch) -> Reader:
    return Reader(writer, allow_pickle=False)


def by_environment(writer: MessageQueue, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setenv("RINGCAST_ALLOW_PICKLE", "0")
    return Reader(writer)


@pytest.mark.parametrize("size", [3, LARGE])
@pytest.mark.parametrize("refusing", [by_argument, by_environment])
def test_a_refused_pickle_is_consumed_and_the_next_message_comes(
    refusing: Callable[..., Reader], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(size)
    messages: list[Any] = [b"1", [array], array, {"plain": "x" * size}, b"2", (1,)]
    with MessageQueue(1, max_chunks=20) as writer, refusing(writer, monkeypatch) as reader:
        for _ in range(3):
            writer.enqueue_many(messages)
        refused = pytest.raises(PickleRefusedError, match="allow_pickle=False")

        assert reader.dequeue(10) == b"1"
        with refused:
            reader.dequeue(10)
        assert reader.dequeue(10).tolist() == array.tolist()
        with refused:
            reader.try_dequeue()
        assert reader.dequeue(10) == b"2"
        with refused:
            reader.dequeue(10)

        assert reader.dequeue_many(20, 10) == [b"1"]
        with refused:
            reader.dequeue_many(20, 10)
        assert [m.tolist() for m in reader.dequeue_many(20, 10)] == [array.tolist()]
        with refused:
            reader.dequeue_many(20, 10)
        assert reader.dequeue_many(1, 10) == [b"2"]
        with refused:
            reader.dequeue_many(1, 10)

        assert next(reader) == b"1"
        with refused:
            next(reader)
        assert next(reader).tolist() == array.tolist()
        with refused:
            next(reader)
        writer.shutdown()
        assert next(reader) == b"2"
        with refused:
            next(reader)
        assert list(reader) == []


def test_a_refused_pickle_gives_its_block_back_and_other_readers_get_it() -> None:
    with MessageQueue(2) as writer:
        with Reader(writer, 0, allow_pickle=False) as careful, Reader(writer, 1, allow_pickle=True) as trusting:
            writer.enqueue([np.arange(LARGE)])
            with pytest.raises(PickleRefusedError):
                careful.dequeue(10)
            assert trusting.dequeue(10)[0][-1] == LARGE - 1
            assert blocks(writer) == 0


def test_arrays_and_msgpack_pass_where_pickles_are_refused() -> None:
    with MessageQueue(1, codec="msgpack") as writer, Reader(writer, allow_pickle=False) as reader:
        for sent in (np.arange(LARGE), np.arange(3), np.zeros(LARGE, "M8[s]")):
            writer.enqueue(sent)
            received = reader.dequeue(10)
            assert (received.dtype, received.tobytes()) == (sent.dtype, sent.tobytes())
        writer.enqueue({"a": [np.arange(LARGE), 1.5]})
        assert reader.dequeue(10)["a"][0][7] == 7


def equal(a: Any, b: Any) -> bool:
    """Equal in types, dtypes and bytes, so that NaNs equal themselves."""
    if isinstance(a, np.ndarray):
        same = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        return same and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if type(a).__name__ == "Tensor":
        return type(a) is type(b) and a.dtype == b.dtype and equal(a.numpy(), b.numpy())
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def repeated(array: Any) -> Any:
    """Some of the arrays are large, which hypothesis would not make them."""
    return np.concatenate([array.reshape(-1)] * (40_000 // (array.size or 1)))


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=99)
SMALL = npst.arrays(
    # NumPy's own pickling loses the byte order of dates.
    npst.scalar_dtypes().filter(lambda dtype: dtype.isnative) | npst.unicode_string_dtypes(),
    npst.array_shapes(min_dims=0, min_side=0),
)
ARRAYS = SMALL | SMALL.filter(lambda a: a.size > 0).map(repeated)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    )


def with_tensors() -> st.SearchStrategy[Any]:
    try:
        import torch
    except ImportError:
        return PLAIN | ARRAYS
    number = npst.integer_dtypes(endianness="=", sizes=(8, 16, 32, 64)) | npst.floating_dtypes(endianness="=")
    arrays = npst.arrays(number, npst.array_shapes(min_dims=0, min_side=0))
    return PLAIN | ARRAYS | (arrays | arrays.filter(lambda a: a.size > 0).map(repeated)).map(torch.from_numpy)


OBJECTS = {"pickle": nested(with_tensors()), "msgpack": nested(PLAIN | ARRAYS), "raw": st.binary() | ARRAYS}


@pytest.mark.parametrize("codec", OBJECTS)
@given(data=st.data(), n_reader=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_object_arrives_equal_at_all_readers_and_leaves_the_arena_empty(
    codec: Any, data: st.DataObject, n_reader: int, seed: int
) -> None:
    objects = data.draw(st.lists(OBJECTS[codec], min_size=1, max_size=6))
    if codec == "raw":
        objects = [o if isinstance(o, bytes) else np.ascontiguousarray(o).tobytes() for o in objects]
    chance = random.Random(seed)
    with broadcast(n_reader, codec=codec) as (writer, readers):
        held: list[tuple[int, Any]] = []
        for number, sent in enumerate(objects):
            writer.enqueue(sent, timeout=30)
            held += [(number, reader.dequeue(30)) for reader in readers]

        def drop(mine: list[tuple[int, Any]]) -> bool:
            good = True
            while mine:
                number, received = mine.pop()
                good = equal(objects[number], received) and good
                del received
            return good

        chance.shuffle(held)
        shares = [held[n::3] for n in range(3)]
        held.clear()
        dropping = [Background(drop, share) for share in shares]
        results = [thread.result() for thread in dropping]
        assert results == [True] * 3
        eventually(lambda: blocks(writer) == 0, "the blocks' return")
        assert all((r["leased_blocks"], r["leased_bytes"]) == (0, 0) for r in writer.stats()["readers"])

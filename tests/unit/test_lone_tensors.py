"""Tensors sent on their own: what travels natively arrives equal and private, without pickle; all else as before."""

from __future__ import annotations

import math
import re
import struct
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringcast import MessageQueue
from ringcast.errors import CorruptError, EncodeError, PickleRefusedError
from tests.support import Background, broadcast, mapped, run_python, unique_name

torch: Any = pytest.importorskip("torch")

LARGE = 200_000
"""Bytes that a block is needed for, with pages of its own."""

DTYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


def filled(name: str, shape: tuple[int, ...]) -> Any:
    """A tensor whose elements are any bits that make a value of its dtype."""
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size() * math.prod(shape)
    bits = torch.arange(size).remainder(2 if name == "bool" else 251).to(torch.uint8)
    return bits.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def raw(tensor: Any) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def same(a: Any, b: Any) -> bool:
    assert (type(a), a.dtype, a.shape, a.stride(), a.requires_grad) == (
        *(type(b), b.dtype, b.shape, b.stride(), b.requires_grad),
    )
    return raw(a) == raw(b)


def blocks(writer: MessageQueue) -> int:
    return int(writer.stats()["memory"]["blocks"])


def attached(writer: MessageQueue, rank: int = 0, **options: Any) -> MessageQueue:
    return MessageQueue.create_from_handle(writer.export_handle(), rank, **options)


SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple) | st.sampled_from([(LARGE,), (1, LARGE), (2, 3, LARGE, 1)])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
@given(name=st.sampled_from(DTYPES), shape=SHAPES)
@settings(deadline=None, max_examples=60)
def test_any_arrives_equal_and_private_at_readers_that_refuse_pickles(
    codec: Any, name: str, shape: tuple[int, ...]
) -> None:
    sent = filled(name, shape)
    bits = raw(sent)
    with MessageQueue(3, codec=codec) as writer:
        readers = [attached(writer, n, allow_pickle=False, zero_copy=n == 1) for n in range(3)]
        writer.enqueue(sent)
        for number, reader in enumerate(readers):
            received = reader.dequeue(10)
            assert same(received, sent)
            assert received._base is None
            if received.numel():
                received.reshape(-1).view(torch.uint8)[:] = 1  # the next reader must not see it
            (row,) = [each for each in writer.stats()["readers"] if each["rank"] == number]
            assert row["leased_blocks"] == (1 if number == 1 and len(bits) >= LARGE else 0)
            del received
            reader.close()
        assert raw(sent) == bits
        assert blocks(writer) == 0


def quantized() -> Any:
    return torch.quantize_per_tensor(torch.ones(9), 0.1, 0, torch.qint8)


def with_an_attribute() -> Any:
    tensor = torch.ones(3)
    tensor.label = "x"
    return tensor


def with_a_hook_left() -> Any:
    tensor = torch.ones(3, requires_grad=True)
    tensor.register_hook(torch.nn.Identity())
    return tensor.detach_().requires_grad_(False)


OTHERS: dict[str, Callable[[], Any]] = {
    "requires_grad": lambda: torch.ones(LARGE, requires_grad=True),
    "Parameter": lambda: torch.nn.Parameter(torch.ones(LARGE)),
    "conj": lambda: filled("complex64", (50,)).conj(),
    "neg": lambda: filled("complex64", (50,)).conj().imag,
    "transposed": lambda: filled("float32", (300, 200)).T,
    "every other": lambda: filled("int16", (300,))[::2],
    "expanded": lambda: torch.ones(1).expand(70),
    "channels_last": lambda: filled("int64", (2, 3, 4, 5)).to(memory_format=torch.channels_last),
    "an axis of one with another stride": lambda: filled("int64", (12,)).as_strided((1, 4), (7, 1)),
    "sparse": lambda: torch.eye(5).to_sparse(),
    "quantized": quantized,
    "an attribute": with_an_attribute,
    "a hook": with_a_hook_left,
    "int1": lambda: filled("uint8", (8,)).view(torch.int1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_pickled_and_arrive_equal(kind: str) -> None:
    sent = OTHERS[kind]()
    with MessageQueue(2) as writer:
        readers = [attached(writer), attached(writer, 1, allow_pickle=False)]
        writer.enqueue(sent)
        with pytest.raises(PickleRefusedError):
            readers[1].dequeue(10)
        received = readers[0].dequeue(10)
        assert (type(received), received.dtype, received.shape) == (type(sent), sent.dtype, sent.shape)
        assert received.requires_grad == sent.requires_grad
        if kind == "sparse":
            received, sent = received.to_dense(), sent.to_dense()
        if kind == "quantized":
            assert torch.equal(received, sent)
        else:
            assert kind == "neg" or received.stride() == sent.stride()
            assert raw(received) == raw(sent)
        assert getattr(received, "label", None) == getattr(sent, "label", None)
        for reader in readers:
            reader.close()


def test_a_zero_tensor_without_memory_is_refused_by_pytorch_s_own_pickling() -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(EncodeError, match="not serializable"):
            writer.enqueue(torch._efficientzerotensor(4))
        assert reader.try_dequeue() is None


class Labelled(torch.Tensor):  # type: ignore[misc]
    """A subclass is more than its elements."""


def test_a_subclass_keeps_its_type() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(torch.ones(30).as_subclass(Labelled))
        received = reader.dequeue(10)
        assert type(received) is Labelled
        assert received.tolist() == [1] * 30


def test_a_part_of_a_storage_is_sent_without_the_rest() -> None:
    whole = torch.arange(100_000)
    with broadcast() as (writer, (reader,)):
        before = writer.stats()["bytes"]
        writer.enqueue(whole[500:600])
        assert writer.stats()["bytes"] - before < 1000
        assert same(reader.dequeue(10), whole[500:600])


@pytest.mark.parametrize("left", [0, 2000])
def test_a_tensor_beyond_its_storage_is_not_read(left: int) -> None:
    sent = torch.ones(1000)
    sent.untyped_storage().resize_(left)
    with broadcast(codec="msgpack") as (writer, (reader,)):
        with pytest.raises(EncodeError):
            writer.enqueue(sent)
        assert reader.try_dequeue() is None


def test_memory_is_free_as_soon_as_its_last_view_is_gone_at_both_ends() -> None:
    with MessageQueue(1, max_bytes=8 << 20, max_chunk_bytes=1 << 20) as writer:
        reader = attached(writer, zero_copy=True)
        memory = np.ones(LARGE, np.float32)
        source = torch.from_numpy(memory)
        for n in range(50):  # many times what there is room for
            writer.enqueue(source, timeout=10)
            received = reader.dequeue(10)
            alias = received[10:20]
            del received
            assert blocks(writer) == 1
            alias += n
            assert alias.tolist() == [n + 1] * 10
            del alias
            assert blocks(writer) == 0
        writer.enqueue(source)
        sent = weakref.ref(memory)
        del source, memory
        assert sent() is None
        kept = reader.dequeue(10)
        reader.close()
    assert kept.sum() == LARGE  # though both ends are closed


def test_many_at_a_time_and_try_enqueue_send_them_too() -> None:
    sent = [filled("float32", (n, 1000)) for n in (0, 1, 50)]
    with MessageQueue(1) as writer:
        reader = attached(writer, allow_pickle=False)
        assert writer.enqueue_many([*sent, b"x"]) == 4
        received = reader.dequeue_many(10, 10)
        assert all(same(a, b) for a, b in zip(received[:3], sent, strict=True))
        assert writer.try_enqueue(sent[2])
        assert same(reader.dequeue(10), sent[2])
        reader.close()


def test_raw_refuses_what_it_refused() -> None:
    with broadcast(codec="raw") as (writer, (reader,)):
        with pytest.raises(EncodeError, match="raw"):
            writer.enqueue(torch.ones(3))
        assert reader.try_dequeue() is None


HEADER = struct.pack("=IBcH2q7s", 64, 2, b"C", 7, 3, 5, b"float32")
"""Of a float32 tensor of shape (3, 5)."""


@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (0, struct.pack("=I", 128)),
        (4, b"\x01"),
        (4, b"\xff"),
        (5, b"F"),
        (5, b"?"),
        (6, struct.pack("=H", 60_000)),
        (6, struct.pack("=H", 6)),
        (8, struct.pack("=q", 4)),
        (8, struct.pack("=q", -3)),
        (8, struct.pack("=qq", 2**62, 2**62 + 15)),
        (8, struct.pack("=qq", 0, 2**63 - 1)),
        (24, b"float64"),
        (24, b"float\xff2"),
        (24, b"strided"),
        (24, b"__doc__"),
    ],
)
def test_a_damaged_header_is_an_error_and_the_next_message_comes(offset: int, damage: bytes) -> None:
    with broadcast(name=unique_name()) as (writer, (reader,)):
        writer.enqueue(torch.ones(3, 5))
        writer.enqueue(torch.zeros(2))
        with mapped(writer.segment) as memory:
            begin = memory.find(HEADER)
            assert begin > 0
            memory[begin + offset : begin + offset + len(damage)] = damage
        with pytest.raises(CorruptError, match="array or tensor"):
            reader.dequeue(10)
        assert reader.dequeue(10).tolist() == [0, 0]


READER = """
import sys
from ringcast import MessageQueue
from ringcast.errors import DecodeError
reader = MessageQueue.attach(sys.argv[1], allow_pickle=False)
reader.wait_until_ready(60)
assert "torch" not in sys.modules
if sys.argv[2] == "without":
    sys.modules["torch"] = None
try:
    tensor = reader.dequeue(60)
    print(type(tensor), tensor.dtype, tensor.tolist())
except DecodeError as error:
    print(error)
print(reader.dequeue(60))
"""


@pytest.mark.parametrize(
    ("torch_is", "expected"),
    [("there", r"<class 'torch.Tensor'> torch.bfloat16 \[1.0, 1.0\]"), ("without", "torch cannot be imported here")],
)
def test_a_reader_imports_torch_for_a_tensor_or_says_that_it_cannot(torch_is: str, expected: str) -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        running = Background(run_python, READER, writer.name, torch_is)
        writer.wait_until_ready(60)
        writer.enqueue(torch.ones(2, dtype=torch.bfloat16))
        writer.enqueue(b"next")
        result = running.result()
        assert result.returncode == 0, result.stderr
        first, second = result.stdout.splitlines()
        assert re.search(expected, first)
        assert second == "b'next'"

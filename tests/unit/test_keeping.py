"""A reader may keep what it gets: what would stop the writer is a copy, and `copy` chooses otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import ArgumentError, QueueTimeoutError
from tests.support import broadcast, unique_name

MIB = 1 << 20


def leased(queue: MessageQueue) -> int:
    return sum(int(reader["leased_blocks"]) for reader in queue.stats()["readers"])


def numbered(n: int, bytes_: int) -> Any:
    return np.full(bytes_ // 8, n, np.int64)


@pytest.mark.parametrize(
    ("bytes_", "count"), [(256, 5000), (4096, 3000), (70_000, 2000), (MIB, 60), (3 * MIB, 20), (7 * MIB, 6)]
)
@pytest.mark.parametrize("n_reader", [1, 3])
@pytest.mark.parametrize("zero_copy", [False, True])
def test_readers_may_keep_any_number_of_arrays(bytes_: int, count: int, n_reader: int, zero_copy: bool) -> None:
    with MessageQueue(n_reader, max_bytes=16 * MIB, max_chunk_bytes=MIB, name=unique_name()) as writer:
        handle = writer.export_handle()
        readers = [MessageQueue.create_from_handle(handle, rank, zero_copy=zero_copy) for rank in range(n_reader)]
        kept: list[list[Any]] = [[] for _ in readers]
        for n in range(count // n_reader):
            writer.enqueue(numbered(n, bytes_), timeout=20)
            for reader, mine in zip(readers, kept, strict=True):
                mine.append(reader.dequeue(20))
        for mine in kept:
            assert all((array == n).all() for n, array in enumerate(mine))
        for reader in readers:
            reader.close()


@pytest.mark.parametrize("make", ["list", "dict of tensors", "tensor"])
def test_readers_may_keep_any_number_of_messages_with_large_parts(make: str) -> None:
    torch: Any = pytest.importorskip("torch")
    with MessageQueue(1, max_bytes=16 * MIB, max_chunk_bytes=MIB, name=unique_name()) as writer:
        with MessageQueue.create_from_handle(writer.export_handle(), 0, zero_copy=True) as reader:
            kept = []
            for n in range(150):
                array = numbered(n, 300_000)
                tensor = torch.from_numpy(array)
                message = {"list": [array, array[:10]], "dict of tensors": {"a": tensor, "b": array}, "tensor": tensor}
                writer.enqueue(message[make], timeout=20)
                kept.append(reader.dequeue(20))
            for n, got in enumerate(kept):
                parts = got.values() if isinstance(got, dict) else got if isinstance(got, list) else [got]
                assert all(bool((part == n).all()) for part in parts)


def test_some_large_arrays_are_views_and_small_ones_never_are() -> None:
    with broadcast(max_bytes=32 * MIB, max_chunk_bytes=MIB) as (writer, (reader,)):
        kept = []
        for n in range(3):
            writer.enqueue(numbered(n, MIB // 2))
            kept.append(reader.dequeue(10))
        assert leased(writer) == 3
        for n in range(300):
            writer.enqueue(numbered(n, 1000))
            kept.append(reader.dequeue(10))
        assert leased(writer) == 3
        kept.clear()
        assert leased(writer) == 0
        writer.enqueue(numbered(1, MIB // 2))
        kept.append(reader.dequeue(10))
        assert leased(writer) == 1, "who has let go gets views again"


def test_copy_true_makes_all_private_and_writable() -> None:
    with broadcast(copy=True, max_bytes=16 * MIB, max_chunk_bytes=MIB) as (writer, (reader,)):
        for bytes_ in (8, 4096, 100_000, 3 * MIB):
            writer.enqueue([numbered(1, bytes_), numbered(2, bytes_)])
            writer.enqueue(numbered(3, bytes_))
            arrays = [*reader.dequeue(10), reader.dequeue(10)]
            assert leased(writer) == 0
            for n, array in enumerate(arrays, 1):
                assert array.flags.writeable
                assert (array == n).all()
                array[:] = -n
            assert all((array == -n).all() for n, array in enumerate(arrays, 1))


def test_copy_false_makes_views_until_there_is_no_room() -> None:
    with broadcast(copy=False, max_bytes=16 * MIB, max_chunk_bytes=MIB) as (writer, (reader,)):
        kept: list[Any] = []
        while writer.try_enqueue(numbered(len(kept), MIB)):
            kept.append(reader.dequeue(10))
            assert leased(writer) == len(kept)
        assert len(kept) > 10
        with pytest.raises(QueueTimeoutError, match="rank 0"):
            writer.enqueue(numbered(0, MIB), timeout=0.2)
        assert all((array == n).all() for n, array in enumerate(kept))
        kept.clear()
        writer.enqueue("there is room", timeout=10)
        assert reader.dequeue(10) == "there is room"


def test_arrays_are_read_only_but_for_zero_copy_and_copy() -> None:
    choices: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"copy": False}, False),
        ({"zero_copy": True}, True),
        ({"copy": True}, True),
    ]
    for options, writable in choices:
        with MessageQueue(1) as writer:
            with MessageQueue.create_from_handle(writer.export_handle(), 0, **options) as reader:
                for bytes_ in (64, 100_000):
                    writer.enqueue(numbered(5, bytes_))
                    writer.enqueue({"a": numbered(5, bytes_)})
                    assert reader.dequeue(10).flags.writeable is writable
                    assert reader.dequeue(10)["a"].flags.writeable is writable


@pytest.mark.parametrize("copy", ["yes", 2, 0.0, []])
def test_copy_is_true_false_or_none(copy: Any) -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        handle = writer.export_handle()
        with pytest.raises(ArgumentError, match="copy"):
            MessageQueue.create_from_handle(handle, 0, copy=copy)
        with pytest.raises(ArgumentError, match="copy"):
            MessageQueue.attach(str(writer.name), copy=copy)
        truth: Any = np.True_
        with MessageQueue.create_from_handle(handle, 0, copy=truth) as reader:
            writer.enqueue(numbered(1, 100_000))
            assert reader.dequeue(10).flags.writeable

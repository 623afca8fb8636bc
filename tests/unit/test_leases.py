"""Leases: a view holds its message's block for as long as it lives, whoever drops it, and in whatever order."""

from __future__ import annotations

import gc
import os
import random
from functools import partial
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import MessageTooLargeError, QueueTimeoutError, ReaderEvictedError
from tests import support
from tests.support import FORGIVEN_RESCUES, Background, committed_bytes, eventually, parked, unique_name

broadcast = partial(support.broadcast, copy=False)
MIB = 1 << 20
COUNT = 25_000
"""Elements of a message: 200,000 bytes."""


def array(number: int, count: int = COUNT) -> Any:
    return np.full(count, number)


def holds(view: Any, number: int) -> bool:
    return int(view.min()) == int(view.max()) == number


def blocks(writer: MessageQueue) -> int:
    return writer.stats()["memory"]["blocks"]


def leased(end: MessageQueue) -> dict[int, tuple[int, int]]:
    return {r["rank"]: (r["leased_blocks"], r["leased_bytes"]) for r in end.stats()["readers"]}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_views_dropped_in_any_order_by_any_thread_give_their_blocks_back(seed: int, threads: int) -> None:
    chance = random.Random(seed)
    with broadcast(2) as (writer, readers):
        held: list[list[Any]] = []
        for n in range(60):
            writer.enqueue(array(n, chance.randrange(10_000, 60_000)))
            for reader in readers:
                held.append([n, reader.dequeue(10)])
        assert blocks(writer) == 60
        for end in (writer, *readers):
            assert all(count == 60 and size >= 60 * 8000 for count, size in leased(end).values())
        chance.shuffle(held)

        def drop(mine: list[list[Any]]) -> None:
            while mine:
                number, view = mine.pop()
                assert holds(view, number)
                del view

        dropping = [Background(drop, held[n::threads]) for n in range(threads)]
        held.clear()
        for thread in dropping:
            thread.result()
        assert set(leased(writer).values()) == {(0, 0)}
        assert blocks(writer) == 0
        assert writer.stats()["memory"]["data_used"] == 0


def test_a_block_is_in_use_until_the_last_reader_has_dropped_it() -> None:
    with broadcast(3) as (writer, readers):
        writer.enqueue(array(1))
        views = [reader.dequeue(10) for reader in readers[:2]]
        for _ in range(2):
            assert blocks(writer) == 1
            views.pop()
        assert blocks(writer) == 1  # the third has not read it
        readers[2].dequeue(10)
        assert blocks(writer) == 0


@pytest.mark.parametrize("how", ["close", "delete"])
@pytest.mark.parametrize("ends", [("reader",), ("writer",), ("reader", "writer"), ("writer", "reader")])
def test_views_outlive_the_ends_of_their_queue(ends: tuple[str, ...], how: str) -> None:
    with broadcast(max_chunks=3) as (writer, (reader,)):
        queues = {"writer": writer, "reader": reader}
        writer.enqueue_many([array(0), [array(1), "x"], b"z" * 100_000])
        views = [reader.dequeue(10), reader.dequeue(10)[0]]
        with reader.acquire_read(timeout=10) as chunk:
            pass
        for end in ends:
            queues[end].close()
    if how == "delete":
        del writer, reader, queues
        gc.collect()
    others = [broadcast() for _ in range(3)]  # new mappings, which would take the place of one that is gone
    for other in others:
        with other as (another, (its_reader,)):
            another.enqueue(array(-1, 100_000))
            its_reader.dequeue(10)
    assert holds(views[0], 0)
    assert holds(views[1], 1)
    assert bytes(chunk) == b"z" * 100_000


@pytest.mark.parametrize("max_bytes", [None, 4 * MIB])
def test_the_memory_of_a_view_is_not_used_again_while_it_lives(max_bytes: int | None) -> None:
    with broadcast(2, max_bytes=max_bytes, max_chunk_bytes=MIB) as (writer, (first, second)):
        kept = []
        for n in range(5):
            writer.enqueue(array(n))
            kept.append(first.dequeue(10))
            second.dequeue(10)
        for n in range(100):
            writer.enqueue(array(-n - 1, 1000 + n * 1000), timeout=10)
            assert holds(first.dequeue(10), -n - 1)
            assert holds(second.dequeue(10), -n - 1)
        assert all(holds(view, n) for n, view in enumerate(kept))
        del kept
        assert blocks(writer) == 0


def test_with_all_leases_taken_the_writer_times_out_and_names_who_holds_them() -> None:
    with broadcast(2, max_leases=3) as (writer, (first, second)):
        kept: list[Any] = []
        for n in range(3):
            writer.enqueue(array(n))
            kept.append(second.dequeue(10))
            first.dequeue(10)
        size = leased(writer)[1][1]
        assert 600_000 <= size < MIB
        who = rf"rank 1 \(pid {os.getpid()}, this process\) holds views of 3 messages, {size} bytes"
        expected = rf"all 3 leases \(max_leases\).*{who}"
        for attempt in (lambda: writer.enqueue(array(9), timeout=0.02), writer.loan(5000, 0.02).__enter__):
            with pytest.raises(QueueTimeoutError, match=expected) as caught:
                attempt()
            assert "rank 0" not in str(caught.value)
        assert writer.try_enqueue(array(9)) is False
        writer.enqueue("small messages need no lease", timeout=10)
        assert first.dequeue(10) == second.dequeue(10)
        kept.pop(1)
        writer.enqueue(array(3), timeout=10)
        assert holds(first.dequeue(10), 3)
        assert all(holds(view, n) for view, n in zip(kept, (0, 2), strict=True))


def test_with_the_budget_spent_the_writer_times_out_and_names_who_holds_it() -> None:
    with broadcast(max_bytes=8 * MIB, max_chunk_bytes=MIB, max_leases=40, name=unique_name()) as (writer, (reader,)):
        kept: list[Any] = []
        while writer.try_enqueue(array(len(kept), MIB // 8)):
            kept.append(reader.dequeue(10))
        assert 5 <= len(kept) <= 7
        who = rf"max_bytes.*rank 0 \(pid {os.getpid()}, this process\) holds views of {len(kept)} messages, \d+\.\d MiB"
        with pytest.raises(QueueTimeoutError, match=who):
            writer.enqueue(array(9, MIB // 8), timeout=0.02)
        assert committed_bytes(writer.segment) <= 8 * MIB
        assert all(holds(view, n) for n, view in enumerate(kept))
        kept.pop()
        writer.enqueue(array(9, MIB // 8), timeout=10)
        assert holds(reader.dequeue(10), 9)
        assert committed_bytes(writer.segment) <= 8 * MIB


def test_a_message_above_max_chunk_bytes_arrives_in_order_and_in_place_and_is_counted() -> None:
    with broadcast(max_chunk_bytes=100_000) as (writer, (reader,)):
        sizes = [100, 90_000, 400_000, 80_000, 120_000, 10]
        views = []
        for n, size in enumerate(sizes):
            writer.enqueue(array(n, size // 8))
        for n, size in enumerate(sizes):
            views.append(reader.dequeue(10))
            assert (views[-1].size, holds(views[-1], n)) == (size // 8, True)
        assert leased(reader)[0][0] == 4
        assert writer.stats()["oversize"] == 2
        writer.enqueue(b"x" * 200_000)
        assert reader.dequeue(10) == b"x" * 200_000
        assert writer.stats()["oversize"] == 3


def test_a_message_above_the_budget_is_refused_and_nothing_is_taken() -> None:
    with broadcast(max_bytes=4 * MIB, max_chunk_bytes=MIB, name=unique_name()) as (writer, (reader,)):
        budget = writer.stats()["memory"]["data_budget"]
        before = (committed_bytes(writer.segment), writer.stats()["messages"])
        for message in (bytes(budget + 1), array(1, MIB), [array(1, MIB)]):
            with pytest.raises(MessageTooLargeError, match="max_bytes"):
                writer.enqueue(message, timeout=10)
        assert (committed_bytes(writer.segment), writer.stats()["messages"], blocks(writer)) == (*before, 0)
        writer.enqueue(bytes(budget), timeout=10)  # exactly all of it
        assert len(reader.dequeue(10)) == budget


@pytest.mark.parametrize("limit", ["leases", "budget"])
def test_dropping_a_view_wakes_a_parked_writer(limit: str) -> None:
    options: dict[str, Any] = {"max_leases": 2} if limit == "leases" else {"max_bytes": MIB, "max_chunk_bytes": 1000}
    with broadcast(2, wait="park", **options) as (writer, readers):
        kept: list[Any] = []
        sent = 0
        while writer.try_enqueue(array(sent)):
            sent += 1
            kept += [reader.dequeue(10) for reader in readers]
        for _ in range(40):
            before = writer.stats()["parks"]
            waiting = Background(writer.enqueue, array(sent), timeout=60)
            eventually(partial(parked, writer, before + 1), "the writer's sleep")
            kept.pop(0)
            assert waiting.running or limit == "budget"  # the other reader holds it, too
            Background(kept.pop, 0).result()
            waiting.result()
            kept += [reader.dequeue(10) for reader in readers]
            assert all(holds(view, sent) for view in kept[-2:])
            sent += 1
        assert writer.stats()["rescued_wakes"] <= FORGIVEN_RESCUES
        assert all(reader.stats()["rescued_wakes"] == 0 for reader in readers)  # they wait for nothing


def test_an_evicted_reader_s_views_stay_valid_and_their_blocks_come_back_when_it_drops_them() -> None:
    with broadcast(2, max_chunks=2) as (writer, (slow, fast)):
        kept = []
        for n in range(6):
            writer.enqueue(array(n))
            kept.append(slow.dequeue(10))
            fast.dequeue(10)
        for n in range(6, 100):
            if not writer.try_enqueue(array(n)):
                assert writer.evict(0) is True
                writer.enqueue(array(n), timeout=10)
            assert holds(fast.dequeue(10), n)
        with pytest.raises(ReaderEvictedError):
            slow.dequeue(10)
        assert all(holds(view, n) for n, view in enumerate(kept))
        assert 6 <= blocks(writer) <= 7  # it may have been at the message after them when it was evicted
        del kept[1:]
        assert 1 <= blocks(writer) <= 2
        slow.close()
        assert blocks(writer) == 1
        assert holds(kept.pop(), 0)
        assert blocks(writer) == 0


def test_a_late_joiner_holds_only_what_it_has_read_itself() -> None:
    with MessageQueue(2, name=unique_name()) as writer:
        assert writer.name is not None
        early = MessageQueue.attach(writer.name)
        writer.enqueue_many([array(n) for n in range(5)])
        views = [early.dequeue(10) for _ in range(4)]
        late = MessageQueue.attach(writer.name)
        writer.enqueue(array(5))
        views += [early.dequeue(10), early.dequeue(10)]
        assert all(holds(view, n) for n, view in enumerate(views))
        views.clear()
        assert blocks(writer) == 1
        view = late.dequeue(10)
        assert late.try_dequeue() is None
        assert (leased(writer)[early.rank or 0][0], leased(writer)[late.rank or 0][0]) == (0, 1)
        assert holds(view, 5)
        del view
        assert blocks(writer) == 0
        early.close()
        late.close()


def test_a_rank_is_taken_again_while_views_of_its_earlier_readers_live() -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        assert writer.name is not None
        kept: list[Any] = []
        for n in range(30):
            with MessageQueue.attach(writer.name, rank=0, timeout=10) as reader:
                writer.enqueue(array(n), timeout=10)
                kept.append((n, reader.dequeue(10)))
                writer.enqueue(array(-1), timeout=10)  # it leaves this one unread
            if len(kept) == 3:
                number, view = kept.pop(n % 3)
                assert holds(view, number)
                del view
            assert blocks(writer) == len(kept)
        assert all(holds(view, number) for number, view in kept)
        kept.clear()
        assert blocks(writer) == 0

"""Finding a queue: by handle, by name before and after it exists, and taking over the name of a dead creator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import ringcast
from ringcast import MessageQueue
from ringcast.errors import SegmentExistsError, SegmentNotFoundError
from tests.support import SHM, Background, Child, Link, eventually, unique_name


@pytest.fixture
def queue() -> Iterator[MessageQueue]:
    with MessageQueue(2, max_chunk_bytes=4096, max_chunks=4, name=unique_name()) as made:
        yield made


def test_a_handle_of_a_closed_queue_leads_nowhere() -> None:
    queue = MessageQueue(1)
    handle = queue.export_handle()
    queue.close(0)
    with pytest.raises(SegmentNotFoundError, match="its writer has closed it or died"):
        MessageQueue.create_from_handle(handle, 0)
    with pytest.raises(ringcast.errors.QueueClosedError, match="a handle of it would lead nowhere"):
        queue.export_handle()


def test_a_handle_does_not_reach_the_next_queue_of_the_same_name() -> None:
    name = unique_name()
    with MessageQueue(1, name=name) as first:
        handle = first.export_handle()
    with MessageQueue(1, name=name) as second:
        assert second.export_handle().epoch != handle.epoch
        with pytest.raises(SegmentNotFoundError, match="another queue has its name now"):
            MessageQueue.create_from_handle(handle, 0)
        assert [reader["state"] for reader in second.stats()["readers"]] == ["expected"]


def test_attaching_by_name_waits_for_the_queue_to_be_made() -> None:
    name = unique_name()
    attaching = Background(MessageQueue.attach, name, timeout=60)
    with MessageQueue(1, name=name) as queue:
        reader = attaching.result()
        queue.wait_until_ready(10)
        queue.enqueue("made")
        assert reader.dequeue(10) == "made"
        reader.close()


def test_attaching_by_name_gives_up_after_its_time_out() -> None:
    with pytest.raises(SegmentNotFoundError, match="no queue has the name 'nobody'"):
        MessageQueue.attach("nobody", timeout=0.01)


def test_attaching_waits_for_the_living_queue_of_a_name_that_another_has_just_left(queue: MessageQueue) -> None:
    assert queue.name is not None
    reader = MessageQueue.attach(queue.name)  # keeps the memory of the first, but not its name
    queue.shutdown()
    attaching = Background(MessageQueue.attach, queue.name, timeout=60)
    queue.close()
    with MessageQueue(1, name=queue.name) as second:
        again = attaching.result()
        assert again.stats()["epoch"] == second.stats()["epoch"]
        again.close()
    reader.close()


def _hold(link: Link, name: str) -> None:
    queue = MessageQueue(1, name=name)
    link.send(queue.segment)
    link.recv()


def test_a_dead_creator_s_name_is_taken_over_but_a_living_one_s_is_not(start: Callable[..., Child]) -> None:
    name = unique_name()
    first = start(_hold, name)
    real_name = first.receive()
    with pytest.raises(SegmentExistsError, match=f"a living queue of process {first.pid}"):
        MessageQueue(1, name=name)
    first.kill()
    assert (SHM / real_name).exists()
    with MessageQueue(1, name=name) as second, MessageQueue.attach(name) as reader:
        second.enqueue("mine now")
        assert reader.dequeue(10) == "mine now"
    assert not (SHM / real_name).exists()


def test_of_two_who_take_over_a_dead_creator_s_name_at_once_one_gets_it(start: Callable[..., Child]) -> None:
    name = unique_name()
    for _ in range(3):
        dead = start(_hold, name)
        dead.receive()
        dead.kill()
        rivals = [Background(MessageQueue, 1, name=name) for _ in range(4)]
        eventually(lambda rivals=rivals: not any(rival.running for rival in rivals), "the rivals' end")  # type: ignore[misc]
        winners = []
        for rival in rivals:
            try:
                winners.append(rival.result())
            except SegmentExistsError:
                continue
        assert len(winners) == 1
        winners[0].close()

"""Queues that groups make, stateless ones and torch.distributed's; and who shares memory with whom."""

from __future__ import annotations

from typing import Any

import pytest

from ringcast import MessageQueue, StatelessProcessGroup, in_the_same_node_as
from ringcast.errors import ArgumentError, ArgumentTypeError, NotReadyError, QueueClosedError
from tests.network.ranks import Meet, Starter, error_of
from tests.support import Link


def _who_shares(link: Link, meet: Meet) -> None:
    with meet() as group:
        link.send([in_the_same_node_as(group, source) for source in range(group.world_size)])
        group.barrier()


def test_ranks_with_a_dev_shm_of_their_own_share_memory_with_nobody_else(ranks: Starter) -> None:
    expected = [[True, True, False], [True, True, False], [False, False, True]]
    for rank in ranks(3, _who_shares, apart=(2,)):
        assert rank.receive() == expected


def _who_shares_with_0(link: Link, meet: Meet) -> None:
    with meet() as group:
        link.send(error_of(in_the_same_node_as, group, 0))
        group.barrier()


def test_what_fails_on_the_source_is_told_to_all(ranks: Starter) -> None:
    first, *others = ranks(3, _who_shares_with_0, apart=(0,), shm="16k")
    assert first.receive()[0] == "CapacityError"
    for rank in others:
        kind, about, text = rank.receive()
        assert (kind, about) == ("GroupError", (0,))
        assert "failed: CapacityError" in text


class Jobs(MessageQueue):
    """A user's queue, with an attribute that no JSON has."""

    tag: Any = None

    def export_handle(self) -> Any:
        self.tag = (1, b"two")
        return super().export_handle()


def _broadcast(link: Link, meet: Meet, kind: type[MessageQueue]) -> None:
    with meet() as group:
        queue = kind.create_from_process_group(group, 1 << 20, 4, 1, codec="pickle", on_full="raise")
    with queue:
        messages = [b"small", {"step": 1}, list(range(100_000))]
        assert [queue.broadcast_object(one if group.rank == 1 else None) for one in messages] == messages
        link.send((queue.role, queue.rank, getattr(queue, "tag", None)))
        if queue.role == "reader":
            with pytest.raises(QueueClosedError):
                queue.dequeue(30)


def test_any_rank_may_write_to_all_others(ranks: Starter) -> None:
    told = [rank.receive() for rank in ranks(3, _broadcast, MessageQueue)]
    assert told == [("reader", 0, None), ("writer", None, None), ("reader", 2, None)]


def test_a_subclasss_attributes_travel(ranks: Starter) -> None:
    told = [rank.receive() for rank in ranks(2, _broadcast, Jobs)]
    assert told == [("reader", 0, (1, b"two")), ("writer", None, (1, b"two"))]


def _make(link: Link, meet: Meet, options: dict[int, dict[str, Any]]) -> None:
    with meet() as group:
        arguments = {"max_chunk_bytes": 1 << 20, "max_chunks": 4, "timeout": 20, **options.get(group.rank, {})}
        link.send(error_of(MessageQueue.create_from_process_group, group, **arguments))
        group.barrier()


def test_ranks_that_share_no_memory_with_the_writer_read_over_a_link(ranks: Starter) -> None:
    told = [rank.receive() for rank in ranks(4, _broadcast, MessageQueue, apart=(0, 3))]
    assert told == [("reader", 0, None), ("writer", None, None), ("reader", 2, None), ("reader", 3, None)]


def test_a_reader_that_shares_no_memory_with_the_writers_has_all_their_queues(ranks: Starter) -> None:
    told = [rank.receive() for rank in ranks(3, _to_one, True, apart=(1,))]
    assert told == [[], [("from", 0), ("from", 1), ("from", 2)], []]


def test_other_sizes_and_writers_are_named(ranks: Starter) -> None:
    for options in ({1: {"max_chunks": 5}}, {1: {"writer_rank": 1}}):
        for rank in ranks(2, _make, options):
            kind, about, text = rank.receive()
            assert (kind, len(about)) == ("GroupMismatchError", 1)
            assert next(iter(options[1])) in text


def test_what_fails_on_the_writer_is_told_to_the_readers(ranks: Starter) -> None:
    first, second = ranks(2, _make, {0: {"name": "no/name"}})
    assert first.receive()[0] == "ArgumentError"
    kind, about, text = second.receive()
    assert (kind, about) == ("GroupError", (0,))
    assert "failed: ArgumentError: a queue's name must be" in text


def _not_waiting(link: Link, meet: Meet) -> None:
    with meet() as group:
        queue = MessageQueue.create_from_process_group(group, 1 << 20, 4, blocking=False)
        if group.rank == 0:
            queue.enqueue("sent before anybody waited")
            queue.wait_until_ready(30)
            link.send(group.all_gather_obj("")[0])
            queue.close()
        else:
            link.send(queue.dequeue(30))
            queue.wait_until_ready(30)
            group.all_gather_obj("")
            queue.close()


def test_without_blocking_nobody_waits_until_all_have_attached_and_nothing_is_lost(ranks: Starter) -> None:
    assert [rank.receive() for rank in ranks(2, _not_waiting)] == ["", "sent before anybody waited"]


def _read_from_outside(link: Link, meet: Meet, handle: Any) -> None:
    with meet() as group:
        given = handle if group.rank == 1 else None
        queue = MessageQueue.create_from_process_group(group, 1 << 20, 4, 1, given, blocking=False)
        with queue:
            link.send(queue.dequeue(30))
            group.barrier()


def test_a_writer_outside_of_the_group_is_read_by_all_ranks(ranks: Starter) -> None:
    with MessageQueue(2) as writer:
        started = ranks(2, _read_from_outside, writer.export_handle())
        writer.enqueue("from outside")
        assert [rank.receive() for rank in started] == ["from outside"] * 2


def test_an_external_handle_that_the_writer_rank_does_not_have_is_no_secret(ranks: Starter) -> None:
    with MessageQueue(2) as writer:
        for rank in ranks(2, _make, {1: {"external_writer_handle": writer.export_handle()}}):
            kind, about, text = rank.receive()
            assert (kind, about) == ("GroupMismatchError", (0,))
            assert "external_writer_handle" in text
        writer.shutdown()


def _to_one(link: Link, meet: Meet, blocking: bool) -> None:
    with meet() as group:
        own, handles = MessageQueue.create_from_process_group_single_reader(group, 1 << 20, 4, 1, blocking)
        ends = [MessageQueue.create_from_handle(handle, 0) for handle in handles]
        own.enqueue(("from", group.rank))
        link.send([end.dequeue(30) for end in ends])
        group.barrier()
        for end in (own, *ends):
            end.close()


@pytest.mark.parametrize("blocking", [False, True])
def test_every_rank_writes_to_one_reader(ranks: Starter, blocking: bool) -> None:
    told = [rank.receive() for rank in ranks(3, _to_one, blocking)]
    assert told == [[], [("from", 0), ("from", 1), ("from", 2)], []]


def _over_torch(link: Link, meet: Meet) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{meet.port}", rank=meet.rank, world_size=meet.size)
    part = dist.new_group([0, 2])
    assert in_the_same_node_as(dist.group.WORLD, 1) == [True] * 3
    with MessageQueue.create_from_process_group(dist.group.WORLD, 1 << 20, 4, writer_rank=2) as queue:
        assert queue.broadcast_object("to the world" if meet.rank == 2 else None) == "to the world"
    if meet.rank != 1:
        with MessageQueue.create_from_process_group(part, 1 << 20, 4, writer_rank=1) as queue:  # rank 2 of the world
            assert queue.role == ("writer" if meet.rank == 2 else "reader")
            assert queue.broadcast_object("to a part" if meet.rank == 2 else None) == "to a part"
    else:
        kind, _, text = error_of(MessageQueue.create_from_process_group, part, 1 << 20, 4)
        assert kind in ("ArgumentError", "ArgumentTypeError"), text
    own, handles = MessageQueue.create_from_process_group_single_reader(dist.group.WORLD, 1 << 20, 4)
    assert len(handles) == (3 if meet.rank == 0 else 0)
    ends = [MessageQueue.create_from_handle(handle, 0) for handle in handles]
    dist.barrier()
    for end in (own, *ends):
        end.close()
    link.send("all done")
    link.recv()
    link.send(error_of(MessageQueue.create_from_process_group, dist.group.WORLD, 1 << 20, 4, timeout=30))
    link.recv()  # rank 0 holds the store


def test_torch_distributeds_groups_and_their_parts_make_queues_and_name_the_dead(ranks: Starter) -> None:
    started = ranks(3, _over_torch, shared_port=True)
    assert [rank.receive() for rank in started] == ["all done"] * 3
    started[1].kill()
    for rank in (started[0], started[2]):
        rank.link.send("go on")
    for rank in (started[0], started[2]):
        kind, about, text = rank.receive(25)
        assert (kind, about) == ("GroupPeerError", (1,)), text
        assert f"pid {started[1].pid}) has ended" in text


def _meet_over_torch(link: Link, meet: Meet, ports: list[int]) -> None:
    import torch.distributed as dist

    for port in ports:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=meet.rank, world_size=meet.size)
        link.send(in_the_same_node_as(dist.group.WORLD, timeout=20))
        link.recv()
        dist.destroy_process_group()


def test_who_comes_in_the_place_of_a_rank_meets_those_who_have_begun_torch_distributed_again(ranks: Starter) -> None:
    ports = [ranks._reserved_port() for _ in range(2)]
    stays = ranks.one(_meet_over_torch, Meet(0, 2, 0), ports)
    goes = ranks.one(_meet_over_torch, Meet(1, 2, 0), ports[:1])
    assert [rank.receive() for rank in (stays, goes)] == [[True, True]] * 2
    for rank in (goes, stays):
        rank.link.send("go on")
    comes = ranks.one(_meet_over_torch, Meet(1, 2, 0), ports[1:])
    assert [rank.receive() for rank in (stays, comes)] == [[True, True]] * 2
    for rank in (comes, stays):
        rank.link.send("go on")


def test_what_is_no_group_and_a_group_without_readers_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="pg must be"):
        in_the_same_node_as("world")  # type: ignore[arg-type]
    with StatelessProcessGroup.create("127.0.0.1", 0, 0, 1) as group:
        with pytest.raises(ArgumentError, match="a reader besides its writer"):
            MessageQueue.create_from_process_group(group, 1 << 20, 4)
        with MessageQueue(2) as writer:
            with pytest.raises(NotReadyError, match="rank 1 has not attached"):
                MessageQueue.create_from_process_group(
                    group, 1 << 20, 4, external_writer_handle=writer.export_handle(), timeout=0.3
                )
            writer.shutdown()

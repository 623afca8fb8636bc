"""Queues that groups make whose ranks are on several machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ringcast import MessageQueue, in_the_same_node_as
from tests.network.machines import Machine, Worker, visited
from tests.network.ranks import Meet, error_of
from tests.support import DEADLINE_S, Link

pytestmark = pytest.mark.usefixtures("torch_machine_server")

PORT = 29500


def _spread(places: Sequence[Machine], function: Callable[..., None], *arguments: Any, **options: Any) -> list[Worker]:
    """Rank n on the n-th of these machines; rank 0's holds the store."""
    return [
        machine.start(function, Meet(rank, len(places), PORT, host=places[0].ip), *arguments, **options)
        for rank, machine in enumerate(places)
    ]


def _broadcast(link: Link, meet: Meet, writer: int, blocking: bool, options: dict[str, Any]) -> None:
    with meet() as group:
        queue = MessageQueue[Any].create_from_process_group(group, 1 << 20, 4, writer, None, blocking, **options)
    with queue:
        messages = [b"small", {"step": 1}, list(range(200_000)), "last"]
        assert [queue.broadcast_object(one if group.rank == writer else None) for one in messages] == messages
        link.send((queue.role, queue.rank))
        if queue.role == "reader":
            link.send(error_of(queue.dequeue, DEADLINE_S)[0])
        else:
            queue.close(DEADLINE_S)  # a machine with much to do takes its time to come


@pytest.mark.parametrize("options", [{}, {"encrypt": False, "link_timeout": 5.0}])
@pytest.mark.parametrize(("writer", "blocking"), [(0, True), (2, False)])
def test_any_rank_writes_to_ranks_on_all_machines(writer: int, blocking: bool, options: dict[str, Any]) -> None:
    with visited(3) as (a, b, c):
        ranks = _spread([a, a, b, b, c], _broadcast, writer, blocking, options)
        told = [rank.receive() for rank in ranks]
        assert told == [("writer", None) if rank == writer else ("reader", rank) for rank in range(5)]
        assert [rank.receive() for n, rank in enumerate(ranks) if n != writer] == ["QueueClosedError"] * 4


def _to_one(link: Link, meet: Meet, reader: int, blocking: bool) -> None:
    with meet() as group:
        own, handles = MessageQueue[Any].create_from_process_group_single_reader(group, 1 << 20, 4, reader, blocking)
        ends = [MessageQueue[Any].create_from_handle(handle, 0) for handle in handles]
        own.enqueue(("from", group.rank))
        link.send([end.dequeue(DEADLINE_S) for end in ends])
        group.barrier()
        for end in (own, *ends):
            end.close()


@pytest.mark.parametrize("blocking", [False, True])
def test_ranks_on_all_machines_write_to_one_reader(blocking: bool) -> None:
    with visited(3) as (a, b, c):
        told = [rank.receive() for rank in _spread([a, b, b, c], _to_one, 1, blocking)]
        assert told == [[], [("from", 0), ("from", 1), ("from", 2), ("from", 3)], [], []]


def _write_outside(link: Link, options: dict[str, Any]) -> None:
    with MessageQueue[Any](**options) as queue:
        link.send(queue.export_handle())
        queue.enqueue("from outside")
        link.recv()


def _read_from_outside(link: Link, meet: Meet, handle: Any) -> None:
    with meet() as group:
        given = handle if group.rank == 1 else None
        queue = MessageQueue[Any].create_from_process_group(group, 1 << 20, 4, 1, given, blocking=False)
        with queue:
            link.send(queue.dequeue(DEADLINE_S))
            group.barrier()


def test_a_writer_outside_of_the_group_is_read_on_all_machines() -> None:
    with visited(3) as (a, b, c):
        options = {"n_reader": 3, "n_local_reader": 0, "max_chunk_bytes": 1 << 20, "max_chunks": 4, "connect_ip": c.ip}
        writer = c.start(_write_outside, options)
        ranks = _spread([a, a, b], _read_from_outside, writer.receive())
        assert [rank.receive() for rank in ranks] == ["from outside"] * 3
        for rank in ranks:
            assert rank.wait() == 0
        writer.send("end")


def _over_torch(link: Link, meet: Meet) -> None:
    import torch.distributed as dist

    where = f"tcp://{meet.host}:{meet.port}"
    dist.init_process_group("gloo", init_method=where, rank=meet.rank, world_size=meet.size)
    assert in_the_same_node_as(dist.group.WORLD, 0) == [True, False, False]
    with MessageQueue[Any].create_from_process_group(dist.group.WORLD, 1 << 20, 4, writer_rank=2) as queue:
        link.send(queue.broadcast_object("to the world" if meet.rank == 2 else None))
        dist.barrier()
    dist.destroy_process_group()


def test_groups_of_torch_distributed_make_queues_across_machines() -> None:
    with visited(2) as (a, b):
        ranks = _spread([a, b, b], _over_torch, env={"GLOO_SOCKET_IFNAME": "eth0"})
        assert [rank.receive() for rank in ranks] == ["to the world"] * 3

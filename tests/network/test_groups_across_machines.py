"""Process groups whose ranks are on several machines, with wires between them that are cut."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from ringcast import MessageQueue, __version__, in_the_same_node_as
from ringcast.net import _members
from tests.network.machines import Machine, Worker, visited
from tests.network.ranks import Meet, error_of
from tests.support import Link

pytestmark = pytest.mark.usefixtures("torch_machine_server")

PORT = 29500
SECRET = {"RINGCAST_SECRET": "0123456789" * 3}
CUT_TIMEOUT_S = 3.0
"""Of collectives that somebody does not come to; all others come within it."""


def _spread(
    places: Sequence[Machine], function: Callable[..., None], *arguments: Any, host: str = "", **options: Any
) -> list[Worker]:
    """Rank n on the n-th of these machines; rank 0's holds the store."""
    return [
        machine.start(function, Meet(rank, len(places), PORT, host=host or places[0].ip), *arguments, **options)
        for rank, machine in enumerate(places)
    ]


def _everything(link: Link, meet: Meet) -> None:
    with meet() as group:
        rank = group.rank
        for source in range(3):
            assert group.broadcast_obj(("from", source) if rank == source else None, source) == ("from", source)
        large = group.broadcast_obj(os.urandom(3 << 20) if rank == 1 else None, 1)
        assert group.all_gather_obj(zlib.crc32(large)) == [zlib.crc32(large)] * 3
        group.send_obj({"of": rank}, (rank + 1) % 3)
        link.send(group.recv_obj((rank - 1) % 3))
        group.barrier()


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_objects_reach_ranks_on_all_machines(family: str) -> None:
    with visited(3) as places:
        ranks = _spread(places, _everything, host=getattr(places[0], family), env=SECRET)
        assert [rank.receive() for rank in ranks] == [{"of": 2}, {"of": 0}, {"of": 1}]
        assert [rank.wait() for rank in ranks] == [0, 0, 0]


@contextmanager
def _hosts(machine: Machine, *lines: str) -> Iterator[None]:
    """What its /etc/hosts says."""
    text = "".join(f"{line}\\n" for line in lines)
    machine.shell(f"printf '{text}' > /dev/shm/hosts && mount --bind /dev/shm/hosts /etc/hosts && rm /dev/shm/hosts")
    try:
        yield
    finally:
        machine.shell("umount /etc/hosts")


def test_a_name_that_is_loopback_on_its_own_machine_is_met_at_an_address_that_others_reach() -> None:
    with visited(2) as (a, b), _hosts(a, f"127.0.1.1 {a.host}"), _hosts(b, f"{a.ip} {a.host}"):
        a.shell("ip route add default dev eth0")
        try:
            ranks = _spread([a, b, a], _everything, host=a.host, env=SECRET)
            assert [rank.receive() for rank in ranks] == [{"of": 2}, {"of": 0}, {"of": 1}]
            assert [rank.wait() for rank in ranks] == [0, 0, 0]
        finally:
            a.shell("ip route del default")


def _says_why_not(link: Link, meet: Meet) -> None:
    link.send(error_of(meet, timeout=4.0))


def test_where_no_better_address_is_known_the_error_says_so() -> None:
    with visited(2) as (a, b), _hosts(a, f"127.0.1.1 {a.host}"), _hosts(b, f"{a.ip} {a.host}"):
        told = [rank.receive() for rank in _spread([a, b], _says_why_not, host=a.host)]
        assert "Rank 0 listens at 127.0.1.1:" in str(told[0])
        assert "give its address as host" in str(told[0])
        assert f"does not listen at {a.ip}:" in str(told[1])


def _who_shares(link: Link, meet: Meet) -> None:
    with meet() as group:
        link.send([in_the_same_node_as(group, source) for source in range(group.world_size)])
        group.barrier()


def test_who_shares_memory_is_who_is_on_one_machine() -> None:
    with visited(2) as (a, b):
        on_a, on_b = [True, False, True, False], [False, True, False, True]
        for rank in _spread([a, b, a, b], _who_shares):
            assert rank.receive() == [on_a, on_b, on_a, on_b]


def _read_a_queue(link: Link, meet: Meet, writer: int) -> None:
    with meet() as group:
        queue = MessageQueue.create_from_process_group(group, 1 << 20, 4, writer, timeout=20)
    with queue:
        link.send(queue.broadcast_object({"from": writer} if group.rank == writer else None))


def test_any_rank_writes_to_those_on_its_own_and_on_other_machines() -> None:
    with visited(2) as (a, b):
        for rank in _spread([a, b, b], _read_a_queue, 1):
            assert rank.receive() == {"from": 1}


def _obey(link: Link, meet: Meet) -> None:
    group = meet()
    group.barrier()
    link.send(group.rank)
    while True:
        what, *arguments = link.recv()
        link.send(error_of(getattr(group, what), *arguments, timeout=CUT_TIMEOUT_S))


@contextmanager
def _met(count: int, ranks: int | None = None) -> Iterator[tuple[list[Machine], list[Worker]]]:
    """So many machines with a rank each, or only the first of them, that have met and wait for what to call."""
    with visited(count) as places:
        started = _spread(places[:ranks], _obey)
        assert [rank.receive() for rank in started] == list(range(len(started)))
        yield places, started
        for rank in started:
            rank.kill()


def _all(ranks: Sequence[Worker], *what: Any) -> list[tuple[str, tuple[int, ...], str]]:
    for rank in ranks:
        rank.send(what)
    return [rank.receive() for rank in ranks]


def test_a_machine_that_is_unplugged_is_named_at_the_deadline_and_comes_back() -> None:
    with _met(3) as ((_, _, c), ranks):
        c.unplug()
        first, second, third = _all(ranks, "barrier")
        for kind, about, text in (first, second):
            assert (kind, about) == ("GroupTimeoutError", (2,))
            assert f"rank 2 (host {c.host}, pid {ranks[2].pid})" in text
        assert third[:2] == ("GroupTimeoutError", (0,)), "which holds the store"
        c.plug()
        assert _ends_well(ranks)


def _ends_well(ranks: Sequence[Worker]) -> bool:
    """Do the ranks go on, once what was sent meanwhile has been sent again?"""
    for _ in range(10):
        told = _all(ranks, "all_gather_obj", "on")
        if all(one == ("nothing", (), repr(["on"] * len(ranks))) for one in told):
            return True
        assert {kind for kind, _, _ in told} <= {"nothing", "GroupTimeoutError"}, told
    return False


def test_the_stores_machine_unplugged_is_named_by_those_who_wait() -> None:
    with _met(3) as ((a, _, _), ranks):
        a.unplug()
        told = _all(ranks, "barrier")
        assert told[0][:2] == ("GroupTimeoutError", (1, 2))
        for kind, about, text in told[1:]:
            assert (kind, about) == ("GroupTimeoutError", (0,))
            assert f"{a.ip}:{PORT}" in text
        a.plug()
        assert _ends_well(ranks)


@pytest.mark.parametrize("deaf", ["the store's host", "the rank"])
def test_a_wire_cut_in_one_direction_is_as_one_cut_in_both(deaf: str) -> None:
    with _met(2) as ((a, b), ranks):
        here, there = (a, b) if deaf == "the store's host" else (b, a)
        here.deafen(there)
        first, second = _all(ranks, "barrier")
        assert second[:2] == ("GroupTimeoutError", (0,))
        # Where only answers are lost, rank 0 has heard that rank 1 came.
        assert first[:2] == (("GroupTimeoutError", (1,)) if here is a else ("nothing", ()))
        here.hear(there)
        assert _ends_well(ranks)


def test_a_rank_killed_on_another_machine_is_named_at_the_latest_at_the_deadline() -> None:
    with _met(3) as ((_, _, c), ranks):
        ranks[2].kill()
        for kind, about, text in _all(ranks[:2], "barrier"):
            assert kind in ("GroupTimeoutError", "GroupPeerError")
            assert about == (2,)
            assert f"rank 2 (host {c.host}, pid {ranks[2].pid})" in text


def test_the_death_of_the_stores_host_is_told_at_once() -> None:
    with _met(3) as ((a, _, _), ranks):
        ranks[0].kill()
        for kind, about, text in _all(ranks[1:], "barrier"):
            assert (kind, about) == ("GroupPeerError", (0,))
            assert f"{a.ip}:{PORT}" in text


def test_a_rank_stopped_on_another_machine_is_named_and_the_group_goes_on_with_it() -> None:
    with _met(2) as (_, ranks):
        ranks[1].stop()
        ranks[1].send(("barrier",))
        ranks[0].send(("barrier",))
        assert ranks[0].receive()[:2] == ("GroupTimeoutError", (1,))
        ranks[1].resume()
        assert ranks[1].receive()[0] in ("nothing", "GroupTimeoutError")
        assert _ends_well(ranks)


def test_a_rank_started_again_alone_on_another_machine_is_told_and_so_are_the_others() -> None:
    with _met(3, 2) as ((a, b, c), ranks):
        again = c.start(_only_meet, Meet(1, 2, PORT, host=a.ip), 20)
        kind, about, text = again.receive()
        assert (kind, about) == ("GroupPeerError", (1,))
        assert f"host {b.host}" in text
        ranks[0].send(("barrier",))
        kind, about, text = ranks[0].receive()
        assert (kind, about) == ("GroupPeerError", (1,))
        assert f"as process {again.pid} of host {c.host}" in text


def _only_meet(link: Link, meet: Meet, timeout: float, version: str | None = None) -> None:
    if version is not None:
        vars(_members)["__version__"] = version
    link.send(error_of(meet, timeout))


def test_ranks_of_different_releases_are_named_with_both() -> None:
    with visited(2) as (a, b):
        first = a.start(_only_meet, Meet(0, 2, PORT, host=a.ip), 20)
        second = b.start(_only_meet, Meet(1, 2, PORT, host=a.ip), 20, "0.0.9")
        for rank in (first, second):
            kind, about, text = rank.receive()
            assert (kind, len(about)) == ("GroupMismatchError", 1)
            assert "0.0.9" in text
            assert __version__ in text


def test_an_address_of_one_cable_alone_is_refused() -> None:
    with visited(1) as (a,):
        kind, _, text = a.start(_only_meet, Meet(0, 2, PORT, host=a.link_local), 20).receive()
        assert kind == "ArgumentError"
        assert "fe80" in text


def test_a_machine_that_nobody_reaches_is_named_to_those_who_wait() -> None:
    with visited(3) as (a, b, c):
        c.unplug()
        *others, cut_off = _spread([a, b, c], _only_meet, CUT_TIMEOUT_S)
        for rank in others:
            kind, about, text = rank.receive()
            assert (kind, about) == ("GroupTimeoutError", (2,))
            assert "rank 2 did not come" in text
        kind, about, text = cut_off.receive()
        assert (kind, about) == ("GroupTimeoutError", (0,))
        assert f"rank 0 does not listen at {a.ip}:{PORT}" in text

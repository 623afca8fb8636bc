"""StatelessProcessGroup: what passes between ranks, and who is named when it does not."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ringcast import StatelessProcessGroup
from ringcast.errors import (
    ArgumentError,
    EncodeError,
    GroupError,
    GroupSecurityError,
    GroupTimeoutError,
    RankError,
)
from ringcast.net._addresses import listening_for_links
from tests import own_shm
from tests.network.ranks import Meet, Starter, error_of
from tests.support import Link, eventually


def _everything(link: Link, meet: Meet) -> None:
    import torch.distributed

    with meet() as group:
        rank = group.rank
        for source in range(3):
            assert group.broadcast_obj(("from", source) if rank == source else None, source) == ("from", source)
        assert group.all_gather_obj({"rank": rank}) == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        large = group.broadcast_obj(os.urandom(9 << 20) if rank == 1 else None, 1)
        assert group.all_gather_obj(zlib.crc32(large)) == [zlib.crc32(large)] * 3
        group.send_obj(f"first of {rank}", (rank + 1) % 3)
        group.send_obj(f"second of {rank}", (rank + 1) % 3)
        before = (rank - 1) % 3
        assert [group.recv_obj(before), group.recv_obj(before)] == [f"first of {before}", f"second of {before}"]
        group.barrier()
        assert not torch.distributed.is_initialized()
        if group._leaving.store is not None:
            keys = eventually(lambda: _settled(group), "the last one to leave a collective deletes its keys")
            link.send(sorted(keys))
        group.barrier()
    link.send("left")


def _settled(group: StatelessProcessGroup) -> list[str] | None:
    store: Any = group._leaving.store
    keys: list[str] = [key.decode() if isinstance(key, bytes) else key for key in store.list_keys()]
    over = [key for key in keys if "/collective/" in key and f"/collective/{group._group._number + 1}/" not in key]
    return None if over or any("/message/" in key for key in keys) else keys


def test_objects_of_all_sizes_reach_all_ranks_and_leave_nothing_in_the_store(ranks: Starter) -> None:
    started = ranks(3, _everything)
    keys = started[0].receive()
    assert len(keys) < 16, "what each rank says of itself, where it is, and the barrier that the others are at"
    assert [rank.receive() for rank in started] == ["left"] * 3


def _only_meet(link: Link, meet: Meet, timeout: float, options: dict[int, dict[str, Any]]) -> None:
    link.send(error_of(meet, timeout, **options.get(meet.rank, {})))


def test_a_rank_that_never_comes_is_named_to_those_who_did(ranks: Starter) -> None:
    for rank in ranks(4, _only_meet, 6.0, {}, absent=(2,)):  # so long that the others have come
        kind, about, text = rank.receive()
        assert (kind, about) == ("GroupTimeoutError", (2,))
        assert "rank 2 did not come" in text
        assert f"pid {rank.pid}" in text


def test_two_processes_that_come_as_one_rank_are_told_at_once(ranks: Starter) -> None:
    first = ranks(3, _only_meet, 60.0, {2: {"rank": 1}})
    for rank in first:
        kind, about, text = rank.receive()
        assert (kind, about) == ("GroupMismatchError", (1,))
        assert "two processes came as rank 1" in text
        assert f"{first[1].pid} of host" in text
        assert f"{first[2].pid} of host" in text


def _drop(link: Link, meet: Meet) -> None:
    group = meet()
    if group.rank > 0:
        link.recv()  # rank 0 has nothing of the group any more
    value = group.broadcast_obj("from rank 0" if group.rank == 0 else None)
    del group
    gc.collect()
    link.send(value)
    link.recv()


def test_rank_0_may_drop_its_group_while_others_still_read(ranks: Starter) -> None:
    started = ranks(3, _drop)
    for rank in started:
        assert rank.receive() == "from rank 0"
        for other in started[1:] if rank is started[0] else ():
            other.link.send("go on")
    for rank in started:
        rank.link.send("end")


def _close_in_a_child(link: Link, meet: Meet) -> None:
    group = meet()
    child = os.fork()
    if child == 0:
        group.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    link.send(group.all_gather_obj(group.rank))
    group.close()


def test_a_forked_child_that_closes_the_group_ends_it_for_nobody(ranks: Starter) -> None:
    for rank in ranks(2, _close_in_a_child):
        assert rank.receive() == [0, 1]


def test_where_rank_0_never_comes_the_others_say_so(ranks: Starter) -> None:
    for rank in ranks(3, _only_meet, 0.5, {}, absent=(0,)):
        kind, about, text = rank.receive()
        assert (kind, about) == ("GroupTimeoutError", (0,))
        assert "rank 0 does not listen at 127.0.0.1:" in text


def test_a_rank_that_counts_other_ranks_is_named_to_all(ranks: Starter) -> None:
    for rank in ranks(3, _only_meet, 20, {1: {"world_size": 4}}):
        kind, about, text = rank.receive()
        assert kind == "GroupMismatchError"
        assert about in ((1,), (0,))
        assert "world_size=" in text


SECRET, OTHER = "s" * 30, "t" * 30


def test_ranks_with_different_secrets_or_none_do_not_meet(ranks: Starter) -> None:
    mine = {0: {"RINGCAST_SECRET": SECRET}, 1: {"RINGCAST_SECRET": OTHER}}
    told = [rank.receive() for rank in ranks(2, _only_meet, 20, {}, env=mine)]
    assert [kind for kind, _, _ in told] == ["GroupMismatchError"] * 2
    assert all("RINGCAST_SECRET" in text for _, _, text in told)
    del mine[1]
    told = [rank.receive() for rank in ranks(2, _only_meet, 20, {}, env=mine)]
    assert [kind for kind, _, _ in told] == ["GroupMismatchError"] * 2
    assert not any(SECRET in text for _, _, text in told)


def _wait_in_barriers(link: Link, meet: Meet) -> None:
    group = meet()
    group.barrier()
    link.send(group.rank)
    while True:
        what = link.recv()
        if what == "end":
            return
        link.send(error_of(getattr(group, what[0]), *what[1:]))


def test_a_rank_killed_in_the_middle_of_a_collective_is_named_at_once(ranks: Starter) -> None:
    started = ranks(3, _wait_in_barriers)
    for rank in started:
        rank.receive()
    for rank in started[:2]:
        rank.link.send(("barrier",))
    started[2].kill()
    for rank in started[:2]:
        kind, about, text = rank.receive(20)
        assert (kind, about) == ("GroupPeerError", (2,))
        assert f"rank 2 (host {os.uname().nodename}, pid {started[2].pid}) has ended" in text


def test_a_stopped_rank_is_named_at_the_deadline_and_the_group_goes_on_with_it(ranks: Starter) -> None:
    started = ranks(3, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[2].signal(signal.SIGSTOP)
    for rank in started:
        rank.link.send(("barrier", 2.0))
    for rank in started[:2]:
        kind, about, text = rank.receive()
        assert (kind, about) == ("GroupTimeoutError", (2,))
        assert "barrier 2: waited 2.0 s, and nothing came from rank 2" in text
        assert "last at barrier 1" in text
    started[2].signal(signal.SIGCONT)
    assert started[2].receive() == ("nothing", (), "None"), "it finds the others' parts"
    for rank in started:
        rank.link.send(
            (
                "all_gather_obj",
                rank.pid,
            )
        )
    assert {rank.receive()[2] for rank in started} == {repr([rank.pid for rank in started])}


def test_a_rank_that_is_started_again_alone_is_told_so_and_the_others_who(ranks: Starter) -> None:
    started = ranks(3, _wait_in_barriers)
    for rank in started:
        rank.receive()
    again = ranks.one(_only_meet, Meet(1, 3, ranks.port, None), 20, {})
    kind, about, text = again.receive()
    assert (kind, about) == ("GroupPeerError", (1,))
    assert "was started alone" in text
    for rank in (started[0], started[2]):
        rank.link.send(("barrier",))
    for rank in (started[0], started[2]):
        kind, about, text = rank.receive(20)
        assert (kind, about) == ("GroupPeerError", (1,))
        assert f"was started again alone, as process {again.pid}" in text


def test_ranks_at_different_collectives_are_named_with_both(ranks: Starter) -> None:
    started = ranks(3, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[0].link.send(("barrier",))
    started[1].link.send(("all_gather_obj", 1))
    for here, other in ((0, 1), (1, 0)):
        kind, about, text = started[here].receive(20)
        assert (kind, about) == ("GroupMismatchError", (other,))
        assert "barrier 2" in text
        assert "all_gather 2" in text


def test_ranks_with_different_arguments_are_named_with_both(ranks: Starter) -> None:
    started = ranks(2, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[0].link.send(("broadcast_obj", None, 1))
    started[1].link.send(("broadcast_obj", None, 0))
    for here, other in ((0, 1), (1, 0)):
        kind, about, text = started[here].receive(20)
        assert (kind, about) == ("GroupMismatchError", (other,))
        assert f"src={here}, here {other}" in text


def test_the_end_of_rank_0_takes_the_store_and_is_named(ranks: Starter) -> None:
    started = ranks(3, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[1].link.send(("barrier",))
    started[0].kill()
    started[2].link.send(("recv_obj", 1))
    for rank in started[1:]:
        kind, about, text = rank.receive(20)
        assert (kind, about) == ("GroupPeerError", (0,))
        assert "which rank 0 holds" in text


def test_a_stopped_host_lets_nobody_wait_beyond_the_deadline(ranks: Starter) -> None:
    started = ranks(2, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[0].signal(signal.SIGSTOP)
    started[1].link.send(("barrier", 1.0))
    kind, about, text = started[1].receive(20)
    assert (kind, about) == ("GroupTimeoutError", (0,))
    assert "its host may be stopped" in text


def test_who_leaves_in_order_is_not_waited_for(ranks: Starter) -> None:
    started = ranks(2, _wait_in_barriers)
    for rank in started:
        rank.receive()
    started[1].link.send(("close",))
    started[1].receive()
    started[0].link.send(("barrier",))
    kind, about, text = started[0].receive(20)
    assert (kind, about) == ("GroupPeerError", (1,))
    assert "has left the group" in text or "has ended" in text


def test_rank_0_stays_until_the_others_have_what_it_sent(ranks: Starter) -> None:
    started = ranks(3, _leave_at_once)
    assert [rank.receive() for rank in started] == ["the last word"] * 3


def _leave_at_once(link: Link, meet: Meet) -> None:
    group = meet()
    if group.rank == 2:
        eventually(lambda: group._group.where(0, _deadline())["number"] == 1, "the broadcast")
    link.send(group.broadcast_obj("the last word" if group.rank == 0 else None, 0))
    group.close()


def _deadline() -> Any:
    from ringcast.net._deadline import Deadline

    return Deadline(30)


def test_an_object_that_cannot_be_sent_fails_on_all_ranks_and_the_group_goes_on(ranks: Starter) -> None:
    for rank in ranks(2, _send_a_lock):
        assert rank.receive() == "went on"


def _send_a_lock(link: Link, meet: Meet) -> None:
    with meet() as group:
        if group.rank == 0:
            with pytest.raises(EncodeError, match="lock"):
                group.broadcast_obj(threading.Lock(), 0)
        else:
            with pytest.raises(GroupError, match=r"rank 0 .* failed: EncodeError"):
                group.broadcast_obj(None, 0)
        group.barrier()
        link.send("went on")


def alone(**options: Any) -> StatelessProcessGroup:
    return StatelessProcessGroup.create("127.0.0.1", 0, 0, 1, **options)


def test_arguments_that_make_no_sense_are_named() -> None:
    for host in ("0.0.0.0", "::", "", "224.0.0.1"):
        with pytest.raises(ArgumentError, match="one address of rank 0's machine"):
            StatelessProcessGroup.create(host, 1, 0, 1)
    with pytest.raises(RankError, match="rank=3"):
        StatelessProcessGroup.create("127.0.0.1", 1, 3, 2)
    with pytest.raises(ArgumentError, match="known to rank 0 alone"):
        StatelessProcessGroup.create("127.0.0.1", 0, 0, 2)
    with pytest.raises(ArgumentError, match="must be finite"):
        alone(timeout=None) and alone(timeout=float("inf"))
    with alone() as group:
        with pytest.raises(RankError, match="src=1"):
            group.broadcast_obj(1, 1)
        with pytest.raises(RankError, match="dst=-1"):
            group.send_obj(1, -1)


def test_a_port_that_is_taken_is_said() -> None:
    with alone() as group:
        port = int(group._group.client.where.rpartition(":")[2].partition(",")[0])
        with pytest.raises(GroupError, match=r"cannot listen at .*in use"):
            StatelessProcessGroup.create("127.0.0.1", port, 0, 1)


def test_behind_another_address_rank_0_listens_where_it_is_told_to_and_trusts_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RINGCAST_BIND_IP", "127.0.0.1")
    with StatelessProcessGroup.create("192.0.2.1", 0, 0, 1) as group:
        assert "127.0.0.1:" in group._group.client.where
        with pytest.raises(GroupSecurityError, match="pickles are not sent"):
            group.broadcast_obj((1, 2), 0)


class _Told(logging.Handler):
    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.send(record.getMessage())


def _meet_by_name(link: Link, meet: Meet, hosts: str, name: str, timeout: float) -> None:
    assert own_shm.enter() is None, "for a hosts file of its own, too"
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    logging.getLogger("ringcast.group").addHandler(_Told(link))
    try:
        with meet(timeout, host=name) as group:
            link.send(group.all_gather_obj(group.rank))
    except GroupTimeoutError as error:
        link.send((error.ranks, str(error)))


def test_a_name_that_is_not_known_yet_is_waited_for(ranks: Starter, tmp_path: Path) -> None:
    name = "leader.of-a-group.invalid"
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    started = ranks(2, _meet_by_name, str(hosts), name, 60.0)
    for rank in started:
        assert f"the host '{name}' of the group's store has no address" in rank.receive()
    with hosts.open("a") as file:
        file.write(f"127.0.0.1 {name}\n")
    assert [rank.receive() for rank in started] == [[0, 1]] * 2


def test_a_name_that_nobody_knows_is_an_error_in_time(ranks: Starter) -> None:
    name = "nobody.of-a-group.invalid"
    (rank,) = ranks(2, _meet_by_name, "/etc/hosts", name, 1.0, absent=(0,))
    assert "it is waited for" in rank.receive()
    about, text = rank.receive()
    assert about == (0,)
    assert text.startswith(f"waited 1.0 s, but the host '{name}' of the group's store has no address")


@pytest.mark.parametrize(("wildcard", "host"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_socket_of_all_addresses_is_on_the_way_to_the_one_that_is_named(wildcard: str, host: str) -> None:
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    with socket.create_server((wildcard, 0), family=family) as listening:
        port = listening.getsockname()[1]
        with StatelessProcessGroup.create(host, port, 0, 1, listen_socket=listening) as group:
            sock, told = listening_for_links(None, group._group.store_ip)
            sock.close()
            assert told[0] == host


def test_ipv6_will_do() -> None:
    with StatelessProcessGroup.create("::1", 0, 0, 1) as group:
        assert group.broadcast_obj("six") == "six"


def test_a_closed_group_says_so_and_a_second_close_does_nothing() -> None:
    group = alone()
    group.close()
    group.close()
    with pytest.raises(GroupError, match="is closed"):
        group.barrier()


def test_after_a_time_out_the_next_call_receives_the_same_object() -> None:
    with alone() as group:
        with pytest.raises(GroupTimeoutError, match="receiving from rank 0"):
            group.recv_obj(0, timeout=0.05)
        group.send_obj([1], 0)
        assert group.recv_obj(0) == [1]


def test_threads_may_send_and_receive_besides() -> None:
    with alone() as group, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(group.recv_obj, 0)
        eventually(lambda: group._group.where(0, _deadline())["besides"], "the thread waits")
        group.barrier()
        group.send_obj("sent meanwhile", 0)
        assert waiting.result(20) == "sent meanwhile"


def test_a_forked_child_may_not_use_its_parents_group() -> None:
    with alone() as group:
        pid = os.fork()
        if pid == 0:
            kind, _, _ = error_of(group.barrier)
            os._exit(7 if kind == "ForkedError" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        group.barrier()


def test_a_group_that_nobody_has_any_more_ends_its_thread() -> None:
    before = set(threading.enumerate())
    group = alone()
    (thread,) = set(threading.enumerate()) - before
    del group
    eventually(lambda: not thread.is_alive(), "the thread's end")

"""Who of a group is killed, aborts, or clears, and when: the chunks are there for all, or for none."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import Any

import pytest

from ringcast import errors
from ringcast.pool import Keys, PoolClient, StoreLease
from tests.pool.groups import GROUP, SHARDS, WHOLE, check_parts, group_keys, group_pool, join_store, store_part
from tests.pool.pools import COMMITTED, ORPHAN, PENDING, RESERVED, Starter, figure, fill, start_server, store
from tests.support import Link, eventually, unique_name

# --- Who stores.


def taking_part(link: Link, name: str, token: bytes, part: int, until: str) -> None:
    """A rank that comes so far, says so, and does nothing more."""
    client = PoolClient.connect(name, f"rank {part}", layout=WHOLE)
    lease: Any = join_store(client, token, part)
    if until != "joined":
        fill(lease, part)
    if until in ("committed", "viewing"):
        kept = [slot.array for slot in lease.slots] if until == "viewing" else []
        client.commit_store(lease)
        assert client.held_pins == len(kept)
    if until == "dropped":
        lease = None
    if until == "aborted":
        client.abort_store(lease)
    link.send(until)
    link.recv()
    del lease


@pytest.mark.parametrize("until", ["joined", "filled", "dropped", "aborted"])
def test_a_rank_that_goes_before_its_part_is_there_takes_the_chunks_along(start: Starter, until: str) -> None:
    with group_pool(clients=2) as (server, [client, other]):
        keys = group_keys()
        lease = client.prepare_store(keys)
        token = lease.export()
        store_part(other, token, 0)
        fine = join_store(other, token, 2)
        victim = start(taking_part, server.name, token, 1, until)
        assert victim.receive() == until
        if until in ("joined", "filled"):
            victim.kill()
        what = {"dropped": "let go of them", "aborted": "aborted them"}.get(until, "died")
        gone = rf"worker 'rank 1', pid {victim.pid}, has {what}"
        eventually(partial(_is_given_up, lease), "the end of the group")
        with pytest.raises(errors.LeaseExpiredError, match=gone):
            lease.missing_parts  # noqa: B018
        fill(fine, 2)  # the block is still theirs who hold it
        with pytest.raises(errors.LeaseExpiredError, match=rf"worker 'w1'.*4 of 4.*{gone}"):
            other.commit_store(fine)
        with pytest.raises(errors.LeaseExpiredError, match=gone):
            other.join(token, 1)
        with pytest.raises(errors.LeaseExpiredError, match=gone):
            client.commit_store(lease)
        eventually(lambda: figure(server, "used_bytes")() == 0, "the memory's return")
        store(client, keys)
        assert check_parts(other, keys) == 4


def _is_given_up(lease: StoreLease) -> bool:
    try:
        return lease.missing_parts is None
    except errors.LeaseExpiredError:
        return True


@pytest.mark.parametrize("until", ["committed", "viewing"])
def test_a_rank_that_goes_when_its_part_is_there_harms_nothing(start: Starter, until: str) -> None:
    with group_pool(clients=1) as (server, [client]):
        keys = group_keys()
        with client.store(keys) as lease:
            victim = start(taking_part, server.name, lease.export(), 1, until)
            assert victim.receive() == until
            victim.kill()
            eventually(lambda: len(server.stats()["clients"]) == 1, "the seat's return")
            assert lease.missing_parts == (0, 2)
            store_part(client, lease.export(), 0)
            store_part(client, lease.export(), 2)
        assert check_parts(client, keys) == 4


def exporting(link: Link, name: str, keys: Keys) -> None:
    client = PoolClient.connect(name, "scheduler", layout=WHOLE)
    lease = client.prepare_store(keys)
    link.send(lease.export())
    link.recv()
    del lease


@pytest.mark.parametrize("committed", range(SHARDS + 1))
def test_the_exporters_death_ends_it_unless_the_last_part_is_there(start: Starter, committed: int) -> None:
    with group_pool(clients=SHARDS) as (server, clients):
        keys = group_keys()
        exporter = start(exporting, server.name, keys)
        token = exporter.receive()
        leases = [join_store(client, token, part) for part, client in enumerate(clients)]
        for part, lease in enumerate(leases):
            fill(lease, part)
            if part < committed:
                clients[part].commit_store(lease)
        exporter.kill()
        eventually(lambda: len(server.stats()["clients"]) == SHARDS, "the seat's return")
        for part in range(committed, SHARDS):
            with pytest.raises(errors.LeaseExpiredError, match=rf"worker 'scheduler', pid {exporter.pid}, has died"):
                clients[part].commit_store(leases[part])
        assert check_parts(clients[0], keys) == (4 if committed == SHARDS else 0)
        eventually(lambda: server.stats()["limbo"] == 0 and server.stats()["reserved"] == 0, "the memory's return")


@pytest.mark.parametrize("by", ["exporter", "rank"])
def test_an_abort_by_any_of_them_ends_it(by: str) -> None:
    with group_pool(clients=3) as (_, [client, one, two]):
        lease = client.prepare_store(group_keys())
        leases = [join_store(one, lease.export(), 0), join_store(two, lease.export(), 1)]
        if by == "rank":
            one.abort_store(leases[0])
            with pytest.raises(errors.LeaseExpiredError, match=r"worker 'w1'.*aborted"):
                client.commit_store(lease)
        else:
            client.abort_store(lease)
        with pytest.raises(errors.LeaseExpiredError, match=f"worker '{'w1' if by == 'rank' else 'w0'}'.*aborted"):
            two.commit_store(leases[1])


def test_a_clear_ends_it() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        lease = client.prepare_store(group_keys())
        joined = join_store(other, lease.export(), 0)
        client.clear(GROUP)
        with pytest.raises(errors.LeaseExpiredError, match="cleared"):
            other.commit_store(joined)
        with pytest.raises(errors.LeaseExpiredError, match="cleared"):
            client.commit_store(lease)


def test_what_hangs_from_a_group_goes_with_it() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        lease = client.prepare_store(group_keys(2))
        child = other.prepare_store(group_keys(3))
        assert child.statuses == [PENDING, PENDING, RESERVED]
        joined = join_store(other, child.export(), 0)
        store_part(client, child.export(), 1)
        client.abort_store(lease)
        fill(joined, 0)
        assert other.commit_store(joined)[2] is ORPHAN
        assert other.commit_store(child)[2] is ORPHAN


def test_children_of_a_group_that_is_being_stored_are_there_with_it() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        keys = group_keys(3)
        lease = client.prepare_store(keys[:2])
        with other.store(keys) as child:
            for part in range(SHARDS):
                store_part(other, child.export(), part)
        assert other.lookup(keys).memory == 0
        for part in range(SHARDS):
            store_part(client, lease.export(), part)
        client.commit_store(lease)
        assert check_parts(other, keys) == 3


# --- Servers that are killed in the middle of it.


def test_the_next_server_goes_on_with_a_group(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    connect = partial(PoolClient.connect, name, layout=WHOLE, regain=30.0, timeout=60.0)
    with connect("scheduler") as client, connect("one") as one, connect("two") as two:
        keys = group_keys()
        lease = client.prepare_store(keys)
        token = lease.export()
        store_part(one, token, 0)
        open_part = join_store(one, token, 1)
        server.kill()
        assert lease.missing_parts == (1, 2)
        server, adopted = start_server(start, name)
        assert adopted
        with pytest.raises(errors.TokenError, match="part 1 of chunk 0 has been joined by worker 'one', pid"):
            two.join(token, 1)
        with pytest.raises(errors.TokenError, match="part 0 of chunk 0 is committed"):
            two.join(token, 0)
        store_part(two, token, 2)
        fill(open_part, 1)
        one.commit_store(open_part)
        assert client.commit_store(lease) == [COMMITTED] * 4
        assert check_parts(two, keys) == 4


@pytest.mark.parametrize("who", ["rank", "exporter"])
def test_whoever_dies_while_there_is_no_server_is_found_by_the_next(start: Starter, who: str) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=WHOLE, regain=30.0, timeout=60.0) as client:
        keys = group_keys()
        if who == "rank":
            token = client.prepare_store(keys)
            lease: Any = token
            victim = start(taking_part, name, lease.export(), 1, "filled")
            victim.receive()
        else:
            victim = start(exporting, name, keys)
            lease = join_store(client, victim.receive(), 0)
        server.kill()
        victim.kill()
        server, adopted = start_server(start, name)
        assert adopted
        with pytest.raises(errors.LeaseExpiredError):
            client.commit_store(lease)
        store(client, keys)
        assert check_parts(client, keys) == 4


def test_a_call_to_join_in_flight_is_answered_by_the_next_server(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=WHOLE, regain=60.0, timeout=120.0) as client:
        lease = client.prepare_store(group_keys(2))
        token = lease.export()
        server.signal(signal.SIGSTOP)
        said: list[Any] = []
        asker = threading.Thread(target=lambda: said.extend(store_part(client, token, 0)))
        asker.start()
        server.kill()
        start_server(start, name)
        asker.join(60.0)
        assert said == [COMMITTED] * 2
        assert lease.missing_parts == (1, 2)


def test_a_join_that_was_withdrawn_is_undone(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with (
        PoolClient.connect(name, "w", layout=WHOLE) as client,
        PoolClient.connect(name, "hasty", layout=WHOLE, timeout=0.2) as hasty,
    ):
        lease = client.prepare_store(group_keys(2))
        server.signal(signal.SIGSTOP)
        with pytest.raises(errors.PoolTimeoutError, match="join of 2 keys"):
            hasty.join(lease.export(), 1)
        os.kill(server.pid, signal.SIGCONT)
        for part in range(SHARDS):
            store_part(client, lease.export(), part)
        assert client.commit_store(lease) == [COMMITTED] * 2

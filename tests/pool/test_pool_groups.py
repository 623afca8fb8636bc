"""Groups: a chunk of N parts, stored and read by N workers, each with one of them; whoever is killed, and when."""

from __future__ import annotations

import os
import signal
import struct
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from ringcast import errors
from ringcast.pool import (
    ChunkStatus,
    Keys,
    KVLayout,
    Namespace,
    PoolClient,
    PoolServer,
    RetrieveLease,
    StoreLease,
    gather_paged,
    scatter_paged,
)
from tests.pool.pools import (
    CACHED,
    CHUNK,
    COMMITTED,
    HIT,
    MISS,
    NO_MEMORY,
    ORPHAN,
    PENDING,
    RESERVED,
    content,
    figure,
    pool,
    some_keys,
    store,
)
from tests.pool.test_pool_deaths import start_server, stop
from tests.support import Child, Link, eventually, unique_name

SHARDS = 3
PART = CHUNK
WHOLE = SHARDS * PART
GROUP = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS)
Starter = Callable[..., Child]


def group_keys(count: int = 4, first: int = 0) -> Keys:
    return some_keys(count, first, GROUP)


def part_content(key: bytes, part: int) -> bytes:
    return bytes(content(bytes([part]) + key, PART))


def join_store(client: PoolClient, token: bytes, part: int) -> StoreLease:
    lease = client.join(token, part)
    assert isinstance(lease, StoreLease)
    return lease


def join_retrieve(client: PoolClient, token: bytes, part: int) -> RetrieveLease:
    lease = client.join(token, part)
    assert isinstance(lease, RetrieveLease)
    return lease


def fill_part(lease: StoreLease, part: int) -> None:
    for slot in lease.slots:
        assert slot.array.nbytes == PART
        slot.array[:] = np.frombuffer(part_content(slot.key, part), np.uint8)


def store_part(client: PoolClient, token: bytes, part: int) -> list[ChunkStatus]:
    lease = join_store(client, token, part)
    fill_part(lease, part)
    return client.commit_store(lease)


def store_group(client: PoolClient, keys: Keys) -> None:
    with client.store(keys) as lease:
        for part in range(SHARDS):
            store_part(client, lease.export(), part)


def check_parts(client: PoolClient, keys: Keys) -> int:
    """How many of these keys are there; every part of each is looked at."""
    with client.retrieve(keys) as found:
        for part in range(SHARDS):
            with join_retrieve(client, found.export(), part) as joined:
                assert joined.hits == found.hits
                for slot in joined.slots:
                    assert bytes(slot.array) == part_content(slot.key, part)
        return found.hits


def group_pool(clients: int = 1, chunks: int = 16, **options: Any) -> Any:
    """Room for so many chunks, whose checksums take one more page each."""
    return pool(chunks=chunks, clients=clients, chunk=WHOLE, **options)


# --- What is stored is there at once, with the last part.


def test_a_chunk_is_there_when_its_last_part_is_and_each_rank_reads_its_own() -> None:
    with group_pool(clients=SHARDS + 1) as (server, clients):
        keys = group_keys()
        exporter = clients[-1]
        lease = exporter.prepare_store(keys)
        assert lease.statuses == [RESERVED] * 4
        token = lease.export()
        assert lease.missing_parts == (0, 1, 2)
        for part in (2, 0, 1):
            assert exporter.lookup(keys).memory == 0
            assert store_part(clients[part], token, part) == [COMMITTED] * 4
        assert lease.missing_parts == lease.missing_parts_of(3) == ()
        assert exporter.commit_store(lease) == [COMMITTED] * 4
        assert check_parts(clients[0], keys) == 4
        assert server.stats()["stored"] == 4
        assert exporter.held_pins == 0


def test_missing_parts_are_told_by_chunk() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        with client.store(group_keys(2)) as lease:
            store_part(other, lease.export(), 1)
            assert lease.missing_parts == lease.missing_parts_of(0) == lease.missing_parts_of(1) == (0, 2)
            with pytest.raises(errors.ArgumentError, match="index"):
                lease.missing_parts_of(2)
            store_part(other, lease.export(), 0)
            store_part(other, lease.export(), 2)
        assert lease.missing_parts == ()


def test_who_exports_may_join_too() -> None:
    with group_pool() as (_, [client]):
        store_group(client, group_keys())
        assert check_parts(client, group_keys()) == 4
        assert client.held_pins == 0


def test_a_lease_of_one_part_is_filled_by_who_joins_it() -> None:
    with pool(clients=2) as (_, [scheduler, worker]):
        keys = some_keys(3)
        with scheduler.store(keys) as lease:
            token = lease.export()
            with pytest.raises(errors.PoolError, match="exported"):
                lease.slots  # noqa: B018
            with worker.join(token) as joined:
                for slot in joined.slots:
                    slot.array[:] = content(slot.key)
        with scheduler.retrieve(keys) as found, worker.join(found.export()) as joined:
            assert [bytes(slot.array) for slot in joined.slots] == [bytes(content(key)) for key in keys]


def test_a_lease_that_fills_its_chunks_is_not_exported() -> None:
    with pool() as (_, [client]):
        lease = client.prepare_store(some_keys(1))
        lease.slots[0].array[:] = 1
        with pytest.raises(errors.PoolError, match="fills its chunks itself"):
            lease.export()
        client.commit_store(lease)
        with pytest.raises(errors.LeaseExpiredError, match="given back"):
            lease.export()


def test_a_lease_without_a_part_shows_none() -> None:
    with group_pool() as (_, [client]):
        lease = client.prepare_store(group_keys(1))
        with pytest.raises(errors.PoolError, match=r"3 parts.*join\(lease.export\(\), part\)"):
            lease.slots  # noqa: B018
        with pytest.raises(errors.PoolError, match="nobody can fill them before the lease is exported"):
            client.commit_store(lease)
        client.abort_store(lease)
        store_group(client, group_keys(1))
        with client.retrieve(group_keys(1)) as found, pytest.raises(errors.PoolError, match="3 parts"):
            found.slots  # noqa: B018


def test_a_commit_that_waits_for_others_names_the_parts() -> None:
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "scheduler", layout=WHOLE, timeout=0.2) as client,
    ):
        lease = client.prepare_store(group_keys(2))
        store_part(client, lease.export(), 1)
        with pytest.raises(errors.PoolTimeoutError, match=r"worker 'scheduler'.*2 chunks.*waited 0\.2.*parts 0, 2"):
            client.commit_store(lease)
        store_part(client, lease.export(), 0)
        store_part(client, lease.export(), 2)
        assert client.commit_store(lease) == [COMMITTED] * 2


def test_a_block_that_ends_before_the_others_are_done_aborts_for_all() -> None:
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "scheduler", layout=WHOLE, timeout=0.2) as client,
        PoolClient.connect(server.name, "rank 0", layout=WHOLE) as worker,
    ):
        with pytest.raises(errors.PoolTimeoutError), client.store(group_keys(1)) as lease:
            joined = join_store(worker, lease.export(), 0)
        with pytest.raises(errors.LeaseExpiredError, match=r"worker 'scheduler'.*aborted"):
            worker.commit_store(joined)


def test_other_engines_wait_for_the_last_part() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        keys = group_keys(2)
        lease = client.prepare_store(keys)
        assert other.prepare_store(keys).statuses == [PENDING] * 2
        assert other.prepare_retrieve(keys).statuses == [PENDING, MISS]
        hits: list[int] = []
        waiter = threading.Thread(target=lambda: hits.append(other.prepare_retrieve(keys, wait=60.0).hits))
        waiter.start()
        for part in range(SHARDS):
            assert not hits
            store_part(client, lease.export(), part)
        waiter.join(60.0)
        assert hits == [2]
        client.commit_store(lease)


def test_who_fills_a_part_does_not_wait_for_it() -> None:
    with group_pool(clients=2) as (_, [client, member]):
        lease = client.prepare_store(group_keys(1))
        joined = join_store(member, lease.export(), 0)
        assert member.prepare_retrieve(group_keys(1), wait=600.0).statuses == [PENDING]
        del joined


# --- Who is killed, and when.


def taking_part(link: Link, name: str, token: bytes, part: int, until: str) -> None:
    """A rank that comes so far, says so, and does nothing more."""
    client = PoolClient.connect(name, f"rank {part}", layout=WHOLE)
    lease: Any = join_store(client, token, part)
    if until != "joined":
        fill_part(lease, part)
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
        fill_part(fine, 2)  # the block is still theirs who hold it
        with pytest.raises(errors.LeaseExpiredError, match=rf"worker 'w1'.*4 of 4.*{gone}"):
            other.commit_store(fine)
        with pytest.raises(errors.LeaseExpiredError, match=gone):
            other.join(token, 1)
        with pytest.raises(errors.LeaseExpiredError, match=gone):
            client.commit_store(lease)
        eventually(lambda: figure(server, "used_bytes")() == 0, "the memory's return")
        store_group(client, keys)
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
            fill_part(lease, part)
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
        fill_part(joined, 0)
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
        fill_part(open_part, 1)
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
        store_group(client, keys)
        assert check_parts(client, keys) == 4


def test_a_call_to_join_in_flight_is_answered_by_the_next_server(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=WHOLE, regain=60.0, timeout=120.0) as client:
        lease = client.prepare_store(group_keys(2))
        token = lease.export()
        stop(server)
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
        stop(server)
        with pytest.raises(errors.PoolTimeoutError, match="join of 2 keys"):
            hasty.join(lease.export(), 1)
        os.kill(server.pid, signal.SIGCONT)
        for part in range(SHARDS):
            store_part(client, lease.export(), part)
        assert client.commit_store(lease) == [COMMITTED] * 2


# --- Retrieves.


def test_a_retrieve_is_joined_without_a_message(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with (
        PoolClient.connect(name, "scheduler", layout=WHOLE) as client,
        PoolClient.connect(name, "rank", layout=WHOLE) as rank,
    ):
        keys = group_keys()
        store_group(client, keys)
        found = client.prepare_retrieve(keys)
        server.kill()
        joined = join_retrieve(rank, found.export(), 2)
        assert joined.hits == 4
        assert joined.statuses == [HIT] * 4
        assert rank.held_pins == 1, "a run takes one pin"
        client.commit_retrieve(found)
        assert [bytes(slot.array) for slot in joined.slots] == [part_content(key, 2) for key in keys]


@pytest.mark.parametrize("leading", [True, False])
def test_what_has_gone_since_the_export_is_a_miss(leading: bool) -> None:
    with group_pool(clients=2, chunks=16) as (_, [client, other]):
        keys = group_keys(3)
        store_group(client, keys)
        with client.retrieve(keys, leading=leading) as found:
            token = found.export()
        client.clear()
        store_group(client, group_keys(3, first=5))
        with join_retrieve(other, token, 0) as joined:
            assert joined.hits == 0
            assert joined.statuses == [MISS] * 3
            assert joined.slots == []
        store_group(client, keys)
        with join_retrieve(other, token, 0) as joined:
            assert joined.hits == 0, "the same keys in another generation"


def test_keys_that_were_missed_stay_misses_where_they_are_joined() -> None:
    loose = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, chained=False)
    with group_pool(clients=2) as (_, [client, other]):
        keys = some_keys(4, 0, loose)
        store_group(client, keys[1:2])
        with client.retrieve(keys, leading=False) as found, join_retrieve(other, found.export(), 1) as joined:
            assert joined.statuses == found.statuses == [MISS, HIT, MISS, MISS]
            assert [slot.index for slot in joined.slots] == [1]


# --- Tokens.


def test_a_part_is_given_to_one_alone() -> None:
    with group_pool(clients=3) as (_, [client, one, two]):
        lease = client.prepare_store(group_keys(2))
        token = lease.export()
        held = join_store(one, token, 0)
        with pytest.raises(
            errors.TokenError, match=r"part 0 of chunk 0 has been joined by worker 'w1', pid \d+ already"
        ):
            two.join(token, 0)
        with pytest.raises(errors.TokenError, match="part 0 of chunk 0 has been joined by this client already"):
            one.join(token, 0)
        for bad in (-1, SHARDS):
            with pytest.raises(errors.ArgumentError, match="part"):
                one.join(token, bad)
        odds: list[Any] = [True, 0.0, "0"]
        for odd in odds:
            with pytest.raises(errors.ArgumentTypeError, match="part"):
                one.join(token, odd)
        with pytest.raises(errors.PoolError, match="joined itself"):
            held.export()
        fill_part(held, 0)
        one.commit_store(held)
        with pytest.raises(errors.TokenError, match="part 0 of chunk 0 is committed already"):
            two.join(token, 0)
        store_part(one, token, 1)
        store_part(two, token, 2)
        assert client.commit_store(lease) == [COMMITTED] * 2


def resealed(token: bytes, at: int, more: bytes) -> bytes:
    body = token[:-4]
    body = body[:at] + more + body[at + len(more) :]
    return body + struct.pack("<I", zlib.crc32(body))


def test_what_is_no_token_is_refused() -> None:
    with group_pool() as (_, [client]):
        store_group(client, group_keys(2))
        with client.retrieve(group_keys(2)) as found:
            token = found.export()
            for junk in (b"", b"x", os.urandom(len(token)), token[: len(token) // 2], token[:-1], token + b"x"):
                with pytest.raises(errors.TokenError):
                    client.join(junk)
            for at in range(0, len(token), 7):
                changed = bytearray(token)
                changed[at] ^= 0x10
                with pytest.raises(errors.TokenError):
                    client.join(bytes(changed))
            text: Any = "token"
            with pytest.raises(errors.ArgumentTypeError, match="token"):
                client.join(text)
            with pytest.raises(errors.TokenError, match="version 9"):
                client.join(resealed(token, 8, b"\x09"))
            with pytest.raises(errors.TokenError, match="keys need"):
                client.join(resealed(token, 12, struct.pack("<I", 3)))
            assert join_retrieve(client, cast("bytes", bytearray(token)), 0).hits == 2
        assert client.held_pins == 0


def test_a_forged_token_shows_no_other_keys_bytes() -> None:
    with group_pool() as (_, [client]):
        store_group(client, group_keys(2))
        with client.retrieve(group_keys(2)) as found:
            token = found.export()
        items = len(token) - 4 - 2 * 12
        swapped = token[items + 12 : items + 24] + token[items : items + 12]
        assert join_retrieve(client, resealed(token, items, swapped), 0).hits == 0
        far = struct.pack("<III", struct.unpack_from("<I", token, items)[0], 1 << 30, 1)
        assert join_retrieve(client, resealed(token, items, far), 0).hits == 0
        with client.store(group_keys(2, first=3)) as lease:
            token = lease.export()
            items = len(token) - 4 - 2 * 12
            swapped = token[items + 12 : items + 24] + token[items : items + 12]
            with pytest.raises(errors.TokenError, match="another key"):
                client.join(resealed(token, items, swapped), 0)
            client.abort_store(lease)


def test_tokens_of_other_memory_are_refused() -> None:
    name = unique_name("p")
    with group_pool() as (_, [client]), PoolServer(name, "1MiB"):
        with PoolClient.connect(name, layout=WHOLE) as other:
            lease = other.prepare_store(group_keys(1))
            token = lease.export()
            with pytest.raises(errors.TokenError, match=rf"of pool '{name}', whose memory is .*{name}"):
                client.join(token)
            other.abort_store(lease)
    with (
        PoolServer(name, "1MiB"),
        PoolClient.connect(name, layout=WHOLE) as other,
        pytest.raises(errors.TokenError, match=f"of pool '{name}' before it was made anew"),
    ):
        other.join(token)


def test_clients_of_other_layouts_are_refused() -> None:
    mine = KVLayout.sizes([PART // 2, PART // 2], shards=SHARDS)
    space = Namespace("model", dtype="uint8", layout=mine.fingerprint, shards=SHARDS)
    with PoolServer(unique_name("p"), "1MiB") as server:
        connect = partial(PoolClient.connect, server.name)
        with (
            connect("a", layout=mine) as client,
            connect("b", layout=KVLayout.sizes([PART], shards=SHARDS)) as form,
            connect("c", layout=WHOLE * 2) as size,
            connect("d", layout=KVLayout.sizes([PART * SHARDS])) as shards,
            connect("e", layout=KVLayout.sizes([PART // 2, PART // 2], shards=SHARDS)) as same,
        ):
            lease = client.prepare_store(some_keys(1, 0, space))
            token = lease.export()
            with pytest.raises(errors.LayoutError, match=f"another layout.*{mine.fingerprint}"):
                form.join(token)
            with pytest.raises(errors.LayoutError, match=f"3 parts of {PART} bytes.*{WHOLE * 2} bytes"):
                size.join(token)
            with pytest.raises(errors.LayoutError):
                shards.join(token)
            assert join_store(same, token, 0).slots[0].array.nbytes == PART
            client.abort_store(lease)


@pytest.mark.parametrize(
    ("layout", "shards", "found"),
    [
        (KVLayout.sizes([64], shards=2), 1, "in 1 shards, and this client's layout is of 2"),
        (KVLayout.sizes([64]), 2, "in 2 shards, and this client's layout is of 1"),
        (4096, 3, "4096 bytes, which are not as many equal parts"),
        (65 * 64, 65, "at most 64 parts"),
    ],
)
def test_keys_and_layouts_of_other_shards_are_refused(layout: KVLayout | int, shards: int, found: str) -> None:
    space = Namespace("model", dtype="uint8", layout="bytes", shards=shards)
    with PoolServer(unique_name("p"), "1MiB") as server, PoolClient.connect(server.name, layout=layout) as client:
        for call in (client.prepare_store, client.prepare_retrieve):
            with pytest.raises(errors.LayoutError, match=found):
                call(some_keys(1, 0, space))


def test_a_chunk_may_have_as_many_parts_as_there_are_bits() -> None:
    space = Namespace("model", dtype="uint8", layout="bytes", shards=64)
    keys = some_keys(2, 0, space)
    with PoolServer(unique_name("p"), "1MiB") as server, PoolClient.connect(server.name, layout=64 * 5) as client:
        with client.store(keys) as lease:
            for part in reversed(range(64)):
                assert client.lookup(keys).memory == 0
                with client.join(lease.export(), part) as joined:
                    for slot in joined.slots:
                        slot.array[:] = part
        with client.retrieve(keys) as found:
            for part in range(64):
                with client.join(found.export(), part) as mine:
                    assert [bytes(slot.array) for slot in mine.slots] == [bytes([part]) * 5] * 2


def test_a_token_says_no_salt_and_its_keys_go_on() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, salt=b"a secret of the tenant's")
    with group_pool() as (_, [client]):
        store_group(client, some_keys(2, 0, salted))
        with client.retrieve(some_keys(2, 0, salted)) as found:
            token = found.export()
            assert salted.salt not in token
            joined = join_retrieve(client, token, 1)
            assert joined.keys == found.keys
            assert joined.keys.space.salt_digest == salted.salt_digest


# --- Copies, checksums, accounts.


def scribbling(lease: StoreLease) -> memoryview:
    """The first chunk's bytes, as somebody has them who keeps them from being read-only after the commit."""
    array: Any = lease.slots[0].array
    return memoryview(array)


def engine(part: int) -> Any:
    return np.random.default_rng(part).integers(0, 256, (8, PART // 2), np.uint8)


def test_ranks_gather_and_scatter_their_parts() -> None:
    tensors = [engine(part) for part in range(SHARDS)]
    layouts = [KVLayout.pages([(kv, PART // 2)], pages_per_chunk=2, shards=SHARDS) for kv in tensors]
    sizes = KVLayout.sizes([PART // 2], pages_per_chunk=2, shards=SHARDS)
    keys = some_keys(2, 0, Namespace("model", dtype="uint8", layout=sizes.fingerprint, shards=SHARDS))
    with PoolServer(unique_name("p"), "1MiB") as server:
        connect = partial(PoolClient.connect, server.name)
        scheduler = connect("scheduler", layout=sizes)
        ranks = [connect(f"rank {part}", layout=layout) for part, layout in enumerate(layouts)]
        with scheduler.store(keys) as lease:
            for part, rank in enumerate(ranks):
                with rank.join(lease.export(), part) as joined:
                    gather_paged(tensors[part], [1, 2, 5, 4], joined, layouts[part]).result()
        with scheduler.retrieve(keys) as found:
            for part, rank in enumerate(ranks):
                into = np.zeros_like(tensors[part])
                with rank.join(found.export(), part) as joined:
                    assert scatter_paged(joined, into, [0, 1, 2, 3], layouts[part]).result() == []
                assert np.array_equal(into[:4], tensors[part][[1, 2, 5, 4]])
        for client in (scheduler, *ranks):
            client.close()


@pytest.mark.parametrize("how", ["slots", "scatter"])
def test_a_part_whose_bytes_were_changed_is_told_and_quarantined(how: str) -> None:
    tensors = engine(0)
    layout = KVLayout.pages([(tensors, PART // 2)], pages_per_chunk=2, shards=SHARDS)
    space = Namespace("model", dtype="uint8", layout=layout.fingerprint, shards=SHARDS, chained=False)
    keys = some_keys(2, 0, space)
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "a", layout=layout) as client,
        PoolClient.connect(server.name, "b", layout=layout) as other,
    ):
        store_torch = client.prepare_store(keys)
        views = []
        for part in range(SHARDS):
            joined = join_store(client, store_torch.export(), part)
            views.append(scribbling(joined))  # sealed by the commit, as arrays are, but for this
            fill_part(joined, part)
            client.commit_store(joined)
        client.commit_store(store_torch)
        views[1][7] ^= 1
        found = other.prepare_retrieve(keys, leading=False)
        assert found.hits == 2
        assert len(join_retrieve(other, found.export(), 0).slots) == 2, "this part is as it was"
        joined_read = join_retrieve(other, found.export(), 1)
        if how == "slots":
            assert [slot.index for slot in joined_read.slots] == [1]
            assert joined_read.statuses == [MISS, HIT]
        else:
            into = np.zeros_like(tensors)
            assert scatter_paged(joined_read, into, [0, 1, 2, 3], layout).result() == [0]
        eventually(lambda: server.stats()["quarantined"] == 1, "the quarantine")
        assert other.prepare_retrieve(keys, leading=False).statuses == [MISS, HIT]
        del views


def test_a_server_finds_the_checksums_of_parts_and_of_the_whole_to_agree(start: Starter) -> None:
    """A rank reports its part as damaged, and it is whole again before the server looks at the chunk."""
    name = unique_name("p")
    server, _ = start_server(start, name)
    tensors = engine(0)
    layout = KVLayout.pages([(tensors, PART // 2)], pages_per_chunk=2, shards=SHARDS)
    keys = some_keys(1, 0, Namespace("model", dtype="uint8", layout=layout.fingerprint, shards=SHARDS))
    with (
        PoolClient.connect(name, "a", layout=layout) as client,
        PoolClient.connect(name, "b", layout=layout, timeout=60.0) as other,
    ):
        with client.store(keys) as lease:
            for part in range(SHARDS):
                joined = join_store(client, lease.export(), part)
                view = scribbling(joined)
                fill_part(joined, part)
                client.commit_store(joined)
        stop(server)
        view[0] ^= 1
        with other.retrieve(keys) as found:
            read = join_retrieve(other, found.export(), SHARDS - 1)
            assert scatter_paged(read, np.zeros_like(tensors), [0, 1], layout).result() == [0]
        view[0] ^= 1
        os.kill(server.pid, signal.SIGCONT)
        eventually(lambda: not any(thread.name == "ringcast-report" for thread in threading.enumerate()), "the answer")
        assert check_parts(other, keys) == 1
        del view, joined


def test_quotas_count_all_parts() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, salt=b"tenant")
    whole = WHOLE + 4 * SHARDS
    with group_pool(chunks=32, quota={b"tenant": 2 * whole}) as (_, [client]):
        store_group(client, some_keys(5, 0, salted)[:2])
        statuses = client.prepare_store(some_keys(4, 0, salted)).statuses
        assert statuses == [CACHED, CACHED, NO_MEMORY, ORPHAN]


def test_plain_chunks_are_as_they_were() -> None:
    with pool() as (server, [client]):
        store(client, some_keys(3))
        assert server.stats()["used_bytes"] == 3 * CHUNK, "one part has no checksums behind it"

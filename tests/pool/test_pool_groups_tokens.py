"""What a lease is exported as: tokens that were changed, forged, of other memory or for other layouts are refused."""

from __future__ import annotations

import itertools
import os
import struct
import threading
import zlib
from functools import partial
from typing import Any, cast

import pytest

from ringcast import errors
from ringcast.pool import KVLayout, Namespace, PoolClient, PoolServer
from tests.pool.groups import (
    PART,
    SHARDS,
    WHOLE,
    check_parts,
    group_keys,
    group_pool,
    join_retrieve,
    join_store,
    store_part,
)
from tests.pool.pools import COMMITTED, PENDING, fill, some_keys, store
from tests.pool.tiered import tier_figure
from tests.pool.tiers import DictTier
from tests.support import DEADLINE_S, eventually, unique_name


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
        fill(held, 0)
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
        store(client, group_keys(2))
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
        store(client, group_keys(2))
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


def test_a_token_says_no_salt_and_its_keys_go_on() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, salt=b"a secret of the tenant's")
    with group_pool() as (_, [client]):
        store(client, some_keys(2, 0, salted))
        with client.retrieve(some_keys(2, 0, salted)) as found:
            token = found.export()
            assert salted.salt not in token
            joined = join_retrieve(client, token, 1)
            assert joined.keys == found.keys
            assert joined.keys.space.salt_digest == salted.salt_digest


class Unhurried(DictTier):
    """Its loads wait until they may."""

    def __init__(self) -> None:
        super().__init__({})
        self.begun, self.may = threading.Event(), threading.Event()

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        self.begun.set()
        assert self.may.wait(DEADLINE_S)
        return super().load_chunk(key, into)


def test_what_a_tier_fills_is_nobody_s_to_join() -> None:
    tier, keys, entries = Unhurried(), group_keys(1), 24
    with group_pool(clients=2, tiers=[tier], policy="lru", entries=entries) as (server, [client, other]):
        lease = client.prepare_store(keys)
        token = lease.export()
        for part in range(SHARDS):
            store_part(client, token, part)
        client.commit_store(lease)
        assert check_parts(client, keys) == 1
        eventually(lambda: tier_figure(server, "stored")() == 1, "its copy")
        for first in range(1, 30):
            store(client, group_keys(1, first))
        assert client.lookup(keys) == (0, 0)
        coming = client.prefetch(keys)
        assert tier.begun.wait(DEADLINE_S)
        assert client.prepare_store(keys).statuses == [PENDING]
        at = len(token) - 4 - 8  # of the entry and its generation
        try:
            for forged in itertools.product(range(entries), range(40)):
                with pytest.raises((errors.LeaseExpiredError, errors.TokenError)):
                    other.join(resealed(token, at, struct.pack("<II", *forged)), 0)
        finally:
            tier.may.set()
        assert coming.result(DEADLINE_S) == 1
        assert check_parts(other, keys) == 1

"""What another process wrote into a pool's memory is not believed: the server lives, and nobody crashes."""

from __future__ import annotations

import mmap
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ringcast import errors
from ringcast.pool import PoolServer
from tests.pool.pools import COMMITTED, pool, retrieved, some_keys, store
from tests.support import SHM, eventually

HEADER = struct.Struct("<QIIQQQQIIIIQQQQQQ")
BELL_OFFSET = 8192
WHO_BYTES = 256
"""The beginning of a seat, which says whose it is."""


@contextmanager
def scribbled(server: PoolServer) -> Iterator[tuple[mmap.mmap, int, int, int]]:
    """The pool's memory, writable; where the seats begin, how large one is, where the entries begin."""
    with open(SHM / server.segment, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        fields = HEADER.unpack_from(memory)
        yield memory, fields[12], fields[11], fields[13]


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_in_a_seat_harm_nobody_else(seed: int) -> None:
    chosen = random.Random(seed)
    with pool(clients=2) as (server, [victim, client]), scribbled(server) as (memory, seats, size, _):
        keys = some_keys(4)
        store(client, keys)
        held = victim.prepare_retrieve(keys)
        for round_ in range(20):
            begin = seats + WHO_BYTES + chosen.randrange(size - WHO_BYTES - 4096)
            length = chosen.randrange(1, 4096)
            memory[begin : begin + length] = chosen.randbytes(length)
            memory[BELL_OFFSET] = 0xFF
            assert store(client, some_keys(3, first=10 + round_)) == [COMMITTED] * 3
            assert retrieved(client, some_keys(3, first=10 + round_)) == 3
        del held
    # The victim's own calls may fail as they like; it is the others' that must not.


@pytest.mark.parametrize("kind", range(8))
def test_a_request_that_makes_no_sense_is_refused_and_the_server_lives(kind: int) -> None:
    mail_word, slot_bytes = _mail()
    with pool(clients=2) as (server, [_, client]), scribbled(server) as (memory, seats, _size, _entries):
        at = seats + mail_word
        memory[at + 24 : at + slot_bytes] = random.Random(kind).randbytes(slot_bytes - 24)  # all but who waits
        struct.pack_into("<Q", memory, at, 77 << 8 | 1)  # asked
        memory[BELL_OFFSET] = 0xFF
        eventually(lambda: memory[at] != 1, "an answer")
        assert server.stats()["refused"] == 1
        assert store(client, some_keys(3)) == [COMMITTED] * 3


def _mail() -> tuple[int, int]:
    """Where in a seat the first slot of its mailbox is, and how large one is."""
    with pool() as (server, [client]), scribbled(server) as (memory, seats, size, _):
        before = bytes(memory[seats : seats + size])
        lease = client.prepare_store(some_keys(1))
        after = bytes(memory[seats : seats + size])
        client.abort_store(lease)
        # The word is idle again, and counts two requests, of which the first said what the namespace is; the line pair
        # that it begins is the slot's.
        changed = [i for i in range(WHO_BYTES, size) if before[i] != after[i]]
        word = next(i & ~127 for i in changed if after[i & ~127 : (i & ~127) + 8] == struct.pack("<Q", 2 << 8))
        return word, 128


def test_a_block_outside_the_pool_is_an_error_and_no_crash() -> None:
    with pool() as (server, [client]), scribbled(server) as (memory, _, _, entries):
        keys = some_keys(1)
        store(client, keys)
        for offset in range(entries, entries + 64 * 64, 64):
            if memory[offset : offset + 32] == keys[0]:
                struct.pack_into("<Q", memory, offset + 40, 1 << 43)
        with pytest.raises(errors.PoolError, match="damaged"):
            client.prepare_retrieve(keys)
        assert client.held_pins == 0

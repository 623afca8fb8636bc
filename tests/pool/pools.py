"""What the tests of the pool share: small pools, keys, chunks whose bytes say which they are, servers to be killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

from ringcast.errors import PoolTimeoutError
from ringcast.pool import ChunkStatus, Keys, Namespace, PoolClient, PoolEvent, PoolServer, StoreLease, keys_from_hashes
from tests.support import DEADLINE_S, Background, Child, Link, eventually, unique_name

CHUNK = 4096
SPACE = Namespace("model", dtype="uint8", layout="bytes")
LOOSE = Namespace("model", dtype="uint8", layout="bytes", chained=False)
HIT, MISS, PENDING, BUSY = ChunkStatus.HIT, ChunkStatus.MISS, ChunkStatus.PENDING, ChunkStatus.BUSY
RESERVED, CACHED, COMMITTED = ChunkStatus.RESERVED, ChunkStatus.CACHED, ChunkStatus.COMMITTED
OWN, ORPHAN, NO_MEMORY = ChunkStatus.OWN, ChunkStatus.ORPHAN, ChunkStatus.NO_MEMORY
Answer = TypeVar("Answer")
Starter = Callable[..., Child]
"""The fixture `start`."""


def some_keys(count: int, first: int = 0, space: Namespace = SPACE) -> Keys:
    """A chain of `count` keys, or so many loose ones; another `first` makes others."""
    return keys_from_hashes([(first * 1_000_000 + i).to_bytes(8, "little") for i in range(count)], space)


def content(key: bytes, size: int = CHUNK) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a test stores under this key."""
    return np.resize(np.frombuffer(key, np.uint8), size)


def part_content(key: bytes, part: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same of a chunk's part, of so many bytes."""
    return content(bytes([part]) + key, size)


def fill(lease: StoreLease, part: int | None = None) -> None:
    """Its chunks, or that part of each, for which it was joined."""
    for slot in lease.slots:
        size = len(slot.array)
        slot.array[:] = content(slot.key, size) if part is None else part_content(slot.key, part, size)


def store(client: PoolClient, keys: Keys) -> list[ChunkStatus]:
    """Stores the chunks of these keys, all parts of each, and says what became of each."""
    lease = client.prepare_store(keys)
    if keys.space.shards == 1:
        fill(lease)
    else:
        for part in range(keys.space.shards):
            with client.join(lease.export(), part) as joined:
                assert isinstance(joined, StoreLease)
                fill(joined, part)
    return client.commit_store(lease)


def retrieved(client: PoolClient, keys: Keys, **options: Any) -> int:
    """How many of these keys can be read; each chunk is looked at."""
    with client.retrieve(keys, **options) as found:
        for slot in found.slots:
            assert bytes(slot.array) == bytes(content(slot.key, len(slot.array))), f"chunk {slot.index} is another one"
        return found.hits


class Picture:
    """What is in a pool, as somebody knows it who sees its events alone."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes | None] = {}
        self.resyncs = 0
        self.next = 0

    def add(self, events: list[PoolEvent]) -> None:
        if events[0].kind == "resync":
            self.resyncs += 1
            self.next = events[0].number
            self.keys = {event.key: event.space for event in events[1:] if event.key is not None}
            return
        for event in events:
            assert event.number == self.next, f"{self.next} is missing before {event}"
            self.next += 1
            if event.kind == "stored":
                assert event.key is not None
                self.keys[event.key] = event.space
            elif event.kind == "removed":
                assert event.key is not None
                self.keys.pop(event.key, None)  # gone before the resync that showed it no more
            else:
                self.keys = {key: space for key, space in self.keys.items() if event.space not in {None, space}}


@contextmanager
def pool(
    chunks: int = 64, clients: int = 1, chunk: int = CHUNK, name: str | None = None, **options: Any
) -> Iterator[tuple[PoolServer, list[PoolClient]]]:
    """A server of room for so many chunks, and its clients."""
    options = {"entries": max(chunks, 16), **options}
    with PoolServer(name or unique_name("p"), max(chunks * chunk, 65536), **options) as server:
        made = [PoolClient.connect(server.name, f"w{i}", layout=chunk, timeout=DEADLINE_S) for i in range(clients)]
        try:
            yield server, made
        finally:
            for client in made:
                client.close()


def answered(call: Callable[[], Answer]) -> Answer:
    """What a client is answered in the end that waits for too short a time: on a busy machine that may take tries."""
    answers: list[Answer] = []

    def comes() -> bool:
        with suppress(PoolTimeoutError):
            answers.append(call())
        return bool(answers)

    eventually(comes, "an answer in time")
    return answers[0]


@contextmanager
def long_turns() -> Iterator[None]:
    """A thread runs until it waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(DEADLINE_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def begun(call: Callable[[], Any]) -> Background:
    """Returns when the call waits, if threads have long turns."""
    there = threading.Event()

    def run() -> Any:
        there.set()
        return call()

    thread = Background(run)
    there.wait()
    return thread


def figure(server: PoolServer, *path: str | int) -> Callable[[], int]:
    """What the server counts, by the keys that lead there in `stats()`, asked anew each time."""

    def now() -> int:
        counted: Any = server.stats()
        for key in path:
            counted = counted[key]
        return int(counted)

    return now


def serving(link: Link, name: str, chunks: int, keep: bool) -> None:
    server = PoolServer(name, chunks * CHUNK, entries=chunks, keep=keep).start()
    link.send(server.adopted)
    server.serve_forever()


def start_server(start: Starter, name: str, chunks: int = 64, *, keep: bool = False) -> tuple[Child, bool]:
    """A process that serves the pool of this name; did it take over what another one left?"""
    child = start(serving, name, chunks, keep)
    return child, child.receive()

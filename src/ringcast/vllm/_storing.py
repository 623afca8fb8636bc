"""The stores of an engine, and the thread that asks the pool's server for them.

The engine's thread begins one with blocks that a step fills, and holds them; this thread reserves chunks; the next plan
tells the workers, which copy and commit each its part; then the blocks are let go, and this thread ends the lease. What
the server does not take is not stored, and after that nothing is asked of it for some seconds.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ringcast._mishaps import shown, tell
from ringcast.errors import LeaseExpiredError, PoolError
from ringcast.pool import ChunkStatus, Keys, KVLayout, PoolClient, RetrieveLease, StoreLease
from ringcast.vllm._counts import Counts
from ringcast.vllm._plans import Report, Store
from ringcast.vllm._pool_access import Access
from ringcast.vllm._pool_events import Announcements, Stored
from ringcast.vllm._pool_settings import Settings

_log = logging.getLogger("vllm.ringcast")

_HELD_SHARE = 2
"""At most one block in so many is held for stores: the others are there for requests."""
_NO_LOSS = {ChunkStatus.RESERVED, ChunkStatus.CACHED, ChunkStatus.PENDING, ChunkStatus.OWN}
"""What others have, or do, is no loss."""


class Blocks(Protocol):
    """An engine's blocks, which may be held."""

    def count(self) -> int: ...
    def hold(self, blocks: list[int]) -> None: ...
    def let_go(self, blocks: list[int]) -> None: ...


@dataclass
class _Storing:
    """A store that has begun."""

    number: int
    keys: Keys
    blocks: list[int]
    held: list[int]
    """Of the blocks, those that are held."""
    told: list[Stored]
    """What is to be announced of each, if anybody is told."""
    era: int
    """In which it began."""
    client: PoolClient | None = None
    lease: StoreLease | None = None
    """Whose, and what it has reserved; None: nothing."""
    answers: int = 0
    failed: bool = False


@dataclass
class Stores:
    """One engine's. All but its thread is for the thread of the engine's steps, which waits for nothing here.

    Args:
        layout: of the workers' chunks, all parts together.
        announcements: told of each block that is in the pool since.
    """

    settings: Settings
    layout: KVLayout
    blocks: Blocks
    counts: Counts
    announcements: Announcements | None
    _storing: dict[int, _Storing] = field(default_factory=dict, init=False)
    _settling: set[int] = field(default_factory=set, init=False)
    """Stores that all workers have answered, and the thread has not ended."""
    _numbers: int = field(default=0, init=False)
    _n_held: int = field(default=0, init=False)
    _paused_until: float = field(default=0.0, init=False)
    _connecting: bool = field(default=False, init=False)
    _answers: deque[_Storing] = field(default_factory=deque, init=False)
    """Stores that the thread has asked for."""

    def __post_init__(self) -> None:
        self._access = Access(self.settings, self.layout, "vllm-scheduler")
        self._to_do: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ringcast pool", daemon=True)
        self._thread.start()
        self.connect()

    @property
    def client(self) -> PoolClient | None:
        """The pool's client, if there is a pool."""
        return self._access.client

    def connect(self) -> None:
        """Have the thread try to get one, if there is none and it is time."""
        if self._access.due and not self._connecting:
            self._connecting = True
            self._to_do.put(self._do_connect)

    def trouble(self, client: PoolClient, error: PoolError) -> None:
        """The server has not answered, or the pool is gone: for some seconds nothing is asked of it."""
        self.counts.add("pool_errors", 1)
        if not self._access.failed(client, error) and not self.paused:
            _log.warning("ringcast: nothing is stored for %g s: %s", self.settings.retry, error)
        self._paused_until = time.monotonic() + self.settings.retry

    @property
    def paused(self) -> bool:
        """Is nothing asked of the server just now?"""
        return time.monotonic() < self._paused_until

    @property
    def room(self) -> int:
        """How many more blocks may be held."""
        return self.blocks.count() // _HELD_SHARE - self._n_held

    @property
    def busy(self) -> bool:
        """Is something under way that further steps bring to its end?"""
        to_tell = self.announcements is not None and self.announcements.waiting
        return bool(self._storing or self._settling or to_tell)

    def held(self) -> Iterator[int]:
        """The blocks that are held."""
        return (block for store in self._storing.values() for block in store.held)

    def begin(self, keys: Keys, blocks: list[int], told: list[Stored]) -> None:
        """Store these blocks under these keys; `told` is what to announce of each, or nothing."""
        era = 0 if self.announcements is None else self.announcements.era
        store = _Storing(self._numbers, keys, blocks, blocks, told, era)
        self._numbers += 1
        self.blocks.hold(blocks)
        self._n_held += len(blocks)
        self._storing[store.number] = store
        self._to_do.put(lambda: self._reserve(store))

    def take(self) -> list[Store]:
        """What the workers are to be told since the last time."""
        found = []
        while self._answers:
            store = self._answers.popleft()
            token = b"" if store.lease is None else exported(store.lease)
            statuses = [] if store.lease is None else store.lease.statuses
            reserved = {i for i, status in enumerate(statuses) if status is ChunkStatus.RESERVED}
            if not reserved or not token:
                self._over(store)
                continue
            # Only what is copied need be held.
            store.held = [block for i, block in enumerate(store.blocks) if i in reserved]
            self._let_go([block for i, block in enumerate(store.blocks) if i not in reserved])
            found.append(Store(store.number, token, store.blocks))
        return found

    def update(self, report: Report) -> None:
        """What the workers say that has become of their parts."""
        self._answered(report.stored, failed=False)
        self._answered(report.not_stored, failed=True)

    def close(self) -> None:
        """The thread ends, after what it has begun; the client is closed."""
        self._to_do.put(None)
        self._thread.join(self.settings.timeout + self.settings.regain + 1.0)
        if self.announcements is not None:
            self.announcements.close()
        self._access.close()

    def _answered(self, counted: Mapping[int, int], *, failed: bool) -> None:
        for number, count in counted.items():
            store = self._storing.get(number)
            if store is None:
                continue
            store.answers += count
            store.failed |= failed
            if store.answers >= self.layout.shards:
                self._over(store)
                self._settling.add(number)
                self._to_do.put(lambda ended=store: self._settle(ended))  # type: ignore[misc]

    def _over(self, store: _Storing) -> None:
        del self._storing[store.number]
        self._let_go(store.held)

    def _let_go(self, blocks: list[int]) -> None:
        self.blocks.let_go(blocks)
        self._n_held -= len(blocks)

    # --- What the thread does.

    def _work(self) -> None:
        while (job := self._to_do.get()) is not None:
            try:
                job()
            except BaseException as error:
                tell(_log, "ringcast: a store has come to nothing: %s", shown(error), error=error, level=logging.ERROR)

    def _do_connect(self) -> None:
        try:
            self._access.connect()
        except PoolError as error:
            _log.warning("ringcast: no pool: %s", error)
        finally:
            self._connecting = False

    def _reserve(self, store: _Storing) -> None:
        store.client = client = self.client
        try:
            if client is not None and not self.paused:
                store.lease = client.prepare_store(store.keys)
                refused = sum(status not in _NO_LOSS for status in store.lease.statuses)
            else:
                refused = len(store.keys)
        except PoolError as error:
            assert client is not None
            self.trouble(client, error)
            refused = len(store.keys)
        finally:
            self._answers.append(store)
        self.counts.add("blocks_not_stored", refused)

    def _settle(self, store: _Storing) -> None:
        """All workers have said what became of their parts."""
        try:
            self._end(store)
        finally:  # an engine goes on stepping as long as there is one
            self._settling.discard(store.number)

    def _end(self, store: _Storing) -> None:
        client, lease, store.lease = store.client, store.lease, None
        assert client is not None
        assert lease is not None
        asked = sum(status is ChunkStatus.RESERVED for status in lease.statuses)
        committed = [False] * len(store.keys)
        try:
            if store.failed:
                client.abort_store(lease)
            else:
                committed = [status is ChunkStatus.COMMITTED for status in client.commit_store(lease)]
        except LeaseExpiredError:
            pass  # which is why a worker has not stored its part
        except PoolError as error:
            self.trouble(client, error)
        finally:
            self.counts.add("blocks_stored", committed.count(True))
            self.counts.add("blocks_not_stored", asked - committed.count(True))
            if self.announcements is not None:
                for i in (i for i, there in enumerate(committed) if there):
                    is_there = partial(_is_there, client, store.keys[i : i + 1])
                    self.announcements.stored(store.keys[i], store.told[i], store.era, is_there)


def _is_there(client: PoolClient, key: Keys) -> bool:
    try:
        return client.lookup(key).memory == 1
    except PoolError:
        return False


def exported(lease: RetrieveLease | StoreLease) -> bytes:
    """The lease's token; empty if its pool is gone."""
    try:
        return lease.export()
    except PoolError:
        return b""

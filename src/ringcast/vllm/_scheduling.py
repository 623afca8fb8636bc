"""The scheduler's side of the KV connector: which chunks a request can have from the pool, and which it has for it.

The engine's thread waits for nothing here. What it looks up and pins costs no message; what has to be asked of the
pool's server is asked by a thread of its own, whose answers are taken with the next step.

A load: `matched` pins what is there, `allocated` hands the lease's token to the workers with the next plan, `update`
gives it back once all of them have copied. A store: `plan` takes blocks that a step fills, and holds them, so that
neither the end nor the preemption of their request changes them; the thread reserves chunks; the workers copy with the
next plan, and commit each its part; then the blocks are let go. What cannot be stored at once is not stored.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from ringcast.errors import LeaseExpiredError, PoolError
from ringcast.pool import ChunkStatus, Keys, KVLayout, Namespace, RetrieveLease, StoreLease, keys_from_hashes
from ringcast.vllm._counts import Counts
from ringcast.vllm._plans import Load, Plan, Report, Store
from ringcast.vllm._pool_access import Access
from ringcast.vllm._pool_events import Announcements, Stored
from ringcast.vllm._pool_settings import Settings

_log = logging.getLogger("vllm.ringcast")

_HELD_SHARE = 2
"""At most one block in so many is held for stores: the others are there for requests."""
_SPACES = 256


class Request(Protocol):
    """What is looked at of a request of vLLM's."""

    @property
    def request_id(self) -> str: ...
    @property
    def block_hashes(self) -> Sequence[bytes]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def cache_salt(self) -> str | None: ...
    @property
    def skip_reading_prefix_cache(self) -> bool: ...
    @property
    def all_token_ids(self) -> Sequence[int]: ...


class Blocks(Protocol):
    """An engine's blocks, which may be held."""

    def count(self) -> int: ...
    def hold(self, blocks: list[int]) -> None: ...
    def let_go(self, blocks: list[int]) -> None: ...


class Model(NamedTuple):
    """What makes an engine's chunks its own, beside their layout."""

    name: str
    revision: str
    dtype: str
    form: str
    block_tokens: int
    hashes_of_a_block: int = 1


@dataclass
class _Known:
    """A request that the engine has."""

    request: Request
    keys: Keys
    lease: RetrieveLease | None = None
    first: int = 0
    """The block that the lease's first chunk is for."""
    loading: bool = False
    failed: bool = False
    """A load of it has failed: it computes, and asks no more."""
    offered: int = 0
    """So many of its leading blocks have been stored, or will not be."""


@dataclass
class _Storing:
    """A store that has begun."""

    number: int
    keys: Keys
    blocks: list[int]
    lease: StoreLease | None = None
    held: list[int] = field(default_factory=list)
    """Of the blocks, those that are held."""
    answers: int = 0
    failed: bool = False
    told: list[Stored] = field(default_factory=list)
    """What is to be announced of each, if anybody is told."""


class Scheduling:
    """One engine's. Raises ArgumentError if there is no such namespace.

    Args:
        layout: of the workers' chunks, all parts together.
        blocks_of: the blocks of a request, in their order.
        loads, stores: whether it does either.
        announcements: told of each block that is in the pool since.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        layout: KVLayout,
        blocks: Blocks,
        blocks_of: Callable[[str], Sequence[int]],
        *,
        loads: bool = True,
        stores: bool = True,
        announcements: Announcements | None = None,
    ) -> None:
        self.counts = Counts()
        self._announcements = announcements
        self._settings = settings
        self._model = model
        self._layout = layout
        self._blocks = blocks
        self._blocks_of = blocks_of
        self._loads, self._stores = loads, stores
        self._access = Access(settings, layout, "vllm-scheduler")
        self._known: dict[str, _Known] = {}
        self._leases: dict[str, RetrieveLease] = {}
        """Of loads that the workers have been told of."""
        self._plan = Plan()
        self._storing: dict[int, _Storing] = {}
        self._settling: set[int] = set()
        """Stores that all workers have answered, and the thread has not."""
        self._numbers = 0
        self._n_held = 0
        self._paused_until = 0.0
        self._space = lru_cache(_SPACES)(self._new_space)
        self._space(None)  # so that what makes no namespace is said when the engine starts
        self._to_do: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: deque[_Storing] = deque()
        """Stores that chunks are reserved for, or that are over: without a lease."""
        self._asked_to_connect = False
        self._thread = threading.Thread(target=self._work, name="ringcast pool", daemon=True)
        self._thread.start()
        self._connect()

    # --- Called by the engine, each by its one thread.

    def matched(self, request: Request, computed: int) -> tuple[int, bool]:
        """How many tokens beyond `computed` the pool has, and whether they come while others are computed.

        They are pinned until they are asked for, or the request is asked about anew, or ends.
        """
        known = self._get(request)
        if known.lease is not None and (known.first != computed // self._model.block_tokens or known.loading):
            self._give_back(known)
        client = self._access.client
        if client is None:
            self._connect()
        if client is None or not self._loads or known.failed or request.skip_reading_prefix_cache:
            return 0, False
        # The last token is computed in any case, for its logits.
        first, end = computed // self._model.block_tokens, (request.num_tokens - 1) // self._model.block_tokens
        if known.lease is None:
            try:
                if first >= end:
                    client.touch(known.keys[:end])
                    return 0, False
                lease = client.prepare_retrieve(known.keys[first:end])
            except PoolError as error:
                self._trouble(client, error)
                return 0, False
            self.counts.add("blocks_looked_up", end - first)
            known.lease, known.first = lease, first
        hits = known.lease.hits
        if hits == 0:
            self._give_back(known)
        return hits * self._model.block_tokens, hits > 0

    def allocated(self, request: Request, blocks: Sequence[int], tokens: int) -> None:
        """The engine has blocks for so many tokens of what `matched` found; 0: it wants none of it."""
        known = self._get(request)
        if tokens == 0:
            if not known.loading:
                self._give_back(known)
            return
        first, count = known.first, tokens // self._model.block_tokens
        token = b""
        if known.lease is not None and count <= known.lease.hits:
            token = _exported(known.lease)
            self._leases[request.request_id] = known.lease
        # Without a token the workers say that it has failed, which is the one way to say so.
        known.lease, known.loading = None, True
        self._plan.loads.append(Load(request.request_id, token, list(blocks[first : first + count])))
        self.counts.add("blocks_loaded", count)

    def plan(self, scheduled: Mapping[str, int]) -> Plan:
        """What the workers are to do with this step, which computes so many tokens of each of these requests."""
        self._take_answers()
        if self._stores:
            for name, tokens in scheduled.items():
                known = self._known.get(name)
                if known is not None:
                    self._offer(known, tokens)
        plan, self._plan = self._plan, Plan()
        return plan

    def update(self, received: Iterable[str], report: Report | None) -> None:
        """What the workers have done: these requests' loads are over on all of them, and their report."""
        for name in received:
            lease = self._leases.pop(name, None)
            if lease is not None:
                self._end(lease)
            if name in self._known:
                self._known[name].loading = False
        for name in report.failed_loads if report else ():
            known = self._known.get(name)
            if known is not None and not known.failed:
                known.failed = True
                self.counts.add("loads_failed", 1)
        for counted, failed in ((report.stored, False), (report.not_stored, True)) if report else ():
            for number, count in counted.items():
                self._answered(number, count, failed)
        self._take_answers()

    def finished(self, name: str) -> None:
        """The request has ended, or was aborted. A load that goes on is waited for by the engine."""
        known = self._known.pop(name, None)
        if known is not None:
            self._give_back(known)

    @property
    def busy(self) -> bool:
        """Is something under way that further steps bring to its end?"""
        to_tell = self._announcements is not None and self._announcements.waiting
        return bool(self._storing or self._settling or to_tell)

    def held(self) -> Iterator[int]:
        """The blocks that stores hold."""
        return (block for store in self._storing.values() for block in store.held)

    def forget(self) -> None:
        """From now on the engine finds nothing that was stored before, and others nothing that it stores: its weights
        may have changed, which no name says."""
        self._model = replace_era(self._model)
        self._space.cache_clear()
        for known in self._known.values():
            self._give_back(known)
            known.keys = self._keys_of(known.request)
            if known.request.num_computed_tokens:
                known.offered = sys.maxsize  # what it has was computed before

    def close(self) -> None:
        """Gives everything back."""
        self._to_do.put(None)
        self._thread.join(self._settings.timeout + self._settings.regain + 1.0)
        for known in self._known.values():
            self._give_back(known)
        for lease in self._leases.values():
            self._end(lease)
        if self._announcements is not None:
            self._announcements.close()
        self._access.close()

    # --- Requests and their keys.

    def _get(self, request: Request) -> _Known:
        known = self._known.get(request.request_id)
        if known is None:
            known = self._known[request.request_id] = _Known(request, self._keys_of(request))
        known.request = request
        self._extend(known)
        return known

    def _keys_of(self, request: Request) -> Keys:
        return keys_from_hashes([], self._space(request.cache_salt))

    def _extend(self, known: _Known) -> None:
        every, there = self._model.hashes_of_a_block, len(known.keys)
        hashes = known.request.block_hashes
        if len(hashes) // every > there:
            more = [bytes(one) for one in hashes[there * every :]]
            known.keys += keys_from_hashes(more, known.keys.space, every, known.keys if there else None)

    def _new_space(self, salt: str | None) -> Namespace:
        model = self._model
        return Namespace(
            model.name, model.revision, dtype=model.dtype, layout=f"{self._layout.fingerprint} {model.form}",
            shards=self._layout.shards, salt=salt_bytes(salt),
        )  # fmt: skip

    def _give_back(self, known: _Known) -> None:
        lease, known.lease = known.lease, None
        if lease is not None:
            self._end(lease)

    def _end(self, lease: RetrieveLease) -> None:
        try:
            lease.__exit__(None, None, None)
        except PoolError:
            _log.debug("ringcast: a lease could not be given back", exc_info=True)

    # --- Stores.

    def _offer(self, known: _Known, tokens: int) -> None:
        """Begin to store what this step fills. The first time that is all that the request has: what another request
        or another engine has stored is there, and costs nothing."""
        computed = (known.request.num_computed_tokens + tokens) // self._model.block_tokens
        if computed <= known.offered:
            return
        self._extend(known)
        full = min(computed, len(known.keys))
        known.offered += self._there(known.keys[known.offered : full])
        room = self._blocks.count() // _HELD_SHARE - self._n_held
        count = min(full - known.offered, room)
        if full <= known.offered:
            return
        if self._access.client is None or time.monotonic() < self._paused_until:
            self.counts.add("blocks_not_stored", full - known.offered)
            known.offered = full
            self._connect()
            return
        if count <= 0:
            return  # a later step tries again
        first, known.offered = known.offered, known.offered + count
        blocks = list(self._blocks_of(known.request.request_id)[first : known.offered])
        store = _Storing(self._numbers, known.keys[first : known.offered], blocks, held=blocks)
        self._numbers += 1
        if self._announcements is not None:
            store.told = self._said(known.request, first, known.offered)
        self._blocks.hold(blocks)
        self._n_held += len(blocks)
        self._storing[store.number] = store
        self._to_do.put(lambda: self._reserve(store))

    def _said(self, request: Request, first: int, end: int) -> list[Stored]:
        """What there is to say of a request's blocks."""
        every, size = self._model.hashes_of_a_block, self._model.block_tokens
        hashes = [bytes(one) for one in request.block_hashes[every - 1 : end * every : every]]
        tokens = request.all_token_ids
        return [
            Stored(hashes[i], hashes[i - 1] if i else None, list(tokens[i * size : (i + 1) * size]))
            for i in range(first, end)
        ]

    def _there(self, keys: Keys) -> int:
        """How many of them, from the first on, the pool has anyway."""
        client = self._access.client
        try:
            return client.lookup(keys).total if client is not None else 0
        except PoolError as error:
            self._trouble(client, error)
            return 0

    def _take_answers(self) -> None:
        while self._answers:
            store = self._answers.popleft()
            if store.lease is None:
                self._over(store)
                continue
            token = _exported(store.lease)
            reserved = {i for i, status in enumerate(store.lease.statuses) if status is ChunkStatus.RESERVED}
            if not reserved or not token:
                self._over(store)
                continue
            # Only what is copied need be held.
            keep = [block for i, block in enumerate(store.blocks) if i in reserved]
            self._let_go([block for i, block in enumerate(store.blocks) if i not in reserved])
            store.held = keep
            self._plan.stores.append(Store(store.number, token, store.blocks))

    def _answered(self, number: int, count: int, failed: bool) -> None:
        store = self._storing.get(number)
        if store is None:
            return
        store.answers += count
        store.failed |= failed
        if store.answers >= self._layout.shards:
            self._over(store)
            self._settling.add(store.number)
            self._to_do.put(lambda: self._settle(store))

    def _over(self, store: _Storing) -> None:
        del self._storing[store.number]
        self._let_go(store.held)

    def _let_go(self, blocks: list[int]) -> None:
        self._blocks.let_go(blocks)
        self._n_held -= len(blocks)

    # --- What the thread does.

    def _work(self) -> None:
        while (job := self._to_do.get()) is not None:
            try:
                job()
            except Exception:
                _log.exception("ringcast: not expected here")

    def _connect(self) -> None:
        if self._access.due and not self._asked_to_connect:
            self._asked_to_connect = True
            self._to_do.put(self._do_connect)

    def _do_connect(self) -> None:
        try:
            self._access.connect()
        except PoolError as error:
            _log.warning("ringcast: no pool: %s", error)
        finally:
            self._asked_to_connect = False

    def _reserve(self, store: _Storing) -> None:
        client = self._access.client
        try:
            if client is not None and time.monotonic() >= self._paused_until:
                store.lease = client.prepare_store(store.keys)
        except PoolError as error:
            assert client is not None
            self._trouble(client, error)
        except Exception:
            _log.exception("ringcast: a store was not prepared")
        self._count(store, () if store.lease is None else store.lease.statuses)
        self._answers.append(store)

    def _count(self, store: _Storing, statuses: Iterable[ChunkStatus]) -> None:
        """Count what is not stored for want of memory, or of a server; what others have or do is no loss."""
        no_loss = {ChunkStatus.RESERVED, ChunkStatus.CACHED, ChunkStatus.PENDING, ChunkStatus.OWN}
        seen = [status in no_loss for status in statuses] or [False] * len(store.keys)
        self.counts.add("blocks_not_stored", seen.count(False))

    def _settle(self, store: _Storing) -> None:
        """All workers have said what became of their part."""
        try:
            self._commit(store)
        finally:
            self._settling.discard(store.number)

    def _commit(self, store: _Storing) -> None:
        lease, client = store.lease, self._access.client
        store.lease = None
        if lease is None or client is None:
            return
        asked = sum(status is ChunkStatus.RESERVED for status in lease.statuses)
        stored = 0
        try:
            if store.failed:
                client.abort_store(lease)
            else:
                committed = [status is ChunkStatus.COMMITTED for status in client.commit_store(lease)]
                stored = committed.count(True)
                if self._announcements is not None:
                    for key, said, there in zip(store.keys, store.told, committed, strict=True):
                        if there:
                            self._announcements.stored(key, said)
        except LeaseExpiredError:
            pass  # which is why a worker has not stored its part
        except PoolError as error:
            self._trouble(client, error)
        self.counts.add("blocks_stored", stored)
        self.counts.add("blocks_not_stored", asked - stored)

    def _trouble(self, client: Any, error: PoolError) -> None:
        """The server has not answered, or the pool is gone: for some seconds nothing is asked of it."""
        self.counts.add("pool_errors", 1)
        if not self._access.failed(client, error) and time.monotonic() >= self._paused_until:
            _log.warning("ringcast: nothing is stored for %g s: %s", self._settings.retry, error)
        self._paused_until = time.monotonic() + self._settings.retry


def _exported(lease: RetrieveLease | StoreLease) -> bytes:
    """The lease's token; empty if its pool is gone."""
    try:
        return lease.export()
    except PoolError:
        return b""


def replace_era(model: Model) -> Model:
    """The same model, as nobody else has it."""
    base = model.revision.partition("+")[0]
    return model._replace(revision=f"{base}+{uuid.uuid4().hex}")


def salt_bytes(salt: str | None) -> bytes:
    """A tenant's salt: vLLM's `cache_salt`; of one that is longer than a pool's salts, its digest."""
    encoded = (salt or "").encode(errors="surrogatepass")
    return encoded if len(encoded) <= 1024 else hashlib.sha256(encoded).digest()

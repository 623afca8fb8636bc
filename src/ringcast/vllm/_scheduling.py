"""The scheduler's side of the KV connector: which chunks a request can have from the pool, and which it has for it.

The engine's thread waits for nothing here: what it looks up and pins costs no message, and stores are asked for by a
thread of their own (_storing.py). A load: `matched` pins what is there, `allocated` hands the lease's token to the
workers with the next plan, `update` gives it back once all of them have copied.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from ringcast.errors import PoolError
from ringcast.pool import Keys, KVLayout, Namespace, PoolClient, RetrieveLease, keys_from_hashes
from ringcast.vllm._counts import Counts
from ringcast.vllm._plans import Load, Plan, Report
from ringcast.vllm._pool_events import Announcements, Stored
from ringcast.vllm._pool_settings import Settings
from ringcast.vllm._storing import Blocks, Stores, exported

_log = logging.getLogger("vllm.ringcast")

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
    def lora_request(self) -> Any: ...
    @property
    def skip_reading_prefix_cache(self) -> bool: ...
    @property
    def all_token_ids(self) -> Sequence[int]: ...


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
    coming: Future[int] | None = None
    """What tiers had of it when it was first asked about: done once that is in memory, or will not be in time."""
    loading: bool = False
    failed: bool = False
    """A load of it has failed: it computes, and asks no more."""
    offered: int = 0
    """So many of its leading blocks have been stored, or will not be."""


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
        self._model = model
        self._layout = layout
        self._blocks_of = blocks_of
        self._does_load, self._does_store = loads, stores
        self._tells = announcements is not None
        self._known: dict[str, _Known] = {}
        self._leases: dict[str, RetrieveLease] = {}
        """Of loads that the workers have been told of."""
        self._loads: list[Load] = []
        """What the workers are to be told of with the next plan."""
        self._space = lru_cache(_SPACES)(self._new_space)
        self._space(None, None)  # so that what makes no namespace is said when the engine starts
        self._stores = Stores(settings, layout, blocks, self.counts, announcements)

    @property
    def client(self) -> PoolClient | None:
        """The pool's client, if there is a pool."""
        return self._stores.client

    # --- Called by the engine, each by its one thread.

    def matched(self, request: Request, computed: int) -> tuple[int | None, bool]:
        """How many tokens beyond `computed` the pool has, and whether they come while others are computed.

        They are pinned until they are asked for, or the request is asked about anew, or ends. None: a tier's chunks are
        on their way into memory, and it is to be asked about again.
        """
        known = self._get(request)
        if known.lease is not None and (known.first != computed // self._model.block_tokens or known.loading):
            self._give_back(known)
        client = self.client
        if client is None:
            self._stores.connect()
        if client is None or not self._does_load or known.failed or request.skip_reading_prefix_cache:
            return 0, False
        # The last token is computed in any case, for its logits.
        first, end = computed // self._model.block_tokens, (request.num_tokens - 1) // self._model.block_tokens
        if known.lease is None:
            try:
                if first >= end:
                    client.touch(known.keys[:end])
                    return 0, False
                wanted = known.keys[first:end]
                if self._comes(client, known, wanted):
                    return None, False
                lease = client.prepare_retrieve(wanted)
            except PoolError as error:
                self._stores.trouble(client, error)
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
            token = exported(known.lease)
            self._leases[request.request_id] = known.lease
        # Without a token the workers say that it has failed, which is the one way to say so.
        known.lease, known.loading = None, True
        self._loads.append(Load(request.request_id, token, list(blocks[first : first + count])))
        self.counts.add("blocks_loaded", count)

    def plan(self, scheduled: Mapping[str, int]) -> Plan:
        """What the workers are to do with this step, which computes so many tokens of each of these requests."""
        # Those begun with steps before: workers copy as soon as they are told, and this step's blocks come after that.
        stores = self._stores.take()
        if self._does_store:
            for name, tokens in scheduled.items():
                known = self._known.get(name)
                if known is not None:
                    self._offer(known, tokens)
        loads, self._loads = self._loads, []
        return Plan(loads, stores)

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
        if report:
            self._stores.update(report)

    def finished(self, name: str) -> None:
        """The request has ended, or was aborted. A load that goes on is waited for by the engine."""
        known = self._known.pop(name, None)
        if known is not None:
            self._give_back(known)

    @property
    def busy(self) -> bool:
        """Is something under way that further steps bring to its end?"""
        return self._stores.busy

    def held(self) -> Iterator[int]:
        """The blocks that stores hold."""
        return self._stores.held()

    def forget(self) -> None:
        """From now on the engine finds nothing that was stored before, and others nothing that it stores: its weights
        may have changed, which no name says."""
        self._model = replace_era(self._model)
        self._space.cache_clear()
        for known in self._known.values():
            self._give_back(known)
            known.keys, known.coming = self._keys_of(known.request), None
            # What it has was computed before; who has nothing, for it was preempted, computes all anew.
            known.offered = sys.maxsize if known.request.num_computed_tokens else 0
        if self._stores.announcements is not None:
            self._stores.announcements.forget()

    def close(self) -> None:
        """Gives everything back."""
        for known in self._known.values():
            self._give_back(known)
        for lease in self._leases.values():
            self._end(lease)
        self._stores.close()

    # --- Requests and their keys.

    def _get(self, request: Request) -> _Known:
        known = self._known.get(request.request_id)
        if known is None:
            known = self._known[request.request_id] = _Known(request, self._keys_of(request))
        known.request = request
        self._extend(known)
        return known

    def _keys_of(self, request: Request) -> Keys:
        return keys_from_hashes([], self._space(request.cache_salt, adapter_of(request)))

    def _extend(self, known: _Known) -> None:
        every, there = self._model.hashes_of_a_block, len(known.keys)
        hashes = known.request.block_hashes
        if len(hashes) // every > there:
            more = [bytes(one) for one in hashes[there * every :]]
            known.keys += keys_from_hashes(more, known.keys.space, every, known.keys if there else None)

    def _new_space(self, salt: str | None, adapter: str | None) -> Namespace:
        model = self._model
        revision = model.revision if adapter is None else f"{model.revision}@{adapter}"
        return Namespace(
            model.name, revision, dtype=model.dtype, layout=f"{self._layout.fingerprint} {model.form}",
            shards=self._layout.shards, salt=salt_bytes(salt),
        )  # fmt: skip

    def _comes(self, client: PoolClient, known: _Known, keys: Keys) -> bool:
        """Is what a tier has of these on its way into memory? A request waits for that once, as long as a store may."""
        if known.coming is None and not self._stores.paused:
            found = client.lookup(keys)
            if found.total > found.memory:
                known.coming = client.prefetch(keys)
        return known.coming is not None and not known.coming.done()

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
        if full <= known.offered:
            return
        if self.client is None or self._stores.paused:
            self.counts.add("blocks_not_stored", full - known.offered)
            known.offered = full
            self._stores.connect()
            return
        count = min(full - known.offered, self._stores.room)
        if count <= 0:
            return  # a later step tries again
        first, known.offered = known.offered, known.offered + count
        blocks = list(self._blocks_of(known.request.request_id)[first : known.offered])
        told = self._said(known.request, first, known.offered) if self._tells else []
        self._stores.begin(known.keys[first : known.offered], blocks, told)

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
        client = self.client
        if client is None:
            return 0
        try:
            return client.lookup(keys).total
        except PoolError as error:
            self._stores.trouble(client, error)
            return 0


def replace_era(model: Model) -> Model:
    """The same model, as nobody else has it."""
    base = model.revision.partition("+")[0]
    return model._replace(revision=f"{base}+{uuid.uuid4().hex}")


def adapter_of(request: Request) -> str | None:
    """Which weights a request has beside the model's: an engine's hashes have the adapter's name alone, under which
    another engine may have another one."""
    lora = request.lora_request
    if lora is None:
        return None
    said = json.dumps([lora.lora_name, lora.lora_path])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def salt_bytes(salt: str | None) -> bytes:
    """A tenant's salt: vLLM's `cache_salt`; of one that is longer than a pool's salts, its digest."""
    encoded = (salt or "").encode(errors="surrogatepass")
    return encoded if len(encoded) <= 1024 else hashlib.sha256(encoded).digest()

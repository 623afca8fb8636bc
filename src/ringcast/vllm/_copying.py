"""A worker's side of the KV connector: copies between its blocks and its part of the pool's chunks, in threads.

Every load that was told ends up among the received, whatever happens to it; its blocks that hold nothing of use are
told with it. Every store that was told ends up in the report.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ringcast import _core
from ringcast._core import RetrieveLease, StoreLease
from ringcast._mishaps import hand_over, shown, tell
from ringcast.errors import PoolConnectError, PoolError
from ringcast.pool import KVLayout, PoolClient, gather_paged, scatter_paged
from ringcast.pool._trial import try_layout
from ringcast.vllm._counts import Counts
from ringcast.vllm._plans import Load, Plan, Report, Store
from ringcast.vllm._pool_access import Access
from ringcast.vllm._pool_settings import Settings

_log = logging.getLogger("vllm.ringcast")

_LOADERS, _STORERS = 2, 1
"""Threads. Loads go beside stores: a request waits for them."""


class Copying:
    """One worker's. Raises LayoutError if copies of its tensors are wrong.

    Args:
        layout: of its tensors.
        part: of each chunk that is its: its rank.
        fence: called by the engine's thread with each plan; what it returns is called by a thread before it copies, and
            waits until the device has done what it had been given by then. None: there is no device.
    """

    def __init__(
        self, settings: Settings, layout: KVLayout, part: int, fence: Callable[[], Callable[[], object]] | None = None
    ) -> None:
        self.counts = Counts()
        self._layout = layout
        self._tensors = list(layout.tensors)
        self._part = part
        self._fence = fence
        try_layout(layout)  # now, while nobody else writes to the blocks that are tried
        alike = KVLayout.sizes(layout.page_bytes, layout.pages_per_chunk, layout.shards, layout.cpu_isa)
        self._access = Access(settings, alike, f"vllm-rank{part}")
        self._access.connect()
        self._loaders = ThreadPoolExecutor(_LOADERS, "ringcast-load")
        self._storers = ThreadPoolExecutor(_STORERS, "ringcast-store")
        self._lock = threading.Lock()
        self._received: set[str] = set()
        self._failed_blocks: set[int] = set()
        self._report = Report()

    def begin(self, plan: Plan) -> None:
        """Begin what a step's plan asks for. Waits for nothing."""
        wait = self._fence() if self._fence is not None and (plan.loads or plan.stores) else _at_once
        for load in plan.loads:
            hand_over(self._loaders, partial(self._load, load, wait), partial(self._load_ended, load))
        for store in plan.stores:
            hand_over(self._storers, partial(self._store, store, wait), partial(self._store_ended, store))

    def take_received(self) -> set[str]:
        """Requests whose loads have ended since, well or not."""
        with self._lock:
            received, self._received = self._received, set()
        return received

    def take_failed_blocks(self) -> set[int]:
        """Blocks that hold nothing of use: told with their request's load, or before it, never after it."""
        with self._lock:
            failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def take_report(self) -> Report:
        """What else the scheduler's side wants to know."""
        with self._lock:
            report, self._report = self._report, Report()
        return report

    def close(self) -> None:
        """Ends what has begun, and gives everything back."""
        for threads in (self._loaders, self._storers):
            threads.shutdown(wait=True, cancel_futures=True)
        self._access.close()

    def _load(self, load: Load, wait: Callable[[], object]) -> None:
        failed: Sequence[int] | None = None
        try:
            wait()
            failed = self._scatter(load)
        except BaseException as error:
            _tell("ringcast: blocks of request %s were not loaded: %s", load.request, error)
        self._load_ended(load, failed)

    def _load_ended(self, load: Load, failed: Sequence[int] | None = None) -> None:
        """Which of its blocks hold nothing of use; None: all."""
        if failed is None:
            failed = range(len(load.blocks))
        with self._lock:
            self._received.add(load.request)
            if failed:
                self._report.failed_loads.add(load.request)
                self._failed_blocks.update(load.blocks[i] for i in failed)

    def _scatter(self, load: Load) -> list[int]:
        """Which of the load's blocks are not as they were stored."""
        if not load.token:
            return list(range(len(load.blocks)))
        client, lease = self._join(load.token)
        assert isinstance(lease, RetrieveLease)
        try:
            slots = _core.unseen_slots(lease)[: len(load.blocks)]
            blocks = load.blocks[: len(slots)]
            failed = scatter_paged(slots, self._tensors, blocks, self._layout).result()
        finally:
            client.commit_retrieve(lease)
        self.counts.add("bytes_loaded", (len(slots) - len(failed)) * self._layout.part_bytes)
        return [*failed, *range(len(slots), len(load.blocks))]

    def _store(self, store: Store, wait: Callable[[], object]) -> None:
        done = False
        try:
            wait()
            self._gather(store)
            done = True
        except BaseException as error:
            _tell("ringcast: %s blocks were not stored: %s", len(store.blocks), error)
        self._store_ended(store, done)

    def _store_ended(self, store: Store, done: bool = False) -> None:
        with self._lock:
            counted = self._report.stored if done else self._report.not_stored
            counted[store.number] = counted.get(store.number, 0) + 1

    def _gather(self, store: Store) -> None:
        _, lease = self._join(store.token)
        assert isinstance(lease, StoreLease)
        with lease:  # whose end commits, or aborts
            slots = _core.unseen_slots(lease)
            gather_paged(self._tensors, [store.blocks[slot.index] for slot in slots], slots, self._layout).result()
        self.counts.add("bytes_stored", len(slots) * self._layout.part_bytes)

    def _join(self, token: bytes) -> tuple[PoolClient, Any]:
        """The lease, and whose it is; by a new client, if the pool has been made anew since."""
        client = self._access.client or self._connected()
        try:
            return client, client.join(token, self._part)
        except PoolError as error:
            if not self._access.failed(client, error):
                raise
        client = self._connected()
        return client, client.join(token, self._part)

    def _connected(self) -> PoolClient:
        client = self._access.connect()
        if client is None:
            raise PoolConnectError("this worker has no pool")
        return client


def _tell(message: str, what: object, error: BaseException) -> None:
    """Logs it, with the traceback of what is no error of the pool's."""
    if isinstance(error, PoolError):
        tell(_log, message, what, shown(error))
    else:
        tell(_log, message, what, shown(error), error=error, level=logging.ERROR)


def _at_once() -> None:
    """There is no device to wait for."""

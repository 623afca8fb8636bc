"""`PoolClient`: looks chunks up, reads and stores them. The calls themselves are native (src/core/pool/client.hpp)."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from ringcast import _core, _html
from ringcast._arguments import checked, flag, text
from ringcast._mishaps import Promise
from ringcast._names import pool_segment_name
from ringcast._refusals import named
from ringcast._sizes import human_bytes
from ringcast._version import __version__
from ringcast.errors import PoolConnectError, PoolError, SegmentError
from ringcast.pool import _tokens
from ringcast.pool._layouts import KVLayout
from ringcast.pool._looking import not_reached
from ringcast.pool._trial import try_layout
from ringcast.waiting import Wait, WaitSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from ringcast.pool._keys import Keys
    from ringcast.pool._namespace import Namespace
    from ringcast.pool._status import ChunkStatus


class PoolInfo(NamedTuple):
    """Which pool a client has."""

    name: str
    segment: str
    capacity: int
    """Bytes of chunks."""
    epoch: int
    """How many servers the pool has had: one more after each adoption."""


class Health(NamedTuple):
    """How a pool's server is, as the kernel tells: nothing was sent to it."""

    server: Literal["living", "stopped", "gone"]
    pid: int
    epoch: int


Method = TypeVar("Method", bound="Callable[..., Any]")


def _native(declared: Method) -> Method:
    """The native method of that name, with the documentation of `declared`: no frame of Python's is on its way."""
    method: Method = getattr(_core.PoolClient, declared.__name__)
    return _core.documented(method, declared.__doc__)


class PoolClient(_core.PoolClient):
    """One worker's way to a pool. Made by `PoolClient.connect`.

    What is looked up, retrieved and given back costs no message: it goes on while the server is busy, stopped, or dead.
    `prepare_store`, `commit_store`, `abort_store` and `clear` ask the server and wait for its answer, at most `timeout`
    seconds, and at most `regain` for another server if it has died. All calls may be made from several threads. Every
    error that is not an argument's is a `PoolError`: a cache never fails an engine.

    >>> keys = keys_from_hashes([b"hash 0", b"hash 1"], Namespace("m", dtype="uint8", layout="bytes"))
    >>> with PoolServer("docs-client", "1MiB"), PoolClient.connect("docs-client", layout=4096) as client:
    ...     with client.store(keys) as store:
    ...         for slot in store.slots:
    ...             slot.array[:] = 7
    ...     with client.retrieve(keys) as found:
    ...         found.hits, int(found.slots[1].array[0])
    (2, 7)
    """

    def __init__(self) -> None:
        """Connected to nothing: use `connect`."""
        super().__init__()

    @_native
    def lookup(self, keys: Keys, touch: bool = False) -> _core.Found:
        """How many of the leading keys are there: `Found(memory, total)`. Costs no message.

        `total` counts what a tier on the server's machine has, too. It is an answer about a moment; `retrieve` holds
        what it finds. With `touch` it counts as use.

        >>> client.lookup(keys)
        ringcast.pool.Found(memory=2, total=2)
        """
        return super().lookup(keys, touch)

    @_native
    def touch(self, keys: Keys) -> None:
        """Says that the leading keys that are there have been used, so that they are evicted later. Costs no message.

        For chunks that the engine has in memory of its own, and so does not retrieve; of a namespace that is not
        chained, all keys that are there. A hint: of very many in a short time the oldest are forgotten.

        >>> client.touch(keys)
        """
        super().touch(keys)

    @_native
    def prepare_retrieve(self, keys: Keys, wait: float | None = None, leading: bool = True) -> _core.RetrieveLease:
        """Pins what is there, to be read in place until `commit_retrieve`. Costs no message.

        It stops at the first key that is not there, unless `leading` is False. `wait` is how many seconds to wait for a
        chunk that another client stores just now, or that a tier has, for which the server is asked; whatever becomes
        of that, the chunks in memory are there. Raises PoolError if chunks are not of this client's size.

        >>> lease = client.prepare_retrieve(keys)
        >>> [int(slot.array[0]) for slot in lease.slots]
        [7, 7]
        >>> client.commit_retrieve(lease)
        """
        return super().prepare_retrieve(keys, wait, leading)

    @_native
    def retrieve(self, keys: Keys, wait: float | None = None, leading: bool = True) -> _core.RetrieveLease:
        """`prepare_retrieve`, for a `with` block, whose end commits.

        >>> with client.retrieve(keys) as found:
        ...     found.hits
        2
        """
        return super().retrieve(keys, wait, leading)

    @_native
    def commit_retrieve(self, lease: _core.RetrieveLease) -> None:
        """Gives the chunks back. What views of them still show stays pinned until these are gone. Any number of times.

        >>> client.commit_retrieve(client.prepare_retrieve(keys))
        """
        super().commit_retrieve(lease)

    @_native
    def prepare_store(self, keys: Keys, parent: Keys | None = None) -> _core.StoreLease:
        """Reserves a chunk for each key that is not there; its `statuses` say what became of each.

        The chunks of its `slots` are to be filled, and committed or aborted. Keys of a chained namespace continue the
        key before them, or the last one of `parent`. A lease that is dropped is taken back within half a second.
        Raises PoolTimeoutError, ServerDiedError, PoolClosedError; then nothing is reserved.

        >>> lease = client.prepare_store(keys)
        >>> lease.statuses
        [<ChunkStatus.CACHED: 'cached'>, <ChunkStatus.CACHED: 'cached'>]
        >>> client.abort_store(lease)
        """
        return super().prepare_store(keys, parent)

    @_native
    def store(self, keys: Keys, parent: Keys | None = None) -> _core.StoreLease:
        """`prepare_store`, for a `with` block, whose end commits, or aborts if an exception leaves it.

        >>> with client.store(keys) as lease:
        ...     for slot in lease.slots:
        ...         slot.array[:] = 7
        """
        return super().store(keys, parent)

    @_native
    def commit_store(self, lease: _core.StoreLease) -> list[ChunkStatus]:
        """Makes the chunks visible, whose arrays are read-only from here on; says what became of each key.

        May be repeated where its answer was not heard. Raises LeaseExpiredError if the reservations were given up
        before, and what `prepare_store` raises; nothing is changed then.

        >>> [status.name for status in client.commit_store(client.prepare_store(keys))]
        ['CACHED', 'CACHED']
        """
        return super().commit_store(lease)

    @_native
    def abort_store(self, lease: _core.StoreLease) -> None:
        """Gives the reservations up, and what hangs from them. Raises LeaseExpiredError, and what `prepare_store` does.

        >>> client.abort_store(client.prepare_store(keys))
        """
        super().abort_store(lease)

    def join(self, token: bytes, part: int = 0) -> _core.StoreLease | _core.RetrieveLease:
        """A lease of the chunks of another client's, whose `export()` the token is; of one part of each.

        The chunks of a namespace with `shards=N` have N parts of one size, and each rank fills or reads its own:
        `slots` show its bytes alone. A store asks the server, which gives each part to one client; when the last part
        is committed the chunks are there, for everybody and at once. If any of the group aborts, or dies before its
        part is committed, or the exporter before the last one is, nothing is stored, and the others' calls raise
        LeaseExpiredError, which says who it was. A retrieve costs no message; what has gone meanwhile is a MISS.

        Args:
            token: from any process and by any channel.
            part: from 0 to N - 1: the rank.

        Raises ArgumentError; TokenError if the token is of other memory, damaged or none, or its part is taken;
        LayoutError if this client's chunks are others; LeaseExpiredError if what it names is not being stored any more;
        and what `prepare_store` does. Nothing is joined then.

        >>> space = Namespace("m", dtype="uint8", layout="bytes", shards=2)
        >>> keys = keys_from_hashes([b"hash 0"], space)
        >>> with PoolServer("docs-join", "1MiB"), PoolClient.connect("docs-join", layout=8192) as client:
        ...     with client.store(keys) as store:
        ...         for rank in range(2):  # elsewhere
        ...             with client.join(store.export(), part=rank) as joined:
        ...                 joined.slots[0].array[:] = rank
        ...     with client.retrieve(keys) as found, client.join(found.export(), part=1) as mine:
        ...         mine.slots[0].array.nbytes, int(mine.slots[0].array[0])
        (4096, 1)
        """
        return _tokens.join(self, token, part)

    @_native
    def clear(self, space: Namespace | None = None) -> None:
        """Takes all chunks out of the pool, or all of a namespace. What somebody holds stays as it is until he lets go.

        For good, in tiers as well, before it returns. Of a namespace, a FileTier gives up what is that namespace's, and
        other tiers all that they have: nobody knows which of their chunks are whose. PoolError if a tier cannot promise
        that nothing comes back.

        >>> client.clear()
        >>> client.lookup(keys).memory
        0
        """
        super().clear(space)

    @_native
    def close(self) -> None:
        """Gives the seat back, once no lease or view holds a chunk and no call of another thread waits any more.

        Any number of times, from any thread. Calls that wait for the server end as they would have; all others, and
        a retrieve that waits for a chunk, raise PoolClosedError.

        >>> client.close()
        """
        super().close()

    @classmethod
    def connect(
        cls,
        name: str,
        worker_id: str | None = None,
        *,
        layout: KVLayout | int,
        timeout: float = 5.0,
        regain: float = 1.0,
        wait: Wait = None,
        verify: bool = True,
    ) -> Self:
        """Take a seat at the pool of this name, whose server must be running.

        Args:
            worker_id: what messages and `ringcast pool stat` call this client; None: its pid.
            layout: of this worker's chunks, or just their size in bytes, of all parts together. All chunks of a client
                have one size. One made
                from tensors is tried on their first block and their last, which are as before afterwards.
            timeout: seconds that calls which ask the server wait at most, and this one for a seat.
            regain: seconds that they wait for another server, if this one has died.
            wait: how to wait, as in MessageQueue.
            verify: compare each chunk with its checksum when its slots are first asked for, once in this process.

        Raises ArgumentError, LayoutError if copies of the layout's tensors are wrong, and PoolConnectError: no such
        pool, no living server, no vacant seat, another version.

        >>> with PoolServer("docs-connect", "1MiB"), PoolClient.connect("docs-connect", "w0", layout=4096) as client:
        ...     client.info.capacity, client.health.server
        (1048576, 'living')
        """
        client = cls()
        if isinstance(layout, KVLayout) and layout.tensors:
            try_layout(layout)
        chunk_bytes, shards = (layout.chunk_bytes, layout.shards) if isinstance(layout, KVLayout) else (layout, 0)
        client._wanted = {
            "name": pool_segment_name(name),
            "release": __version__,
            "worker_id": _worker_id(worker_id),
            "chunk_bytes": checked("layout", chunk_bytes, most=0xFFFFFFFF),
            "waiting": WaitSettings.of(wait).strategy,
            "timeout_ns": _core.checked_ns("timeout", timeout),
            "regain_ns": _core.checked_ns("regain", regain),
            "verify": flag("verify", verify),
            "shards": shards,
        }
        client.name = name
        client.layout = layout
        client._take_seat()
        return client

    name: str
    layout: KVLayout | int
    _wanted: dict[str, Any]

    def _take_seat(self) -> None:
        try:
            self._connect(**self._wanted)
        except SegmentError as error:
            raise PoolConnectError(not_reached(self.name, error)) from error

    @property
    def info(self) -> PoolInfo:
        """Which pool this is: what the user calls it, the name of its segment, its capacity, its epoch."""
        return PoolInfo(*self._info)

    @property
    def health(self) -> Health:
        """How the server is. Nothing is sent to it."""
        return Health(*self._health)

    def reconnect(self) -> None:
        """Take a seat at the pool that has the name now, after PoolClosedError. Leases of the old one are over.

        Calls of other threads go on with the seat that they began with, as after `close`.

        >>> with PoolServer("docs-again", "1MiB"):
        ...     client = PoolClient.connect("docs-again", layout=4096)
        >>> with PoolServer("docs-again", "2MiB"):
        ...     client.reconnect()
        ...     client.info.capacity
        ...     client.close()
        2097152
        """
        self.close()
        self._take_seat()

    def prefetch(self, keys: Keys) -> Future[int]:
        """Has the server bring what tiers have of these keys into memory; the future says how many leading are there.

        It waits for nothing here. Once nothing more comes, or after `timeout` seconds, the future is done; it has a
        PoolError if this client was closed meanwhile, or no thread can be had. A hint: what was brought may be evicted
        before it is retrieved.

        >>> with PoolServer("docs-prefetch", "1MiB"), PoolClient.connect("docs-prefetch", layout=4096) as client:
        ...     _ = client.commit_store(client.prepare_store(keys))
        ...     client.prefetch(keys).result()
        2
        """
        future: Future[int] = Promise()
        future.set_running_or_notify_cancel()

        def bring() -> None:
            try:
                found = self._prefetch(keys, self._wanted["timeout_ns"] / 1e9)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)

        there = self.lookup(keys).memory
        if there == len(keys):
            future.set_result(there)
        else:
            try:
                threading.Thread(target=bring, name="ringcast prefetch", daemon=True).start()
            except RuntimeError as error:
                future.set_exception(self._without_a_thread("prefetch", error))
        return future

    def _without_a_thread(self, what: str, error: RuntimeError) -> BaseException:
        """A PoolError that names the limit, if none can be had; else the same."""
        why = named(error, f"{self._context}: {what}")
        return why if why is error else PoolError(str(why))

    async def aretrieve(self, keys: Keys, wait: float | None = None) -> _core.RetrieveLease:
        """`retrieve`, whose waiting for another client's store, or for a tier, goes beside the event loop.

        >>> import asyncio
        >>> keys = keys_from_hashes([b"hash 0"], Namespace("m", dtype="uint8", layout="bytes"))
        >>> with PoolServer("docs-async", "1MiB"), PoolClient.connect("docs-async", layout=4096) as client:
        ...     asyncio.run(client.aretrieve(keys, wait=0.1)).hits
        0
        """
        lease = self.prepare_retrieve(keys)
        if wait is None or lease.hits == len(keys):
            return lease
        self.commit_retrieve(lease)
        try:
            return await asyncio.to_thread(self.prepare_retrieve, keys, wait)
        except RuntimeError as error:
            raise self._without_a_thread("aretrieve", error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PoolClient of {self._context}{', closed' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a PoolClient belongs to its process and cannot be pickled or copied; send the pool's name, and call "
            "PoolClient.connect there"
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        if self.closed:
            return _html.page(repr(self), {})
        info, health = self.info, self.health
        facts = {
            "capacity": human_bytes(info.capacity),
            "segment": info.segment,
            "server": f"{health.server} (pid {health.pid})",
            "servers so far": health.epoch,
        }
        return _html.page(repr(self), facts)


def _worker_id(worker_id: str | None) -> str:
    if worker_id is None:
        return str(os.getpid())
    return text("worker_id", worker_id)

"""`PoolClient`: looks chunks up, reads and stores them. The calls themselves are native (src/core/pool/client.hpp)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ringcast import _core
from ringcast._arguments import checked, flag, refuse
from ringcast._names import pool_segment_name
from ringcast._version import __version__
from ringcast.errors import PoolConnectError, SegmentError
from ringcast.pool._layouts import KVLayout
from ringcast.waiting import Wait, WaitSettings

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ringcast.pool._keys import Keys


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
            layout: of this worker's chunks, or just their size in bytes. All chunks of a client have one size.
            timeout: seconds that calls which ask the server wait at most, and this one for a seat.
            regain: seconds that they wait for another server, if this one has died.
            wait: how to wait, as in MessageQueue.
            verify: compare each chunk with its checksum when its slots are first asked for, once in this process.

        Raises ArgumentError, and PoolConnectError: no such pool, no living server, no vacant seat, another version.

        >>> with PoolServer("docs-connect", "1MiB"), PoolClient.connect("docs-connect", "w0", layout=4096) as client:
        ...     client.info.capacity, client.health.server
        (1048576, 'living')
        """
        client = cls()
        chunk_bytes = layout.chunk_bytes if isinstance(layout, KVLayout) else layout
        client._wanted = {
            "name": pool_segment_name(name),
            "release": __version__,
            "worker_id": _worker_id(worker_id),
            "chunk_bytes": checked("layout", chunk_bytes, most=0xFFFFFFFF),
            "waiting": WaitSettings.of(wait).strategy,
            "timeout_ns": _core.checked_ns("timeout", timeout),
            "regain_ns": _core.checked_ns("regain", regain),
            "verify": flag("verify", verify),
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
            raise PoolConnectError(f"pool '{self.name}': {error}") from error

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

    async def aretrieve(self, keys: Keys, wait: float | None = None) -> _core.RetrieveLease:
        """`retrieve`, whose waiting for another client's store goes beside the event loop.

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
        return await asyncio.to_thread(self.prepare_retrieve, keys, wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PoolClient of {self._context}{', closed' if self.closed else ''}>"


def _worker_id(worker_id: str | None) -> str:
    if worker_id is None:
        return str(os.getpid())
    if not isinstance(worker_id, str):
        raise refuse("worker_id", "a str", worker_id)
    return worker_id

"""`PoolServer`: owns a pool's memory, and hands it out. The serving is a native thread (src/core/pool/server.hpp)."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ringcast import _core
from ringcast._arguments import checked, choice, flag, refuse
from ringcast._at_exit import silence_threads
from ringcast._names import PREFIX, pool_segment_name, suffix
from ringcast._refusals import naming_limits
from ringcast._registry import Registry
from ringcast._sizes import byte_size
from ringcast._version import __version__
from ringcast.errors import ArgumentError, PoolClosedError, RingcastError
from ringcast.pool._events import EventSink, Teller, checked_sink
from ringcast.pool._looking import PoolStats, as_stats
from ringcast.pool._namespace import salt_digest
from ringcast.pool._progress import Lines, OnProgress
from ringcast.pool._tending import Tending, as_core, checked_tiers
from ringcast.pool.tiers import Tier
from ringcast.waiting import Wait, WaitSettings

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Self

_TIER_PATIENCE_S = 10.0
"""For how long a tier may do nothing that was asked of it, until nothing more is."""
POLICIES = ("lru", "arc", "s3fifo")
"""In the order of the core's own."""


class PoolServer:
    """A pool, from `start` until `close`.

    The server makes the pool's memory, or takes over, with everything in it, what a server of that name left that was
    killed; clients go on meanwhile. Ended in order (`close`, the end of the `with` block or of the program, SIGTERM) it
    removes the pool, unless `keep`. It serves from a thread of its own, without the interpreter's lock.

    Args:
        name: 1 to 127 of the characters A-Z a-z 0-9 . _ - ; a queue of that name is no hindrance.
        capacity: bytes of chunks, or text like "2GiB". All of it is taken at the start.
        policy: what is evicted first: "arc" (default), "lru" or "s3fifo".
        quota: by salt (bytes), or by a salt's digest (64 hexadecimal digits), the bytes that its chunks may take.
        tiers: where chunks are kept, too, the fastest first; see `Tier`. A chunk is copied there after its second use,
            while it is in memory. What a FileTier has is found again by the next server. They are the server's from
            here on, which closes them at its end, or if it cannot start.
        checksums: does `commit_store` make a CRC-32C of each chunk, which retrievers compare?
        prefault: does `start` touch all of the memory, as huge pages where the kernel makes them, so that
            nobody's first use of a page waits? The pool is served meanwhile.
        keep: does the pool stay when its server ends, and when nobody has it? `ringcast pool rm` removes it then.
        seats: how many clients there may be. pins: how many chunks, or runs of chunks, each may hold.
        entries: how many chunks there may be; None: one for each 16 KiB, and for each slot of a FileTier.
        wait: how the server waits for requests, as in MessageQueue.
        on_event: a function that a thread of this process calls with a list of `PoolEvent`s at a time, in order; or a
            MessageQueue to whose readers they are sent. Neither holds the server up: who falls behind gets a "resync".
            An exception of the function is logged. `watch` has the events in any process.
        on_progress: a function that `start` calls now and then while it takes the memory, with "reserving" or, with
            `prefault`, "prefaulting", and how many bytes of how many are done. What it raises ends `start`
            and the pool. None: the logger "ringcast" says it, at level INFO and after the first second.

    Ctrl-C and SIGTERM are heard while memory is taken. `start` raises SegmentExistsError if a living server has the
    name, SegmentMismatchError if what a dead one left has other sizes, CapacityError.

    >>> with PoolServer("docs-server", "1MiB") as server:
    ...     server.stats()["chunks"]
    0
    """

    def __init__(
        self,
        name: str,
        capacity: int | str,
        *,
        policy: str = "arc",
        quota: Mapping[bytes | str, int | str] | None = None,
        tiers: Iterable[Tier] = (),
        checksums: bool = True,
        prefault: bool = False,
        keep: bool = False,
        seats: int = 64,
        pins: int = 4096,
        entries: int | None = None,
        wait: Wait = None,
        on_event: EventSink | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.name = name
        self.segment: str = pool_segment_name(name)
        self.capacity: int = byte_size("capacity", capacity)
        self._request: dict[str, Any] = {
            "name": self.segment,
            "user_name": name,
            "release": __version__,
            "capacity": self.capacity,
            "seats": checked("seats", seats, most=_core.MAX_POOL_SEATS),
            "pins": checked("pins", pins, 16, 1 << 20),
            "entries": 0 if entries is None else checked("entries", entries, most=(1 << 25) - 1),
            "kept": flag("keep", keep),
            "checksums": flag("checksums", checksums),
            "policy": POLICIES.index(choice("policy", policy, POLICIES)),
            "quotas": _quotas(quota),
            "waiting": WaitSettings.of(wait).strategy,
            "tier_patience_ns": int(_TIER_PATIENCE_S * 1e9),
        }
        self._tiers = checked_tiers(tiers)
        self._tending: Tending | None = None
        self._prefault = flag("prefault", prefault)
        if on_progress is not None and not callable(on_progress):
            raise refuse("on_progress", "a function or None", on_progress)
        self._on_progress: OnProgress = on_progress or Lines(name, logging.getLogger("ringcast.pool").info)
        self._sink = checked_sink(on_event)
        self._teller: Teller | None = None
        self._core: _core.PoolServer | None = None
        self._pid = 0
        self._ended = threading.Event()

    def start(self) -> Self:
        """Make the pool or take it over, and serve it until `close`. Returns the server itself.

        >>> server = PoolServer("docs-start", "1MiB").start()
        >>> server.adopted
        False
        >>> server.close()
        """
        if self._core is not None:
            raise PoolClosedError(f"pool '{self.name}': this server was started before; make another one")
        with suppress(RingcastError):  # what cannot be removed now is not in the way
            _core.sweep(PREFIX, suffix(), dry_run=False, spared=self.segment)  # that one is taken over
        ours: list[Tier] = []
        try:
            for tier in self._tiers:
                tier._claim(self)
                ours.append(tier)
            self._core = _core.PoolServer(
                **self._request, tiers=as_core(self._tiers), progress=partial(self._on_progress, "reserving")
            )
        except BaseException:
            for tier in ours:
                tier.close()
            raise
        self._pid = os.getpid()
        self._tending = Tending(self.name, self._core, self._tiers) if self._tiers else None
        try:
            with naming_limits(f"pool '{self.name}'"):
                self._begin(self._core)
        except BaseException:  # it serves already, and nobody else would end it
            self.close()
            raise
        return self

    def _begin(self, core: _core.PoolServer) -> None:
        """What belongs to a server besides its memory and its thread."""
        if self._tending is not None:
            self._tending.begin()
        _hold(self)
        if self._sink is not None:
            self._teller = Teller(self.name, self._sink, core.adopted)
        if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_termination)
        if self._prefault:
            core.prefault(partial(self._on_progress, "prefaulting"))

    @property
    def adopted(self) -> bool:
        """Was the pool taken over from a server that died?"""
        return self._core is not None and self._core.adopted

    def serve_forever(self) -> None:
        """Start, unless that was done, and wait until the server is closed: by a signal, or by another thread.

        >>> import threading
        >>> server = PoolServer("docs-forever", "1MiB").start()
        >>> threading.Timer(0.1, server.close).start()  # another thread ends it
        >>> server.serve_forever()
        >>> server.closed
        True
        """
        if self._core is None:
            self.start()
        try:
            while not self._ended.wait(3600.0):
                pass
        finally:
            self.close()

    def stats(self) -> PoolStats:
        """What is in the pool, and who uses it; what `ringcast pool stat` shows.

        >>> with PoolServer("docs-stats", "1MiB") as server:
        ...     stats = server.stats()
        >>> stats["capacity"], stats["used_bytes"]
        (1048576, 0)
        """
        if self._core is None:
            raise PoolClosedError(f"pool '{self.name}': its server has not been started")
        return as_stats(self._core.described(), look_closely=True)

    def close(self) -> None:
        """End the pool: its name is removed, and clients' calls that need a server raise PoolClosedError.

        What they have retrieved stays theirs. Once, from any thread; more calls do nothing.

        >>> server = PoolServer("docs-close", "1MiB").start()
        >>> server.close()
        >>> server.closed
        True
        """
        core = self._core
        if core is None or self._pid != os.getpid():
            return
        core.close()
        if self._tending is not None:
            self._tending.end()
        if self._teller is not None:
            self._teller.end()
        self._ended.set()
        _open.discard(self)
        if not _open.own() and _is_main_thread() and signal.getsignal(signal.SIGTERM) is _on_termination:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def closed(self) -> bool:
        """Has `close` been called?"""
        return self._core is not None and self._core.closed

    def __enter__(self) -> Self:
        return self if self._core is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "not started" if self._core is None else "closed" if self.closed else "serving"
        return f"<PoolServer {self.name!r}, {self.capacity} bytes, {state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a PoolServer belongs to its process and cannot be pickled or copied; other processes need the pool's name "
            "only, for PoolClient.connect"
        )


_open: Registry[PoolServer] = Registry(keep=True)
"""Started and not closed: such a server serves, whether or not anybody still refers to it."""
_registered_in = 0


def _hold(server: PoolServer) -> None:
    """See to it that it is closed when the process ends."""
    global _registered_in
    _open.add(server)
    if _registered_in != os.getpid():  # several threads may find that: each does it all, which does no harm
        atexit.unregister(_close_all_at_exit)  # a forked child has its parent's
        atexit.register(_close_all_at_exit)
        _registered_in = os.getpid()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _close_all() -> None:
    for server in _open.own():
        server.close()


def _close_all_at_exit() -> None:
    if _open.own():
        silence_threads()
    _close_all()


def _on_termination(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does where it would have ended the process at once: the same, but in order."""
    _close_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _quotas(quota: Mapping[bytes | str, int | str] | None) -> dict[int, int]:
    """By the first eight bytes of the salt's digest."""
    if quota is None:
        return {}
    if not isinstance(quota, Mapping):
        raise refuse("quota", "a dict from salts to sizes", quota)
    return {_tenant(salt): byte_size("a quota", size) for salt, size in quota.items()}


def _tenant(salt: bytes | str) -> int:
    if isinstance(salt, str):
        try:
            digest = bytes.fromhex(salt)
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ArgumentError(f"a salt's digest must be 64 hexadecimal digits, not {salt!r}; a salt itself is bytes")
    else:
        digest = salt_digest(salt)
    return int.from_bytes(digest[:8], "little")

"""`Tier`: keys and memory in, futures out. A subclass moves one chunk a call; threads, bounds and figures are here.

What a tier loses or gets wrong is a chunk that is not there: counted, logged, and never an exception of a job.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from ringcast._arguments import INT64_MAX, checked
from ringcast._mishaps import hand_over, named, shown, tell
from ringcast._sizes import byte_size
from ringcast.errors import ArgumentError, CorruptError, ForkedError, PoolClosedError, TierError
from ringcast.pool._keys import Keys
from ringcast.pool.tiers._frame import HEADER_BYTES, check, framed_chunk
from ringcast.pool.tiers._jobs import Job, bytes_of, keys_of, memory_of, one_for_each

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

log = logging.getLogger("ringcast.pool")

_MOST_THREADS = 256


class TierStats(TypedDict):
    """What a tier has done since it was opened. Rates are bytes for each second that one thread spent on them."""

    tier: str
    era: int
    stores: int
    stored: int
    """How many of the stores left their chunk there, those that found it there included."""
    stored_bytes: int
    store_rate: float
    loads: int
    hits: int
    loaded_bytes: int
    load_rate: float
    refused: int
    """Chunks that were not taken: too many bytes in flight, no room, too long."""
    failed: int
    """Calls that the system, or the service, refused."""
    corrupt: int
    """Chunks whose bytes were not those that had been stored; such a copy is dropped."""
    in_flight_bytes: int
    """Of stores that have been taken and are not done."""
    last_error: str


class Tier(ABC):
    """Chunks by their keys, somewhere else than in a pool's memory.

    `store`, `load`, `exists` and `remove` return futures with an answer for each key. Memory that was given to them
    belongs to the job until its future is done; a store's must not be changed, and what a load that answers False has
    left in its slot is undefined. Nothing that goes wrong in a tier raises: it is a False, counted in `stats`, and
    logged. A tier may forget any chunk at any time, and never gives back other bytes than were stored.

    To write one, subclass it and define `store_chunk`, `load_chunk`, `has_chunk`, `remove_chunk`, `clear_before`, `era`
    and, where there is something to do, `sync_chunks`, `close_chunks`, `register` and `unregister`. They are called
    from several threads at once, with one key each, and may raise what they like: CorruptError of wrong bytes, anything
    else of a failure. What `store_chunk` is given, and `load_chunk` is to give back, is a header of 56 bytes and the
    chunk: whatever keeps them need not tell right bytes from wrong ones. A tier that can, by checksums that it keeps
    with its chunks, says so by `checks`, and is given the chunks alone, where they lie in the pool's memory.

    Args:
        threads: how many chunks are moved at once.
        in_flight: bytes of stores that may wait or be moved, or text like "64MiB"; what would be more is refused.

    Where one call is cheap, set `together`, and define `store_chunks` and `load_chunks`: so many bytes of small chunks
    go to one thread at a time, which then takes them in one call.

    >>> class DictTier(Tier):
    ...     era, chunks = 0, {}
    ...     def store_chunk(self, key, chunk):
    ...         self.chunks[key] = bytes(chunk)
    ...         return True
    ...     def load_chunk(self, key, into):
    ...         found = self.chunks.get(key, b"")
    ...         if len(found) == len(into):
    ...             into[:] = found
    ...         return len(found) == len(into)
    ...     def has_chunk(self, key):
    ...         return key in self.chunks
    ...     def remove_chunk(self, key):
    ...         return self.chunks.pop(key, None) is not None
    ...     def clear_before(self, era):
    ...         self.chunks.clear()
    ...         self.era = era
    >>> with DictTier() as tier:
    ...     tier.store([bytes(32)], [b"a chunk"]).result()
    [True]
    """

    checks = False
    """Does it compare each chunk that it loads with a checksum of its own?"""
    together = 0
    """Bytes of small chunks that one thread takes at a time."""

    _pid: int | None = None
    """Whose it is, once it was made."""

    def __init__(self, *, threads: int = 4, in_flight: int | str = "64MiB") -> None:
        count = checked("threads", threads, most=_MOST_THREADS)
        self._thread_count = count
        self._most_in_flight = byte_size("in_flight", in_flight)
        self._in_flight = 0
        self._figures: Counter[str] = Counter()
        self._last_error = ""
        self._lock = threading.Lock()
        self._clearing = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"ringcast-{type(self).__name__}")

    @property
    @abstractmethod
    def era(self) -> int:
        """Chunks that were stored under a lower one do not exist.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.era
        0
        """

    @abstractmethod
    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        """Put the chunk there; False if there is no room for it. Once True, it is found after the process has died.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.store_chunk(bytes(32), memoryview(b"a chunk"))
        True
        """

    @abstractmethod
    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        """Fill `into` with the chunk's bytes; False if there is none of that key and length.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.load_chunk(bytes(32), memoryview(bytearray(7)))
        False
        """

    def store_chunks(self, keys: list[bytes], chunks: list[memoryview]) -> list[bool]:
        """As `store_chunk`, of a few. What one of them raises is a False for that one.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.store_chunks([bytes(32)], [memoryview(b"a chunk")])
        [True]
        """
        return [self._tried("store", partial(self.store_chunk, *each)) for each in zip(keys, chunks, strict=True)]

    def load_chunks(self, keys: list[bytes], into: list[memoryview]) -> list[bool]:
        """As `load_chunk`, of a few. What one of them raises is a False for that one.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.load_chunks([bytes(32)], [memoryview(bytearray(7))])
        [False]
        """
        return [self._tried("load", partial(self.load_chunk, *each)) for each in zip(keys, into, strict=True)]

    @abstractmethod
    def has_chunk(self, key: bytes) -> bool:
        """Is there a chunk of this key, as far as can be said without reading it?

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.has_chunk(bytes(32))
        False
        """

    @abstractmethod
    def remove_chunk(self, key: bytes) -> bool:
        """Drop the chunk; False if there was none.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.remove_chunk(bytes(32))
        False
        """

    @abstractmethod
    def clear_before(self, era: int) -> None:
        """Make `era` the tier's, for good, before it returns; raises if that cannot be promised. Never a lower one.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.clear_before(2)
        ...     tier.era
        2
        """

    def sync_chunks(self) -> bool:
        """Make what is stored survive a loss of power, if that is another thing than the death of a process.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.sync_chunks()
        True
        """
        return True

    def close_chunks(self) -> None:  # noqa: B027  a tier may have nothing to give back
        """Give back what the tier has; no other call runs or comes any more.

        >>> import tempfile
        >>> tier = FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB")
        >>> tier.close()  # calls it
        """

    def register(self, memory: Any) -> None:  # noqa: B027  a tier may have no use for it
        """Prepare for chunks in this memory, a writable buffer, so that they can be moved without a copy.

        A server calls it with all of its pool's memory before it gives the tier anything to do. What it raises is
        logged, and no hindrance.

        >>> import tempfile
        >>> memory = bytearray(1 << 16)
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.register(memory)  # nothing to prepare
        """

    def unregister(self, memory: Any) -> None:  # noqa: B027
        """Forget memory that was registered, and keep no view of it; no call uses it any more.

        >>> import tempfile
        >>> memory = bytearray(1 << 16)
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.register(memory)
        ...     tier.unregister(memory)
        """

    def store(self, keys: Keys | Sequence[bytes], slots: Sequence[Any]) -> Future[list[bool]]:
        """Store the chunks in `slots`, each contiguous memory, under `keys`. True: the chunk is there.

        Never waits: what would bring more bytes in flight than the tier may have is refused at once, which is a False.
        What is there already is not written again.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.store([bytes(32)], [b"a chunk"]).result()
        [True]
        """
        checked_keys, memory = self._pairs(keys, slots, writable=False)
        job = Job(len(memory))
        taken: list[int] = []
        refused: list[int] = []
        with self._lock:
            for index, slot in enumerate(memory):
                fits = self._in_flight + slot.nbytes <= self._most_in_flight
                (taken if fits else refused).append(index)
                self._in_flight += slot.nbytes if fits else 0
            self._figures["stores"] += len(refused)
            self._figures["refused"] += len(refused)
        if refused:
            job.answer(refused, [False] * len(refused))
        self._start_all(job, taken, checked_keys, memory, self._store, self._not_stored)
        return job.future

    def load(self, keys: Keys | Sequence[bytes], slots: Sequence[Any]) -> Future[list[bool]]:
        """Fill `slots`, each contiguous memory as long as its chunk, with the chunks. True: all its bytes are right.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     stored = tier.store([bytes(32)], [b"a chunk"]).result()
        ...     slot = bytearray(7)
        ...     tier.load([bytes(32)], [slot]).result(), bytes(slot)
        ([True], b'a chunk')
        """
        checked_keys, memory = self._pairs(keys, slots, writable=True)
        job = Job(len(memory))
        self._start_all(job, range(len(memory)), checked_keys, memory, self._load)
        return job.future

    def exists(self, keys: Keys | Sequence[bytes]) -> Future[list[bool]]:
        """Which of the keys have a chunk there, as far as can be said without reading it.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.exists([bytes(32)]).result()
        [False]
        """
        return self._of_each(keys, "exists", self.has_chunk)

    def remove(self, keys: Keys | Sequence[bytes]) -> Future[list[bool]]:
        """Drop chunks. True: there was one.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     stored = tier.store([bytes(32)], [b"a chunk"]).result()
        ...     tier.remove([bytes(32)]).result()
        [True]
        """
        return self._of_each(keys, "remove", self.remove_chunk)

    def clear(self, era: int | None = None) -> int:
        """Drop everything, for good, by raising the era to `era`, or by one. Returns the era.

        Waits until it is certain, whatever fails then: no chunk stored before is found after it. Raises ArgumentError
        for an era below the tier's, and TierError if it cannot be promised, which leaves a tier that finds nothing
        old while it is open; try again. The tier's own era does nothing.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.clear(), tier.clear(7)
        (1, 7)
        """
        self._check_open()
        with self._clearing:
            now = self.era
            wanted = now + 1 if era is None else checked("era", era, 0, INT64_MAX)
            if wanted < now:
                raise ArgumentError(f"era must be at least {now}, the tier's, not {wanted}: it never goes back")
            try:
                self.clear_before(wanted)
            except TierError:
                raise
            except Exception as error:
                raise TierError(f"{self!r} could not be cleared: {shown(error)}") from error
        return wanted

    def sync(self) -> bool:
        """Wait until all that is stored survives a loss of power, not just of the process; False if it may not.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.sync()
        True
        """
        self._check_open()
        try:
            return bool(self.sync_chunks())
        except Exception as error:  # in the caller's own thread all else is his
            self._failed("sync", error)
            return False

    def stats(self) -> TierStats:
        """What the tier has done since it was opened.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     stored = tier.store([bytes(32)], [b"a chunk"]).result()
        ...     tier.stats()["stored_bytes"]
        7
        """
        with self._lock:
            figures = self._figures.copy()
            in_flight, last_error = self._in_flight, self._last_error
        return TierStats(
            tier=repr(self),
            era=self.era,
            stores=figures["stores"],
            stored=figures["stored"],
            stored_bytes=figures["stored_bytes"],
            store_rate=rate(figures["stored_bytes"], figures["store_ns"]),
            loads=figures["loads"],
            hits=figures["hits"],
            loaded_bytes=figures["loaded_bytes"],
            load_rate=rate(figures["loaded_bytes"], figures["load_ns"]),
            refused=figures["refused"],
            failed=figures["failed"],
            corrupt=figures["corrupt"],
            in_flight_bytes=in_flight,
            last_error=last_error,
        )

    def close(self) -> None:
        """Wait for the jobs that were begun, and give back what the tier has. Once; more calls do nothing.

        What is stored stays. Other calls raise PoolClosedError from then on.

        >>> import tempfile
        >>> tier = FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB")
        >>> tier.close()
        >>> tier.closed
        True
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._threads.shutdown()
        with self._clearing:
            self.close_chunks()

    @property
    def closed(self) -> bool:
        """Has `close` been called?"""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and cannot be pickled or copied; one server has it, and "
            "serves all"
        )

    def _claim(self, server: object) -> None:
        """For `server` alone: two would write over each other's chunks, and the first to end would close it."""
        self._check_open()
        owner = vars(self).setdefault("_server", server)
        if owner is not server:
            raise ArgumentError(f"{self!r} is a tier of {owner!r}; each server has tiers of its own")

    def _check_open(self) -> None:
        if self._pid is None:
            raise ArgumentError(
                f"a {type(self).__name__} has no threads, since its __init__ has not called Tier's: call "
                "super().__init__() there"
            )
        if self._pid != os.getpid():
            raise ForkedError(f"{self!r} belongs to a parent process")
        if self._closed:
            raise PoolClosedError(f"{self!r} was closed")

    def _pairs(
        self, keys: Keys | Sequence[bytes], slots: Sequence[Any], writable: bool
    ) -> tuple[list[bytes], list[memoryview]]:
        checked_keys = keys_of(keys)
        memory = memory_of(slots, len(checked_keys), writable)
        self._check_open()
        return checked_keys, memory

    def _of_each(self, keys: Keys | Sequence[bytes], what: str, ask: Callable[[bytes], bool]) -> Future[list[bool]]:
        checked_keys = keys_of(keys)
        self._check_open()
        job = Job(len(checked_keys))
        for index, key in enumerate(checked_keys):
            self._start(job, [index], partial(self._answers_of_one, what, partial(ask, key)))
        return job.future

    def _start_all(
        self,
        job: Job,
        indices: Sequence[int],
        keys: list[bytes],
        memory: list[memoryview],
        move: Callable[[list[bytes], list[memoryview]], list[bool]],
        dropped: Callable[[list[memoryview]], None] | None = None,
    ) -> None:
        """Each chunk by itself, or as many as go together while every thread has its share."""

        def start() -> None:
            chunks = [memory[i] for i in group]
            self._start(
                job, group, partial(move, [keys[i] for i in group], chunks),
                None if dropped is None else partial(dropped, chunks),
            )  # fmt: skip

        share = -(-len(indices) // self._thread_count)
        group: list[int] = []
        nbytes = 0
        for index in indices:
            if group and (nbytes + memory[index].nbytes > self.together or len(group) == share):
                start()
                group, nbytes = [], 0
            group.append(index)
            nbytes += memory[index].nbytes
        if group:
            start()

    def _start(
        self, job: Job, indices: list[int], body: Callable[[], list[bool]], dropped: Callable[[], None] | None = None
    ) -> None:
        """Has a thread answer for these; if none can be had, there is nothing of them, and `dropped` is called."""

        def run() -> None:
            answers = [False] * len(indices)
            try:
                answers = body()
            finally:
                job.answer(indices, answers)

        def refuse() -> None:
            if dropped is not None:
                dropped()
            job.answer(indices, [False] * len(indices))

        hand_over(self._threads, run, refuse)

    def _store(self, keys: list[bytes], chunks: list[memoryview]) -> list[bool]:
        began = time.perf_counter_ns()
        stored = self._tried_all("store", len(keys), partial(self._put, keys, chunks))
        with self._lock:
            self._in_flight -= sum(chunk.nbytes for chunk in chunks)
            self._figures["stores"] += len(chunks)
            self._figures["store_ns"] += time.perf_counter_ns() - began
            self._figures["stored"] += sum(stored)
            self._figures["stored_bytes"] += bytes_of(chunks, stored)
        return stored

    def _not_stored(self, chunks: list[memoryview]) -> None:
        """What had been taken is refused after all."""
        with self._lock:
            self._in_flight -= sum(chunk.nbytes for chunk in chunks)
            self._figures["stores"] += len(chunks)
            self._figures["refused"] += len(chunks)

    def _put(self, keys: list[bytes], chunks: list[memoryview]) -> list[bool]:
        framed = chunks if self.checks else [framed_chunk(*each) for each in zip(keys, chunks, strict=True)]
        return one_for_each(keys, self.store_chunks(keys, framed))

    def _load(self, keys: list[bytes], into: list[memoryview]) -> list[bool]:
        began = time.perf_counter_ns()
        loaded = self._tried_all("load", len(keys), partial(self._get, keys, into))
        with self._lock:
            self._figures["loads"] += len(into)
            self._figures["load_ns"] += time.perf_counter_ns() - began
            self._figures["hits"] += sum(loaded)
            self._figures["loaded_bytes"] += bytes_of(into, loaded)
        return loaded

    def _get(self, keys: list[bytes], into: list[memoryview]) -> list[bool]:
        if self.checks:
            return one_for_each(keys, self.load_chunks(keys, into))
        framed = [memoryview(bytearray(HEADER_BYTES + slot.nbytes)) for slot in into]
        loaded = one_for_each(keys, self.load_chunks(keys, framed))
        return [
            done and self._tried("load", partial(self._take_out, key, found, slot))
            for done, key, found, slot in zip(loaded, keys, framed, into, strict=True)
        ]

    def _store_checked(self, key: bytes, chunk: memoryview) -> bool:
        """As `store_chunk`, but so that `_load_checked` can tell other bytes."""
        return self.store_chunk(key, chunk if self.checks else framed_chunk(key, chunk))

    def _load_checked(self, key: bytes, into: memoryview) -> bool:
        if self.checks:
            return self.load_chunk(key, into)
        framed = memoryview(bytearray(HEADER_BYTES + into.nbytes))
        return self.load_chunk(key, framed) and self._take_out(key, framed, into)

    def _take_out(self, key: bytes, framed: memoryview, into: memoryview) -> bool:
        try:
            check(key.hex(), key, framed[:HEADER_BYTES], framed[HEADER_BYTES:])
        except CorruptError:
            with suppress(BaseException):
                self.remove_chunk(key)
            raise
        into[:] = framed[HEADER_BYTES:]
        return True

    def _tried(self, what: str, body: Callable[[], bool]) -> bool:
        """The answer; False, counted and logged, if there is an exception instead. In a thread of the tier's own."""
        try:
            return bool(body())
        except BaseException as error:
            self._failed(what, error)
        return False

    def _answers_of_one(self, what: str, body: Callable[[], bool]) -> list[bool]:
        return [self._tried(what, body)]

    def _tried_all(self, what: str, count: int, body: Callable[[], list[bool]]) -> list[bool]:
        try:
            return body()
        except BaseException as error:
            self._failed(what, error)
        return [False] * count

    def _failed(self, what: str, error: BaseException) -> None:
        self._note("corrupt" if isinstance(error, CorruptError) else "failed", what, shown(error))

    def _note(self, figure: str, what: str, why: str) -> None:
        with self._lock:
            self._figures[figure] += 1
            self._last_error = f"{what}: {why}"
            times = self._figures[figure]
        if times & (times - 1) == 0:  # a tier that is gone fails each time: told ever less often
            tell(log, "%s: %s %s: %s (%d so far)", named(self), what, figure, why, times)


def rate(nbytes: int, nanoseconds: int) -> float:
    """Bytes for each second; 0.0 before there were any."""
    return nbytes * 1e9 / nanoseconds if nanoseconds else 0.0

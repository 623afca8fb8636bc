"""`MooncakeTier`: a chunk is an object of a Mooncake Store, moved straight from and to memory that is registered.

    PREFIX/ERA               the era and its mark, 16 hexadecimal digits that are drawn anew with each era
    PREFIX/<mark>/<key>      a header (_frame), the bytes

Mooncake's objects are in memory, and gone with their master or with whoever lent the memory, ERA too. Who finds none
draws a new mark: what was stored before is not found any more, and what was cleared cannot come back.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import socket
import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ringcast import _core
from ringcast._arguments import number, refuse, text
from ringcast._extras import needed
from ringcast._sizes import byte_size
from ringcast.errors import ArgumentError, CorruptError, TierError
from ringcast.pool.tiers._frame import HEADER_BYTES, check, header_of
from ringcast.pool.tiers._tier import Tier, TierStats

_ERA = struct.Struct("<8sQ8sI")  # magic, era, mark, CRC-32C of all before
_ERA_MAGIC = b"rc moon1"
_MOST_PATIENCE_S = 86400.0
_PAUSE_S = 1.0  # between two questions to a store that has not answered
_PREFIX = re.compile(r"[A-Za-z0-9_./-]+")

# Mooncake's answers.
_NO_ROOM = -200
_OTHER_LENGTH, _CUT_SHORT = -600, -800  # the object is longer, or shorter, than it was asked for
_NOT_THERE = (-704, -703)  # no such object; one that is still being put
_NO_ANSWER = (-900, -901)  # no connection to the master; no answer in time


class MooncakeTierStats(TierStats):
    """What a MooncakeTier has beside."""

    copied: int
    """Chunks that went through a copy, since their memory was not registered."""


class MooncakeTier(Tier):
    """A tier in a Mooncake Store. Needs Mooncake (extra `mooncake`: Linux, Python up to 3.13; any of its packages will
    do), and with it libibverbs1, libnl-3-200 and libnl-route-3-200 of the distribution.

    Chunks are in the memory of other machines, or of other processes: they are gone with those, and when Mooncake needs
    the room. A master that is gone, slow or was restarted makes misses, counted in `stats`: no call takes much longer
    than `timeout`, and while the master does not answer only one call a second asks it.

    Mooncake has no authentication: who reaches its ports can read and write what is in it, and registered memory. Give
    it a network of its own. Other bytes than were stored are a miss here, too.

    Args:
        master: where its master listens, "host:port".
        prefix: of all names; nothing else may be below it. Letters, digits and `_./-`.
        memory: bytes that this process lends to the store, or text like "1GiB"; None: it lends nothing, others must.
        host: the address by which others reach this process; None: the one it reaches the master from.
        metadata: Mooncake's metadata service; the default needs none.
        protocol: "tcp" or "rdma".
        devices: names of RDMA devices, with commas; empty: Mooncake's choice.
        timeout: seconds until a question to the master, or a transfer without progress, counts as failed. Mooncake
            takes it from the environment: MC_RPC_TIMEOUT_MS there, or a process's first tier, decides for all.
        threads, in_flight: as in Tier.

    Raises MissingPackageError, and TierError if nobody answers as a master does.

    >>> with MooncakeTier(master, "docs") as tier:
    ...     tier.store([bytes(32)], [b"a chunk"]).result()
    [True]
    """

    checks = True

    def __init__(
        self,
        master: str,
        prefix: str = "ringcast",
        *,
        memory: int | str | None = None,
        host: str | None = None,
        metadata: str = "P2PHANDSHAKE",
        protocol: str = "tcp",
        devices: str = "",
        timeout: float = 5.0,
        threads: int = 8,
        in_flight: int | str = "64MiB",
    ) -> None:
        texts = {"master": master, "prefix": prefix, "metadata": metadata, "protocol": protocol, "devices": devices}
        for name, value in texts.items():
            text(name, value, "text")
        if host is not None:
            text("host", host, "text or None")
        address, colon, port = master.rpartition(":")
        if not colon or not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ArgumentError(f"master must be 'host:port', not {master!r}")
        self.master: str = master
        self.prefix: str = prefix.strip("/")
        if not _PREFIX.fullmatch(self.prefix):
            raise ArgumentError(f"prefix must be letters, digits and _./-, and not empty, not {prefix!r}")
        lent = 0 if memory is None else byte_size("memory", memory)
        patience = number("timeout", timeout)
        if not 0 < patience < _MOST_PATIENCE_S:
            raise ArgumentError(
                f"timeout must be more than 0 and less than {_MOST_PATIENCE_S:g} seconds, not {patience}"
            )
        package: Any = needed("mooncake.store", "MooncakeTier")
        super().__init__(threads=threads, in_flight=in_flight)
        self._era, self._mark = 0, ""
        self._is_known = False  # is this era the store's?
        self._meeting = threading.Lock()
        self._away_until = 0.0
        self._away = ""
        self._of_thread = threading.local()
        self._buffers: list[_Buffer] = []
        self._regions: list[tuple[int, int]] = []  # first and last byte, sorted
        self._kept: dict[tuple[int, int], memoryview] = {}  # by region
        self._pinned: Any = package.ReplicateConfig()
        self._pinned.with_hard_pin = True
        try:
            here = _reached(self, (address.strip("[]"), int(port)), patience)
            _set_patience(patience)
            self._mooncake: Any = package.MooncakeDistributedStore()
            code = self._mooncake.setup(host or here, metadata, lent, 0, protocol, devices, master)
            if code != 0:
                raise TierError(f"{self!r}: Mooncake could not be set up: {code}; its log on stderr says why")
            self._current_mark()
        except BaseException:
            self._threads.shutdown()
            raise

    @property
    def era(self) -> int:
        """Chunks that were stored under a lower one do not exist."""
        return self._era

    def register(self, memory: Any) -> None:
        """Let chunks in this memory be moved without a copy. It is kept until `unregister` or `close`.

        A pool's server does so with the pool's.

        Args:
            memory: a writable buffer, contiguous.

        >>> memory = bytearray(1 << 20)
        >>> with MooncakeTier(master, "docs") as tier:
        ...     tier.register(memory)
        ...     tier.store([bytes(31) + b"1"], [memoryview(memory)[:4096]]).result(), tier.stats()["copied"]
        ([True], 0)
        """
        view = self._view(memory)
        first = _core.address(view)
        code = self._mooncake.register_buffer(first, view.nbytes)
        if code != 0:
            raise TierError(f"{self!r}: {view.nbytes} bytes could not be registered: {code}; are they already?")
        region = (first, first + view.nbytes)
        with self._lock:
            self._kept[region] = view
            self._regions = sorted([*self._regions, region])

    def unregister(self, memory: Any) -> None:
        """Chunks in this memory go through a copy again. Not while any of them is moved.

        Args:
            memory: what was registered, all of it.

        >>> memory = bytearray(1 << 20)
        >>> with MooncakeTier(master, "docs") as tier:
        ...     tier.register(memory)
        ...     tier.unregister(memory)
        """
        view = self._view(memory)
        first = _core.address(view)
        region = (first, first + view.nbytes)
        with self._lock:
            if region not in self._regions:
                raise ArgumentError(f"memory must be what was registered, not {view.nbytes} other bytes")
            self._regions = [each for each in self._regions if each != region]
        code = self._mooncake.unregister_buffer(first)
        if code != 0:  # it stays mapped, since it is used
            raise TierError(f"{self!r}: {view.nbytes} bytes could not be unregistered: {code}")
        with self._lock:
            self._kept.pop(region).release()

    def _view(self, memory: Any) -> memoryview:
        self._check_open()
        try:
            view = memoryview(memory).cast("B")
        except (TypeError, ValueError, BufferError) as error:
            raise refuse("memory", "a contiguous buffer", memory, f": {error}") from error
        if view.readonly or view.nbytes == 0:
            raise ArgumentError("memory must be writable, and at least one byte")
        return view

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        mark, buffer = self._current_mark(), self._buffer()
        buffer.view[:HEADER_BYTES] = header_of(key, chunk)
        at = self._registered(chunk)
        if at is None:
            at = self._copy_of(chunk.nbytes, buffer)
            buffer.view[HEADER_BYTES : HEADER_BYTES + chunk.nbytes] = chunk
        parts, lengths = [buffer.address, at], [HEADER_BYTES, chunk.nbytes]
        code = self._ask(
            lambda: self._mooncake.batch_put_from_multi_buffers([self._name(key, mark)], [parts], [lengths])[0]
        )
        if code == _NO_ROOM:
            with self._lock:
                self._figures["refused"] += 1
            return False
        _check_code("put", code)
        return self._mark == mark

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        mark, buffer = self._current_mark(), self._buffer()
        name, at = self._name(key, mark), self._registered(into)
        copied = at is None
        if at is None:
            at = self._copy_of(into.nbytes, buffer)
        parts, lengths = [buffer.address, at], [HEADER_BYTES, into.nbytes]
        code = self._ask(lambda: self._mooncake.batch_get_into_multi_buffers([name], [parts], [lengths])[0])
        if code in _NOT_THERE:
            return False
        wanted = HEADER_BYTES + into.nbytes
        if code in (_OTHER_LENGTH, _CUT_SHORT) and self._ask(lambda: self._mooncake.get_size(name)) != wanted:
            return False
        _check_code("get", code)
        if code != wanted:
            return False
        if copied:
            into[:] = buffer.view[HEADER_BYTES : HEADER_BYTES + into.nbytes]
        try:
            check(name, key, buffer.view[:HEADER_BYTES], into)
        except CorruptError:
            self._mooncake.remove(name, True)
            raise
        return self._mark == mark

    def has_chunk(self, key: bytes) -> bool:
        name = self._name(key, self._current_mark())
        code = self._ask(lambda: self._mooncake.is_exist(name))
        _check_code("is_exist", code)
        return code == 1

    def remove_chunk(self, key: bytes) -> bool:
        name = self._name(key, self._current_mark())
        code = self._ask(lambda: self._mooncake.remove(name, True))
        if code in _NOT_THERE:
            return False
        _check_code("remove", code)
        return True

    def clear_before(self, era: int) -> None:
        with self._meeting:
            old, self._mark, self._era = self._mark, secrets.token_hex(8), era  # first, whatever becomes of it there
            self._is_known = True
            _check_code("upsert", self._write_era(self._mooncake.upsert_from, era, self._mark))
        below = f"{self.prefix}/{old}/".replace(".", r"\.")
        with suppress(RuntimeError):  # closed: they go when Mooncake needs the room
            self._threads.submit(self._tried, "removal of what was cleared", lambda: self._remove_below(below))

    def sync_chunks(self) -> bool:
        self._is_known = False  # chunks are in memory, and nothing is waited for; but ERA is there again if it was lost
        self._current_mark()
        return True

    def close_chunks(self) -> None:
        self._mooncake.close()
        self._kept.clear()

    def stats(self) -> MooncakeTierStats:
        """What the tier has done since it was opened.

        >>> with MooncakeTier(master, "docs") as tier:
        ...     tier.stats()["stores"]
        0
        """
        with self._lock:
            copied = self._figures["copied"]
        return MooncakeTierStats(**super().stats(), copied=copied)

    def _name(self, key: bytes, mark: str) -> str:
        return f"{self.prefix}/{mark}/{key.hex()}"

    def _ask(self, question: Callable[[], int]) -> int:
        """What Mooncake answers. Raises at once while there are no answers, but for one call in each pause."""
        with self._lock:
            now, was_away = time.monotonic(), self._away
            if now < self._away_until:
                raise TierError(f"{was_away}, and it is not asked again yet")
            if was_away:
                self._away_until = now + _PAUSE_S
        code = int(question())
        if code in _NO_ANSWER:
            with self._lock:
                self._away = f"the master does not answer ({code})"
                self._away_until = time.monotonic() + _PAUSE_S
                self._is_known = False  # the one that answers next may be another, which knows of nothing
            raise TierError(self._away)
        if was_away:
            with self._lock:
                self._away, self._away_until = "", 0.0
        return code

    def _current_mark(self) -> str:
        """The era's, as the store says it; where it says nothing, that of this era and a new mark."""
        with self._meeting:
            if self._is_known:
                return self._mark
            found = self._read_era()
            if found is None:
                code = self._write_era(self._mooncake.put_from, self._era, secrets.token_hex(8))
                _check_code("put", code)
                found = self._read_era()  # another's, if that was sooner
            if found is None:
                raise TierError(f"{self!r}: {self.prefix}/ERA cannot be kept")
            if found[0] >= self._era:
                self._era, self._mark = found
            self._is_known = True
            return self._mark

    def _write_era(self, write: Callable[[str, int, int, Any], int], era: int, mark: str) -> int:
        head = _ERA.pack(_ERA_MAGIC, era, bytes.fromhex(mark), 0)[:-4]
        buffer = self._buffer()
        buffer.view[: _ERA.size] = head + struct.pack("<I", _core.checksum(head))
        return self._ask(lambda: write(f"{self.prefix}/ERA", buffer.address, _ERA.size, self._pinned))

    def _read_era(self) -> tuple[int, str] | None:
        name, buffer = f"{self.prefix}/ERA", self._buffer()
        code = self._ask(lambda: self._mooncake.get_into(name, buffer.address, _ERA.size))
        if code in _NOT_THERE:
            return None
        if code != _OTHER_LENGTH:
            _check_code("get", code)
        magic, era, mark, crc = _ERA.unpack(buffer.view[: _ERA.size])
        if code != _ERA.size or magic != _ERA_MAGIC or crc != _core.checksum(buffer.view[: _ERA.size - 4]):
            raise TierError(f"{self!r}: {name} is not a tier's, or damaged; take another prefix, or remove it")
        return int(era), mark.hex()

    def _remove_below(self, pattern: str) -> bool:
        code = self._ask(lambda: self._mooncake.remove_by_regex(f"^{pattern}", True))
        return code >= 0

    def _registered(self, memory: memoryview) -> int | None:
        """Where it is, if all of it is registered."""
        first = _core.address(memory)
        regions = self._regions
        at = bisect_right(regions, (first, 1 << 64)) - 1
        return first if at >= 0 and first + memory.nbytes <= regions[at][1] else None

    def _copy_of(self, nbytes: int, buffer: _Buffer) -> int:
        """Where so many bytes go first."""
        with self._lock:
            self._figures["copied"] += 1
        return buffer.room(nbytes)

    def _buffer(self) -> _Buffer:
        """This thread's own."""
        found: _Buffer | None = getattr(self._of_thread, "buffer", None)
        if found is None:
            found = self._of_thread.buffer = _Buffer(self._mooncake)
            with self._lock:
                self._buffers.append(found)  # until the store is closed, which may be after the thread's end
        return found

    def __repr__(self) -> str:
        return f"<MooncakeTier {self.master} {self.prefix!r}>"


class _Buffer:
    """Registered memory of a thread: for a header and, where the chunk's own is not registered, for its bytes."""

    def __init__(self, mooncake: Any) -> None:
        self._mooncake = mooncake
        self._take(mmap.PAGESIZE)

    def room(self, nbytes: int) -> int:
        """Where so many bytes can follow the header, which stays."""
        if HEADER_BYTES + nbytes > self.view.nbytes:
            header = bytes(self.view[:HEADER_BYTES])
            self._mooncake.unregister_buffer(self.address)
            self._take(HEADER_BYTES + nbytes)
            self.view[:HEADER_BYTES] = header
        return self.address + HEADER_BYTES

    def _take(self, nbytes: int) -> None:
        self.view = memoryview(mmap.mmap(-1, -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE))
        self.address: int = _core.address(self.view)
        code = self._mooncake.register_buffer(self.address, self.view.nbytes)
        if code != 0:
            raise TierError(f"{nbytes} bytes could not be registered: {code}")


def _reached(tier: MooncakeTier, master: tuple[str, int], patience: float) -> str:
    """Our address on the way to the master."""
    try:
        with socket.create_connection(master, patience) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise TierError(f"{tier!r}: no master listens there: {error}") from error


def _set_patience(patience: float) -> None:
    whole = str(max(1, round(patience)))
    for name, value in (
        ("MC_RPC_TIMEOUT_MS", str(max(1, round(patience * 1000)))),
        ("MC_RPC_CONNECT_TIMEOUT_MS", str(max(1, round(patience * 1000)))),
        ("MC_TCP_PROGRESS_TIMEOUT_SEC", whole),
        ("MC_TCP_STATUS_TIMEOUT_SEC", whole),
        ("MC_STORE_CLIENT_SETUP_RETRIES", "1"),
    ):
        os.environ.setdefault(name, value)


def _check_code(what: str, code: int) -> None:
    if code < 0:
        raise TierError(f"Mooncake's {what} failed: {code}")

"""`FileTier`: one preallocated file of slots. The work is native: src/core/pool/file_tier.hpp."""

from __future__ import annotations

import os
from typing import Any

from ringcast import _core
from ringcast._arguments import flag, refuse, text
from ringcast._sizes import byte_size
from ringcast.errors import ArgumentError
from ringcast.pool.tiers._tier import Tier, TierStats, rate


class FileTierStats(TierStats):
    """What a FileTier has beside."""

    slots: int
    used: int
    """How many slots have a chunk."""
    evicted: int
    direct: bool
    """Does it go past the page cache (O_DIRECT)? False where the file system cannot, or it was not wanted."""
    preallocated: bool
    """Does the file system keep room for all of it? If it cannot, the disk may be full before the tier is."""
    copied: int
    """Chunks that went through a copy, since their memory was not aligned for O_DIRECT."""
    index_seconds: float
    """How long it took to read the slots' headers when the file was opened."""


class FileTier(Tier):
    """A tier in one file on a disk of this machine: made if there is none, else with the chunks that are in it.

    A chunk that is stored survives the death of the process at any instruction; a loss of power once `sync` or `close`
    has returned. A slot is written over when it has not been used for the longest (a clock). Every chunk has a CRC-32C.

    Args:
        path: of the file; its folder must be there.
        size: bytes of the file, or text like "8GiB". All of it is taken at once, where the file system can.
        chunk_bytes: of the longest chunk, or text like "2MiB": `KVLayout.chunk_bytes`, however many shards it has. Each
            slot has room for that, for the shards' checksums, and for a header of 4 KiB.
        direct: past the page cache, straight from and to memory that is aligned to 512 bytes or, on some disks, 4,096.
            Where the file system cannot, through the page cache; `stats()["direct"]` tells.
        threads, in_flight: as in Tier.

    Raises TierError, and changes nothing, if the file is not a tier's, was made with another size, chunk size, version
    or byte order, or is in use (`pid` says by whom); and if there is no room for it.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/tier"
    >>> with FileTier(path, "1MiB", "64KiB") as tier:
    ...     tier.store([bytes(32)], [b"a chunk"]).result()
    [True]
    >>> with FileTier(path, "1MiB", "64KiB") as tier:
    ...     tier.exists([bytes(32)]).result()
    [True]
    """

    checks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | str,
        chunk_bytes: int | str,
        *,
        direct: bool = True,
        threads: int = 4,
        in_flight: int | str = "64MiB",
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
            raise refuse("path", "a path", path)
        self.path: str = text("path", os.fspath(path))
        if "\0" in self.path or not self.path:
            raise ArgumentError(f"path must be a path, not {self.path!r}")
        whole, chunk = byte_size("size", size), byte_size("chunk_bytes", chunk_bytes)
        if chunk > whole:
            raise ArgumentError(f"size must have room for a chunk of {chunk} bytes, not {whole}")
        super().__init__(threads=threads, in_flight=in_flight)
        self._core = _core.FileTier(self.path, whole, chunk, flag("direct", direct))

    together = 1 << 20
    """Of smaller chunks a thread takes a few in one native call, for which it waits for the interpreter once."""

    @property
    def era(self) -> int:
        """Chunks that were stored under a lower one do not exist."""
        return self._core.era

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        return self.store_chunks([key], [chunk])[0]

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        return self.load_chunks([key], [into])[0]

    def store_chunks(self, keys: list[bytes], chunks: list[memoryview]) -> list[bool]:
        return [self._told("store", outcome) for outcome in self._core.store(keys, chunks)]

    def load_chunks(self, keys: list[bytes], into: list[memoryview]) -> list[bool]:
        return [self._told("load", outcome) for outcome in self._core.load(keys, into)]

    def has_chunk(self, key: bytes) -> bool:
        return self._core.exists(key)

    def remove_chunk(self, key: bytes) -> bool:
        return self._told("remove", self._core.remove(key))

    def clear_before(self, era: int) -> None:
        self._core.clear(era)

    def sync_chunks(self) -> bool:
        return self._told("sync", self._core.sync())

    def close_chunks(self) -> None:
        self._core.close()

    def stats(self) -> FileTierStats:
        """What the tier has done since it was opened, and what is in its file.

        >>> import tempfile
        >>> with FileTier(tempfile.mkdtemp() + "/tier", "1MiB", "64KiB") as tier:
        ...     tier.stats()["slots"]
        14
        """
        general = super().stats()
        core: dict[str, Any] = self._core.described()
        with self._lock:
            refused_before = self._figures["refused"]  # its bytes were too many in flight
        return FileTierStats(
            tier=general["tier"],
            era=core["era"],
            stores=core["stores"] + refused_before,
            stored=core["stored"],
            stored_bytes=core["stored_bytes"],
            store_rate=rate(core["stored_bytes"], core["store_ns"]),
            loads=core["loads"],
            hits=core["hits"],
            loaded_bytes=core["loaded_bytes"],
            load_rate=rate(core["loaded_bytes"], core["load_ns"]),
            refused=core["refused"] + refused_before,
            failed=core["failed"],
            corrupt=core["corrupt"],
            in_flight_bytes=general["in_flight_bytes"],
            last_error=core["last_error"] or general["last_error"],
            slots=core["slots"],
            used=core["used"],
            evicted=core["evicted"],
            direct=core["direct"],
            preallocated=core["preallocated"],
            copied=core["copied"],
            index_seconds=core["indexed_in_ns"] / 1e9,
        )

    def _told(self, what: str, outcome: str) -> bool:
        """Was it done? Failures are logged; the core has counted them."""
        if outcome == "failed":
            self._note("failed", what, self._core.described()["last_error"])
        elif outcome == "corrupt":
            self._note("corrupt", what, "the bytes in the file are not those that were stored")
        return outcome == "done"

    def __repr__(self) -> str:
        return f"<FileTier {self.path!r}>"

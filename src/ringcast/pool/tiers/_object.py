"""`ObjectTier`: a chunk is an object, over obstore: S3, Google Cloud Storage, Azure, a folder, memory.

    PREFIX/ERA                 the era: who clears raises it, and it is read when the tier is opened
    PREFIX/<era>/<key>         a header (_frame), the bytes

An era is 16 hexadecimal digits, a key 64.
"""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from typing import Any

from ringcast import _core
from ringcast._arguments import refuse, text
from ringcast._extras import needed
from ringcast.errors import ArgumentError, CorruptError, MissingPackageError, TierError
from ringcast.pool.tiers._frame import HEADER_BYTES, check, header_of, read_header
from ringcast.pool.tiers._tier import Tier

_ERA = struct.Struct("<8sQI")
_ERA_MAGIC = b"rc era 1"
_OLDEST_PYTHON = (3, 11)


class ObjectTier(Tier):
    """A tier in an object store. Needs the package obstore (extra `object`), and with it Python 3.11.

    What is stored is as safe as the store makes it. There is no bound on how much that is: give the bucket a rule by
    which old objects expire. Several pools may have one prefix, but each reads the era when it opens the tier: what one
    of them clears the others find until then.

    Args:
        store: a store of obstore's (`obstore.store.S3Store(...)`), or a URL for one, like "s3://bucket" or "memory:///".
        prefix: of all names; nothing else may be below it.
        threads, in_flight: as in Tier.

    Raises MissingPackageError, and TierError if the store cannot be asked or what is below the prefix is not a tier's.

    >>> with ObjectTier("memory:///", "docs") as tier:
    ...     tier.store([bytes(32)], [b"a chunk"]).result()
    [True]
    """

    checks = True

    def __init__(
        self, store: Any, prefix: str = "ringcast", *, threads: int = 8, in_flight: int | str = "64MiB"
    ) -> None:
        if sys.version_info < _OLDEST_PYTHON:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise MissingPackageError(
                f"ObjectTier needs the package obstore, which needs Python 3.11; this is {version}", name="obstore"
            )
        self._obstore: Any = needed("obstore", "ObjectTier")
        self.prefix: str = text("prefix", prefix, "text").strip("/")
        if not self.prefix:
            raise ArgumentError("prefix must not be empty: nothing else may be below it")
        if isinstance(store, str):
            try:
                store = needed("obstore.store", "ObjectTier").from_url(store)
            except Exception as error:
                why = str(error).partition("\n")[0]  # behind it is what it looks like inside
                raise ArgumentError(f"store must be a store of obstore's, or a URL for one: {why}") from error
        elif not type(store).__module__.startswith("obstore"):
            raise refuse("store", "a store of obstore's, or a URL for one", store)
        self.store_of_objects: Any = store
        super().__init__(threads=threads, in_flight=in_flight)
        try:
            self._era: int = self._read_era()
        except TierError:
            self._threads.shutdown()
            raise
        except Exception as error:
            self._threads.shutdown()
            raise TierError(f"{self!r} cannot be opened: {type(error).__name__}: {error}") from error
        self._remove_behind()

    @property
    def era(self) -> int:
        """Chunks that were stored under a lower one do not exist."""
        return self._era

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        era = self._era
        object_bytes = b"".join((header_of(key, chunk), chunk))
        self._obstore.put(self.store_of_objects, self._name(key, era), object_bytes, use_multipart=False)
        return self._era == era

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        era = self._era
        name = self._name(key, era)
        try:
            found = self._obstore.get(self.store_of_objects, name)
            length = found.meta["size"] - HEADER_BYTES
            # Of what is longer than the chunk no more is fetched than tells what it is.
            header = found.bytes() if length <= len(into) else self._header(name)
        except FileNotFoundError:
            return False
        whole = memoryview(header)
        try:
            if length <= len(into):
                length = len(whole) - HEADER_BYTES
                check(name, key, whole[:HEADER_BYTES], whole[HEADER_BYTES:])
            elif read_header(name, key, whole)[0] != length:
                raise CorruptError(f"object {name} has {length} bytes behind its header, which says another number")
        except CorruptError:
            with suppress(Exception):
                self._obstore.delete(self.store_of_objects, name)
            raise
        if length != len(into):
            return False
        into[:] = whole[HEADER_BYTES:]
        return self._era == era

    def has_chunk(self, key: bytes) -> bool:
        try:
            self._obstore.head(self.store_of_objects, self._name(key, self._era))
        except FileNotFoundError:
            return False
        return True

    def remove_chunk(self, key: bytes) -> bool:
        if not self.has_chunk(key):
            return False
        with suppress(FileNotFoundError):  # another call has just removed it
            self._obstore.delete(self.store_of_objects, self._name(key, self._era))
        return True

    def clear_before(self, era: int) -> None:
        self._era = era  # first, so that nothing old is found here whatever becomes of it
        self._put_era(era)
        self._remove_behind()

    def _header(self, name: str) -> Any:
        return self._obstore.get_range(self.store_of_objects, name, start=0, length=HEADER_BYTES)

    def _name(self, key: bytes, era: int) -> str:
        return f"{self.prefix}/{era:016x}/{key.hex()}"

    def _put_era(self, era: int) -> None:
        head = _ERA.pack(_ERA_MAGIC, era, 0)[:-4]
        era_bytes = head + struct.pack("<I", _core.checksum(head))
        self._obstore.put(self.store_of_objects, f"{self.prefix}/ERA", era_bytes, use_multipart=False)

    def _read_era(self) -> int:
        name = f"{self.prefix}/ERA"
        try:
            result = self._obstore.get(self.store_of_objects, name)
            found = bytes(result.bytes()) if result.meta["size"] == _ERA.size else b""
        except FileNotFoundError:
            for batch in self._obstore.list(self.store_of_objects, self.prefix):
                if batch:
                    raise TierError(
                        f"{self!r}: there is {batch[0]['path']} but no {name}, so these are no tier's objects, or "
                        "their era is not known; take another prefix, or remove what is below this one"
                    ) from None
            self._put_era(0)
            return 0
        if len(found) != _ERA.size:
            raise TierError(f"{self!r}: {name} is not a tier's; take another prefix")
        magic, era, crc = _ERA.unpack(found)
        if magic != _ERA_MAGIC or crc != _core.checksum(found[:-4]):
            raise TierError(f"{self!r}: {name} is not a tier's, or damaged; take another prefix, or remove this one")
        return int(era)

    def _remove_behind(self) -> None:
        with suppress(RuntimeError):  # closed, or there is no thread: the next one removes them
            self._threads.submit(self._tried, "removal of what was cleared", self._remove_old)

    def _remove_old(self) -> bool:
        """The objects of earlier eras, and no others."""
        with suppress(FileNotFoundError):  # another one removes them, too
            for batch in self._obstore.list(self.store_of_objects, self.prefix):
                old = []
                for entry in batch:
                    parts = entry["path"].removeprefix(self.prefix + "/").split("/")
                    if len(parts) == 2 and len(parts[0]) == 16 and parts[0] < f"{self._era:016x}":
                        old.append(entry["path"])
                if old:
                    self._obstore.delete(self.store_of_objects, old)
        return True

    def __repr__(self) -> str:
        return f"<ObjectTier {type(self.store_of_objects).__name__} {self.prefix!r}>"

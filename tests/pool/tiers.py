"""What the tests of tiers share: each kind of tier, how to open it again, and how to spoil what it holds."""

from __future__ import annotations

import hashlib
import resource
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringcast import _core
from ringcast.errors import CorruptError
from ringcast.pool import FileTier, MooncakeTier, ObjectTier, Tier
from tests.pool.mooncake import Mooncake

CHUNK = 3 * 4096 + 100
BLOCK = 4096


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def chunk(number: int, size: int = CHUNK) -> bytes:
    """What a test stores under `key(number)`."""
    return hashlib.shake_128(key(number)).digest(size)


def loaded(tier: Tier, number: int, size: int = CHUNK) -> bool:
    """Is it found? If it is, its bytes are right, or the test fails."""
    slot = bytearray(size)
    found = tier.load([key(number)], [slot]).result()
    if found == [True]:
        assert bytes(slot) == chunk(number, size), f"chunk {number} has other bytes"
    return found == [True]


def store(tier: Tier, *numbers: int, size: int = CHUNK) -> list[bool]:
    return tier.store([key(n) for n in numbers], [chunk(n, size) for n in numbers]).result()


def flip(path: Path, at: int) -> None:
    """Another bit in a file's byte."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@contextmanager
def unwritable() -> Iterator[None]:
    """No file of this process can be written to behind its first block."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def header_of(path: Path, number: int) -> int:
    """Where the header of a chunk's slot lies in a FileTier's file."""
    return path.read_bytes().index(key(number)) // BLOCK * BLOCK


class Kind(ABC):
    """A place that a tier can be opened on, again and again."""

    @abstractmethod
    def open(self, **options: Any) -> Tier: ...

    @abstractmethod
    def spoil(self, number: int) -> None:
        """Another bit in the chunk's bytes, where they lie."""


class OfFile(Kind):
    def __init__(self, folder: Path, direct: bool) -> None:
        self.path = folder / "tier"
        self.direct = direct

    def open(self, **options: Any) -> Tier:
        return FileTier(self.path, "1MiB", CHUNK, direct=self.direct, **options)

    def spoil(self, number: int) -> None:
        flip(self.path, header_of(self.path, number) + BLOCK + 17)


class OfObjects(Kind):
    def __init__(self, store: Any) -> None:
        self.store = store

    def open(self, **options: Any) -> Tier:
        return ObjectTier(self.store, "some/prefix", **options)

    def spoil(self, number: int) -> None:
        import obstore

        for batch in obstore.list(self.store, "some/prefix"):
            for entry in batch:
                if entry["path"].endswith(key(number).hex()):
                    found = bytearray(bytes(obstore.get(self.store, entry["path"]).bytes()))
                    found[-17] ^= 4
                    obstore.put(self.store, entry["path"], bytes(found))


class OfMooncake(Kind):
    def __init__(self, mooncake: Mooncake) -> None:
        self.mooncake = mooncake
        self.prefix = f"tests/{secrets.token_hex(4)}"

    def open(self, **options: Any) -> MooncakeTier:
        return MooncakeTier(self.mooncake.address, self.prefix, **options)

    def spoil(self, number: int) -> None:
        """Over the tier's own connection, as another process that has the prefix could."""
        with self.open() as tier:
            name = f"{self.prefix}/{tier._mark}/{key(number).hex()}"
            found = bytearray(tier._mooncake.get_size(name))
            assert tier._mooncake.get_into(name, _core.address(found), len(found)) == len(found)
            found[-17] ^= 4
            assert tier._mooncake.upsert_from(name, _core.address(found), len(found)) == 0


class DictTier(Tier):
    """As small as a tier can be that somebody writes in Python."""

    def __init__(self, kept: dict[Any, Any], **options: Any) -> None:
        super().__init__(**options)
        self.kept = kept
        self.mutex = threading.Lock()

    @property
    def era(self) -> int:
        return int(self.kept.get("era", 0))

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        with self.mutex:
            self.kept[key] = (bytes(chunk), _core.checksum(chunk))
        return True

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        with self.mutex:
            found, crc = self.kept.get(key, (b"", 0))
            if len(found) != len(into):
                return False
            if _core.checksum(found) != crc:
                del self.kept[key]
                raise CorruptError("other bytes")
        into[:] = found
        return True

    def has_chunk(self, key: bytes) -> bool:
        return key in self.kept

    def remove_chunk(self, key: bytes) -> bool:
        with self.mutex:
            return self.kept.pop(key, None) is not None

    def clear_before(self, era: int) -> None:
        with self.mutex:
            self.kept.clear()
            self.kept["era"] = era


class TrustingTier(DictTier):
    """One that compares nothing with anything."""

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        self.kept[key] = bytearray(chunk)
        return True

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        found = self.kept.get(key, b"")
        if len(found) != len(into):
            return False
        into[:] = found
        return True


class OfDict(Kind):
    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def open(self, **options: Any) -> Tier:
        return TrustingTier(self.kept, **options)

    def spoil(self, number: int) -> None:
        self.kept[key(number)][-17] ^= 4


KINDS = ("file", "buffered-file", "object-memory", "object-local", "mooncake", "python")


def kind_of(name: str, folder: Path, request: pytest.FixtureRequest) -> Kind:
    if name == "mooncake":
        return OfMooncake(request.getfixturevalue("mooncake"))
    if name.startswith("object"):
        stores: Any = pytest.importorskip("obstore.store")
        return OfObjects(stores.MemoryStore() if name == "object-memory" else stores.LocalStore(folder))
    return OfDict() if name == "python" else OfFile(folder, direct=name == "file")

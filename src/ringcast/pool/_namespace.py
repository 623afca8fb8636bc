"""What a key is for: all that makes a chunk's bytes unusable elsewhere. What cannot be used cannot be found."""

from __future__ import annotations

import hashlib
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

from ringcast._arguments import checked, flag, refuse, text
from ringcast.errors import ArgumentError

_DOMAIN = b"ringcast namespace 1"
_SALT_DOMAIN = b"ringcast salt 1"

_MOST_BYTES = {"model": 1024, "revision": 256, "dtype": 64, "layout": 128, "salt": 1024}
"""Of each text in UTF-8: a pool keeps the record of each namespace in a place of fixed size."""


_TEXTS = ("model", "revision", "dtype", "layout")


@dataclass(frozen=True)
class Namespace:
    """The model, its revision, the element type, the layout of a chunk, and whose the chunks are.

    `dtype` may be a name ("bfloat16"), or a dtype of torch or NumPy. `layout` is a `KVLayout.fingerprint`, or another
    text that is different wherever the bytes are. `shards` is the number of ranks that the model is split over (the
    rank itself is in no key) and `group` the engine's cache group. Where `chained` is false, as for sliding windows and
    states, a chunk is of use without those before it. Who does not know the `salt` cannot make the keys; a pool counts
    memory by it.

    Two that are equal have the same `digest`; how it is made is in docs/keys.md. The salt is not shown, but is in the
    pickle.

    >>> space = Namespace(model="m", dtype="bfloat16", layout="pages")
    >>> space.digest.hex()[:16]
    'c798a37102f40e48'
    >>> space.record["dtype"]
    'bfloat16'
    """

    model: str
    revision: str = ""
    dtype: Any = field(kw_only=True)
    layout: str = field(kw_only=True)
    shards: int = field(default=1, kw_only=True)
    group: int = field(default=0, kw_only=True)
    chained: bool = field(default=True, kw_only=True)
    salt: bytes = field(default=b"", kw_only=True, repr=False)
    digest: bytes = field(init=False, repr=False, compare=False)
    """32 bytes, before everything else in each hash."""
    salt_digest: bytes = field(init=False, repr=False, compare=False)
    """32 bytes that name the tenant; see `salt_digest`."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "dtype", dtype_name(self.dtype))
        put(self, "shards", checked("shards", self.shards))
        put(self, "group", checked("group", self.group, 0))
        put(self, "chained", flag("chained", self.chained))
        texts = [_text(name, getattr(self, name)) for name in _TEXTS]
        put(self, "salt_digest", salt_digest(self.salt))  # which checks it
        put(self, "salt", bytes(self.salt))
        numbers = [self.shards.to_bytes(4, "little"), self.group.to_bytes(4, "little"), bytes([self.chained])]
        put(self, "digest", _hash(_DOMAIN, *texts, *numbers, self.salt))

    @property
    def record(self) -> dict[str, Any]:
        """What a pool keeps of it for people to read: everything, but the salt only as its digest, in hex."""
        shown = ("model", "revision", "dtype", "layout", "shards", "group", "chained")
        return {name: getattr(self, name) for name in shown} | {"salt_digest": self.salt_digest.hex()}

    @property
    def packed(self) -> bytes:
        """The record as a pool keeps it, beside `digest` and `salt_digest`: docs/keys.md."""
        texts = [getattr(self, name).encode() for name in _TEXTS]
        numbers = struct.pack("<IIB", self.shards, self.group, self.chained)
        return b"".join(struct.pack("<I", len(text)) + text for text in texts) + numbers

    @classmethod
    def _recorded(cls, digest: bytes, salt_digest: bytes, packed: bytes) -> Namespace | None:
        """The namespace of a pool's record, whose salt is not known; None: it is no such record."""
        texts, at = [], 0
        try:
            for _ in _TEXTS:
                (length,) = struct.unpack_from("<I", packed, at)
                at += 4 + length
                texts.append(packed[at - length : at].decode())
            shards, group, chained = struct.unpack("<IIB", packed[at:])
        except (struct.error, UnicodeDecodeError):
            return None
        space = object.__new__(cls)
        values = dict(zip(_TEXTS, texts, strict=True)) | {"shards": shards, "group": group, "chained": chained == 1}
        for name, value in {**values, "salt": b"", "digest": digest, "salt_digest": salt_digest}.items():
            object.__setattr__(space, name, value)
        return space

    def __reduce__(self) -> tuple[Any, ...]:
        named = {name: getattr(self, name) for name in ("dtype", "layout", "shards", "group", "chained", "salt")}
        return _rebuilt, (self.model, self.revision, named)


def salt_digest(salt: bytes) -> bytes:
    """The 32 bytes that name the tenant with this salt: what quotas are given for, and what a pool shows of it.

    >>> salt_digest(b"tenant 7") == Namespace("m", dtype="uint8", layout="l", salt=b"tenant 7").salt_digest
    True
    """
    if not isinstance(salt, bytes | bytearray | memoryview):
        raise refuse("salt", "bytes", salt)
    _check_length("salt", bytes(salt))
    return _hash(_SALT_DOMAIN, bytes(salt))


def _rebuilt(model: str, revision: str, named: dict[str, Any]) -> Namespace:
    return Namespace(model, revision, **named)


def _hash(*parts: bytes) -> bytes:
    """SHA-256 over each part's length (four bytes, little-endian) and the part."""
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).digest()


def _text(what: str, value: Any) -> bytes:
    if not isinstance(value, str):
        advice = "; it is a layout's fingerprint" if what == "layout" else ""
        raise refuse(what, "a str", value, advice)
    if not value and what != "revision":
        raise ArgumentError(f"{what} must not be empty")
    encoded = text(what, value).encode()
    _check_length(what, encoded)
    return encoded


def _check_length(what: str, encoded: bytes) -> None:
    if len(encoded) > _MOST_BYTES[what]:
        raise ArgumentError(f"{what} has {len(encoded)} bytes; at most {_MOST_BYTES[what]} are kept")


def dtype_name(dtype: Any) -> str:
    """One name for an element type, whoever says it: "bfloat16". Of types whose bytes differ the names do."""
    if isinstance(dtype, str):
        return dtype.removeprefix("torch.")
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(dtype, torch.dtype):
        return str(dtype).removeprefix("torch.")
    if numpy is not None and (isinstance(dtype, numpy.dtype) or _is_scalar_type(numpy, dtype)):
        found = numpy.dtype(dtype)
        # The names of NumPy say nothing of fields, nor of the order of bytes where that is not this machine's.
        return str(found.name if found.isnative and found.names is None else found)
    raise refuse("dtype", "a name or a dtype of torch or NumPy", dtype)


def _is_scalar_type(numpy: Any, dtype: Any) -> bool:
    return isinstance(dtype, type) and issubclass(dtype, numpy.generic)

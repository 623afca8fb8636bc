"""What two links say in the clear before they trust each other; the handshake then proves that both saw the same.

    who dials    -> Hello, the handshake's first message
    who listens  <- Answer; if it is no refusal, the handshake's second message, with its own release in it
    who dials    -> a record of kind 0 without a payload, which proves that it has the key

The first ten bytes of both and the length of an answer stay what they are in all versions, so that each version can
tell another one why it refuses. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import sys
from enum import Enum
from typing import NamedTuple

from ringcast._version import WIRE_VERSION, __version__
from ringcast.codec import HIGHEST_ENCODING
from ringcast.net.link._noise import DH_BYTES, TAG_BYTES

VERSION = WIRE_VERSION
"""Of all that passes between links."""

_HELLO = struct.Struct("<8sHBBB3xQ16s")
_ANSWER = struct.Struct("<8sHB5x")
_RELEASE = struct.Struct("<16sB3x")
_RELEASE_BYTES = 16
_HELLO_MAGIC, _ANSWER_MAGIC = b"ringcast", b"linked\r\n"
_ENCRYPT, _CONTROL = 1, 2
_ORDERS = ("little", "big")

HELLO_BYTES = _HELLO.size
ANSWER_BYTES = _ANSWER.size
VERSION_BYTES = 10
FIRST_BYTES = DH_BYTES + TAG_BYTES
SECOND_BYTES = DH_BYTES + _RELEASE.size + TAG_BYTES


class Why(Enum):
    """Why two links do not connect. The first ones are told by who listens."""

    UNKNOWN_QUEUE = 1
    OTHER_VERSION = 2
    OTHER_BYTE_ORDER = 3
    OTHER_ENCRYPTION = 4
    WRONG_KEY = 5
    REFUSED = "refused"
    NO_ROUTE = "no route"
    TIMED_OUT = "timed out"
    CLOSED = "closed"
    NOT_A_LINK = "not a link"


class Release(NamedTuple):
    """What a link says of itself."""

    release: str = __version__
    highest_encoding: int = HIGHEST_ENCODING

    def packed(self) -> bytes:
        return _RELEASE.pack(_text(self.release), self.highest_encoding)

    @classmethod
    def of(cls, data: bytes) -> Release:
        release, highest = _RELEASE.unpack(data)
        return cls(_shown(release), highest)


class Hello(NamedTuple):
    """What who dials says first. It is believed once the handshake is over."""

    queue: int
    encrypt: bool
    control: bool
    speaker: Release = Release()
    byte_order: str = sys.byteorder

    def packed(self) -> bytes:
        flags = _ENCRYPT * self.encrypt + _CONTROL * self.control
        return _HELLO.pack(
            _HELLO_MAGIC, VERSION, _ORDERS.index(self.byte_order), self.speaker.highest_encoding, flags, self.queue,
            _text(self.speaker.release),
        )  # fmt: skip

    @classmethod
    def of(cls, data: bytes) -> Hello | None:
        """None if nobody who speaks this version says that."""
        _, _, order, highest, flags, queue, release = _HELLO.unpack(data)
        hello = (
            cls(
                queue, bool(flags & _ENCRYPT), bool(flags & _CONTROL), Release(_shown(release), highest), _ORDERS[order]
            )
            if order < len(_ORDERS)
            else None
        )
        return hello if hello is not None and hello.packed() == data else None


def version_of(data: bytes) -> int | None:
    """The version of whom a hello comes from, of which some bytes are there; 0 if it cannot be told yet, None if it is
    no hello."""
    if not _HELLO_MAGIC.startswith(data[: len(_HELLO_MAGIC)]):
        return None
    return int.from_bytes(data[8:VERSION_BYTES], "little") or None if len(data) >= VERSION_BYTES else 0


def answer(refusal: Why | None) -> bytes:
    return _ANSWER.pack(_ANSWER_MAGIC, VERSION, 0 if refusal is None else refusal.value)


def understood(data: bytes) -> tuple[int, Why | None]:
    """The version of who listens, and why it refuses, if it does."""
    magic, version, code = _ANSWER.unpack(data)
    if magic != _ANSWER_MAGIC:
        return 0, Why.NOT_A_LINK
    if version != VERSION:
        return version, Why.OTHER_VERSION
    for known in (None, *(why for why in Why if why.value == code)):
        if answer(known) == data:
            return version, known
    return version, Why.NOT_A_LINK


def _text(release: str) -> bytes:
    return release.encode("ascii", "replace")[:_RELEASE_BYTES]


def _shown(release: bytes) -> str:
    return release.rstrip(b"\0").decode("ascii", "replace")

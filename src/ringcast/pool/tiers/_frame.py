"""What stands before a chunk's bytes where nobody else tells them from any others: in objects, and what users write."""

from __future__ import annotations

import struct

from ringcast import _core
from ringcast.errors import CorruptError

_HEADER = struct.Struct("<8sQ32sII")  # magic, length, key, CRC-32C of the bytes, CRC-32C of all before
_MAGIC = b"rc tier1"
HEADER_BYTES = _HEADER.size


def header_of(key: bytes, chunk: memoryview) -> bytes:
    """Of the chunk of this key."""
    head = _HEADER.pack(_MAGIC, len(chunk), key, _core.checksum(chunk), 0)[:-4]
    return head + struct.pack("<I", _core.checksum(head))


def framed_chunk(key: bytes, chunk: memoryview) -> memoryview:
    """A copy, with its header."""
    return memoryview(b"".join((header_of(key, chunk), chunk)))


def read_header(name: str, key: bytes, header: memoryview | bytes) -> tuple[int, int]:
    """The length and the checksum of the chunk behind it. Raises CorruptError unless it is the key's."""
    if len(header) < HEADER_BYTES:
        raise CorruptError(f"object {name} has {len(header)} bytes, and no header")
    magic, length, its_key, crc, crc_of_header = _HEADER.unpack(header)
    if magic != _MAGIC or crc_of_header != _core.checksum(header[: HEADER_BYTES - 4]):
        raise CorruptError(f"object {name} has a damaged header")
    if its_key != key:
        raise CorruptError(f"object {name} is another key's")
    return int(length), int(crc)


def check(name: str, key: bytes, header: memoryview | bytes, chunk: memoryview) -> None:
    """Raises CorruptError unless the chunk is the one whose header this is, and that the key's."""
    length, crc = read_header(name, key, header)
    if length != len(chunk) or crc != _core.checksum(chunk):
        raise CorruptError(f"object {name} has other bytes than were stored")

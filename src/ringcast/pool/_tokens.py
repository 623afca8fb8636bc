"""A lease's token: bytes that travel by any channel, and with which another client of the same pool joins the lease.

It names the pool's memory, the namespace (its salt only as a digest), the keys, and for each the entry and its
generation. Everything is checked before any of it is believed; it grows with the chunks, not with their tokens.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from ringcast import _core
from ringcast._arguments import checked, refuse
from ringcast.errors import LayoutError, TokenError
from ringcast.pool._layouts import KVLayout
from ringcast.pool._namespace import Namespace

if TYPE_CHECKING:
    from ringcast.pool._client import PoolClient

_MAGIC = b"rngLEASE"
_VERSION = 1
_DIGEST = 32
_ITEM = 12

# magic, version, stores, leading, has a parent, keys, parts, bytes of a part, the memory's epoch
_HEADER = struct.Struct("<8sB???IIIQ")
_LENGTH = struct.Struct("<I")
_SUM = struct.Struct("<I")


def pack(
    client: PoolClient, keys: _core.Keys, items: bytes, stores: bool, leading: bool, parts: int, part_bytes: int
) -> bytes:
    """What `lease.export()` returns; called by it."""
    segment, epoch = client._identity
    header = _HEADER.pack(
        _MAGIC, _VERSION, stores, leading, keys.parent is not None, len(keys), parts, part_bytes, epoch
    )
    space = keys.space
    texts = [segment.encode(), client.name.encode(), _fingerprint(client).encode(), space.packed]
    said = b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    digests = space.digest + space.salt_digest + (keys.parent or bytes(_DIGEST)) + keys.bytes
    body = header + said + digests + items
    return body + _SUM.pack(zlib.crc32(body))


def join(client: PoolClient, token: bytes, part: int) -> _core.StoreLease | _core.RetrieveLease:
    """What `PoolClient.join` does."""
    if not isinstance(token, bytes | bytearray | memoryview):
        raise refuse("token", "the bytes of lease.export()", token)
    body = bytes(token)

    def wrong(found: str) -> TokenError:
        return TokenError(f"{client._context}: join: {found}")

    if len(body) < _HEADER.size + _SUM.size or not body.startswith(_MAGIC):
        raise wrong(f"these {len(body)} bytes are no lease's token")
    (found_sum,) = _SUM.unpack_from(body, len(body) - _SUM.size)
    if zlib.crc32(body[: -_SUM.size]) != found_sum:
        raise wrong(f"this token of {len(body)} bytes was cut off or changed on its way: its checksum differs")
    _, version, stores, leading, has_parent, n_keys, parts, part_bytes, epoch = _HEADER.unpack_from(body)
    if version != _VERSION:
        raise wrong(f"the token is of version {version}, and this ringcast reads version {_VERSION}")
    texts, at = [], _HEADER.size
    try:
        for _ in range(4):
            (length,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size + length
            texts.append(body[at - length : at])
        segment, name, fingerprint = (text.decode() for text in texts[:3])
    except (struct.error, UnicodeDecodeError):
        raise wrong("the token's names cannot be read") from None
    if len(body) != at + (3 + n_keys) * _DIGEST + n_keys * _ITEM + _SUM.size:
        raise wrong(f"the token has {len(body)} bytes, which are not what {n_keys} keys need")
    digest, salt_digest, parent = (body[at + i * _DIGEST : at + (i + 1) * _DIGEST] for i in range(3))
    space = Namespace._recorded(digest, salt_digest, texts[3])
    if space is None or space.shards != parts:
        raise wrong("the token's namespace cannot be read")

    own_segment, own_epoch = client._identity
    if segment != own_segment:
        raise wrong(f"the token is of pool '{name}', whose memory is {segment}; this client's is {own_segment}")
    if epoch != own_epoch:
        raise wrong(f"the token is of pool '{name}' before it was made anew; what it names is gone")
    own = _fingerprint(client)
    if own and fingerprint and own != fingerprint:
        raise LayoutError(
            f"{client._context}: join: the token is of a client with another layout, of fingerprint {fingerprint}; "
            f"this one's is {own}"
        )
    own_bytes = client.layout.chunk_bytes if isinstance(client.layout, KVLayout) else client.layout
    own_shards = client.layout.shards if isinstance(client.layout, KVLayout) else parts
    if own_shards != parts or own_bytes != parts * part_bytes:
        raise LayoutError(
            f"{client._context}: join: the token's chunks have {parts} parts of {part_bytes} bytes; this client's have "
            f"{own_shards}, and {own_bytes} bytes together"
        )
    number = checked("part", part, 0, parts - 1)
    at += 3 * _DIGEST
    keys = _core.Keys(space, body[at : at + n_keys * _DIGEST], parent if has_parent else None)
    return client._join(keys, body[at + n_keys * _DIGEST : -_SUM.size], stores, leading, number)


def _fingerprint(client: PoolClient) -> str:
    return client.layout.fingerprint if isinstance(client.layout, KVLayout) else ""

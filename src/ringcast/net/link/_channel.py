"""One connection between two links: records, each proven before a byte of it is believed.

It is native (`_core.Channel`), and so is a message's way from the ring to the socket, and from there into another ring.
Here is how it begins.
"""

from __future__ import annotations

import socket

from ringcast import _core
from ringcast._core import Cipher
from ringcast.errors import LinkError
from ringcast.net.link._hello import Release
from ringcast.net.link._noise import TAG_BYTES

MAX_RECORD = _core.LINK_MAX_RECORD
"""Bytes of a record's payload."""

_HEADER_BYTES = 8
PROOF_BYTES = _HEADER_BYTES + TAG_BYTES
"""Of the record that `Channel.prove` sends."""


class ChannelClosedError(LinkError):
    """The connection has ended: by the other side, by the network, or by `close` here."""


class ChannelForgedError(LinkError):
    """What came is not what the other side sent. The connection is closed."""


class Channel(_core.Channel):
    """Made by `dial`, or by a Listener. `peer` says who is at the other side, in messages; `release` of which release.

    Several threads may send, one may receive, and any may close. What sends or receives raises ChannelClosedError or
    ChannelForgedError. `sent_bytes` and `received_bytes` are those of the wire, after the handshake; `heard` is when
    the last record was proven, on the monotonic clock.
    """

    def __init__(
        self, sock: socket.socket, ciphers: tuple[Cipher, Cipher], encrypt: bool, peer: str, release: Release
    ) -> None:
        sock.settimeout(None)
        super().__init__(sock.detach(), *ciphers, encrypt, peer)
        self.release = release


def proves(data: bytes, cipher: Cipher) -> bool:
    """Is this the record that `Channel.prove` sends?"""
    return data[:_HEADER_BYTES] == bytes(_HEADER_BYTES) and cipher.verify(0, b"", data[_HEADER_BYTES:])

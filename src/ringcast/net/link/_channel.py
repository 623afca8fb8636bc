"""One connection between two links: records of up to 256 KiB, each proven before a byte of it is believed.

    u32 length | u8 kind | 3 zero bytes | payload | 16 bytes of tag

The payload is sealed, or, with `encrypt=False`, in the clear and only proven. Kind and place in the order are part of
the tag's nonce; so a record that is changed, left out, repeated or taken from elsewhere ends the connection. Memory is
bounded, whatever the other side says: a buffer for one record and some small ones.

One thread may send while another one receives, and any may close.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import NoReturn, TypeAlias

from ringcast.errors import ArgumentError, LinkError
from ringcast.net.link._hello import Release
from ringcast.net.link._noise import TAG_BYTES, Cipher, NoiseError

Bytes: TypeAlias = "bytes | bytearray | memoryview"

MAX_RECORD = 256 << 10
"""Bytes of a record's payload."""

_HEADER = struct.Struct("<IB3s")
_HEADER_BYTES = _HEADER.size
_ZEROS = bytes(3)
_JOINED_BYTES = 16 << 10
"""Up to so many, a copy is cheaper than more pieces for the system call."""
_RECEIVE_BYTES = 64 << 10
"""What a call asks for where small records may follow: enough for hundreds, and little to copy of a large one."""
_BUFFER_BYTES = MAX_RECORD + TAG_BYTES + 2 * _HEADER_BYTES + _RECEIVE_BYTES
_LONGEST_POLL_S = 1000.0

PROOF_BYTES = _HEADER_BYTES + TAG_BYTES
"""Of the record that `Channel.prove` sends."""


class ChannelClosedError(LinkError):
    """The connection has ended: by the other side, by the network, or by `close` here."""


class ChannelForgedError(LinkError):
    """What came is not what the other side sent. The connection is closed."""


class Channel:
    """Made by `dial`, or by a Listener. `peer` says who is at the other side, in messages; `release` of which release.

    `sent_bytes` and `received_bytes` are those of the wire, after the handshake.
    """

    def __init__(
        self, sock: socket.socket, ciphers: tuple[Cipher, Cipher], encrypt: bool, peer: str, release: Release
    ) -> None:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.release = release
        self.sent_bytes = self.received_bytes = 0
        self._encrypt = encrypt
        self._socket = sock
        self._use = _Use(sock)
        self._sending, self._receiving = ciphers
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._begin = self._end = 0
        self._kind, self._length = 0, -1  # of the record whose payload is to be read
        self._no_more_sent = self._no_more_received = ""  # why
        self._forged = ""  # what came

    def send(self, kind: int, payload: Bytes) -> None:
        """Send one record, and wait until the system has taken all of it. One thread at a time.

        Raises ChannelClosedError; what the other side sent before can still be received.
        """
        plain = payload if isinstance(payload, bytes) else _flat(payload)
        if len(plain) > MAX_RECORD or not 0 < kind < 256:
            raise ArgumentError(
                f"a record has a kind from 1 to 255 and up to {MAX_RECORD} bytes, not kind {kind} and {len(plain)}"
            )
        self._put(kind, plain)

    def prove(self) -> None:
        """Send the record that shows that this side, which dialled, has the key."""
        self._put(0, b"")
        self.sent_bytes = 0

    def wait(self, timeout: float) -> bool:
        """Wait until there is a whole record, or the end, so that `next` and `read` will not wait.

        What `read` has given is valid no more.
        """
        end = time.monotonic() + timeout
        try:
            while not self._has_record():
                left = min(max(end - time.monotonic(), 0.0), _LONGEST_POLL_S)
                with self._use:
                    ready = select.poll()
                    ready.register(self._socket, select.POLLIN)
                    is_ready = bool(ready.poll(left * 1000))
                if is_ready:
                    self._receive(_RECEIVE_BYTES)
                elif time.monotonic() >= end:
                    return False
        except OSError:
            pass  # which `next` tells
        return True

    def next(self) -> tuple[int, int]:
        """Kind and payload length of the next record. What was not read of the last one is left out.

        Raises ChannelClosedError, ChannelForgedError.
        """
        if self._use.ended:
            raise self._closed_error("")
        if self._length >= 0:
            self.read()
        self._fill(_HEADER_BYTES)
        self._length, self._kind = self._header()
        self._begin += _HEADER_BYTES
        return self._kind, self._length

    def read(self) -> memoryview:
        """The payload, proven; valid until `next` or `wait`. Raises ChannelClosedError, ChannelForgedError."""
        length = self._taken()
        self._fill(length + TAG_BYTES)
        record = self._buffer[self._begin : self._begin + length + TAG_BYTES]
        self._begin += length + TAG_BYTES
        try:
            if self._encrypt:
                return memoryview(self._receiving.open(self._kind, record))
            self._receiving.verify(self._kind, record[:length], record[length:])
        except NoiseError:
            self._end_forged("a record with a wrong proof")
        return record[:length].toreadonly()

    def read_into(self, target: bytearray | memoryview) -> None:
        """The payload, proven, into memory of exactly its length, which holds garbage if this raises.

        In the clear, it is received there without a copy. Raises ChannelClosedError, ChannelForgedError.
        """
        target = _flat(target)
        if len(target) != self._length:
            raise ArgumentError(f"the memory has {len(target)} bytes, the record {self._length}")
        if self._encrypt:
            target[:] = self.read()
            return
        length = self._taken()
        got = min(self._end - self._begin, length)
        target[:got] = self._buffer[self._begin : self._begin + got]
        self._begin += got
        if got < length:
            self._receive_into(target[got:])
        self._fill(TAG_BYTES)
        tag = self._buffer[self._begin : self._begin + TAG_BYTES]
        self._begin += TAG_BYTES
        try:
            self._receiving.verify(self._kind, target, tag)
        except NoiseError:
            self._end_forged("a record with a wrong proof")

    @property
    def closed(self) -> bool:
        """Here, or by what came."""
        return self._use.ended

    def limit_sending(self, seconds: float) -> None:
        """From now on a `send` that the other side keeps waiting for so long ends the connection."""
        whole = int(seconds)
        with suppress(OSError):  # it has ended
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, int((seconds - whole) * 1e6))
            )

    def close(self) -> None:
        """End the connection, from any thread; calls of other threads end with ChannelClosedError.

        What was sent last may not arrive any more: who cares for that has waited for an answer.
        """
        self._use.end()

    def _put(self, kind: int, plain: bytes | memoryview) -> None:
        """What ends this in the middle leaves a part of a record behind, so that nothing can be sent after it."""
        if self._no_more_sent:
            raise self._closed_error(self._no_more_sent)
        head = _HEADER.pack(len(plain), kind, _ZEROS)
        self._no_more_sent = "a record was sent in part"
        try:
            if self._encrypt:
                pieces: list[bytes | memoryview] = [head, self._sending.seal(kind, plain)]
            else:
                pieces = [head, plain, self._sending.sign(kind, plain)]
            with self._use:
                if len(plain) <= _JOINED_BYTES:
                    self._socket.sendall(b"".join(pieces))
                else:
                    _send_all(self._socket, pieces)
        except OSError as error:
            self._no_more_sent = _reason(error)
            raise self._closed_error(self._no_more_sent) from error
        self._no_more_sent = ""
        self.sent_bytes += _HEADER_BYTES + len(plain) + TAG_BYTES

    def _taken(self) -> int:
        """The length of the record whose payload is read now."""
        length, self._length = self._length, -1
        if length < 0:
            raise ArgumentError("a record is read once, after next()")
        return length

    def _has_record(self) -> bool:
        """Is nothing left to wait for?"""
        if self._no_more_received or self._use.ended:
            return True
        there = self._end - self._begin
        if self._length >= 0:
            return there >= self._length + TAG_BYTES
        return there >= _HEADER_BYTES and there >= _HEADER_BYTES + self._header()[0] + TAG_BYTES

    def _header(self) -> tuple[int, int]:
        length, kind, zeros = _HEADER.unpack_from(self._buffer, self._begin)
        if length > MAX_RECORD or kind == 0 or zeros != _ZEROS:
            self._end_forged("something that is no record")
        return length, kind

    def _fill(self, need: int) -> None:
        """Until so many bytes are in the buffer; the next record's header may come with them."""
        while (there := self._end - self._begin) < need:
            self._receive(max(need - there + _HEADER_BYTES, _RECEIVE_BYTES))

    def _receive(self, most: int) -> None:
        """One call, into the buffer, where a record of any length has room behind what is unread."""
        there = self._end - self._begin
        if self._end + most > _BUFFER_BYTES or there == 0:
            self._buffer[:there] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, there
        room = self._buffer[self._end : self._end + most]
        self._end += self._came([room])

    def _receive_into(self, target: memoryview) -> None:
        """A record's rest; its tag and the next header, if they come with it, go into the buffer, which is empty."""
        self._begin = self._end = 0
        beside = self._buffer[: TAG_BYTES + _HEADER_BYTES]
        while (missing := len(target)) > 0:
            got = self._came([target, beside])
            target = target[got:]
            self._end = max(0, got - missing)

    def _came(self, room: list[memoryview]) -> int:
        """Bytes that one call received. One that is broken off may have taken some, so that nothing can follow it."""
        if self._no_more_received:
            raise self._closed_error(self._no_more_received)
        self._no_more_received = "a call was broken off"
        try:
            with self._use:
                got = self._socket.recv_into(room[0]) if len(room) == 1 else self._socket.recvmsg_into(room)[0]
        except OSError as error:
            self._no_more_received = _reason(error)
            raise self._closed_error(self._no_more_received) from error
        self._no_more_received = "" if got else "the other side closed it"
        if not got:
            raise self._closed_error(self._no_more_received)
        self.received_bytes += got
        return got

    def _closed_error(self, why: str) -> LinkError:
        if self._forged:
            return ChannelForgedError(self._forged)
        why = "it was closed here" if self._use.ended else why
        return ChannelClosedError(f"the connection to {self.peer} has ended: {why}")

    def _end_forged(self, what: str) -> NoReturn:
        self._forged = (
            f"{what} came over the connection to {self.peer}: somebody changed it on its way. The connection is closed"
        )
        self.close()
        raise self._closed_error("")


class _Use:
    """Of a socket, by threads: while a call is in the system, the descriptor stays open, so that no other file gets its
    number."""

    def __init__(self, sock: socket.socket) -> None:
        self.ended = False
        self._socket = sock
        self._lock = threading.RLock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if self.ended:
                raise OSError("closed")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self.ended and not self._users:
                self._socket.close()

    def end(self) -> None:
        with self._lock:
            if self.ended:
                return
            self.ended = True
            with suppress(OSError):  # the other side has ended it
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._users:
                self._socket.close()


def proves(data: bytes, cipher: Cipher) -> bool:
    """Is this the record that `Channel.prove` sends?"""
    if data[:_HEADER_BYTES] != bytes(_HEADER_BYTES):
        return False
    try:
        cipher.verify(0, b"", data[_HEADER_BYTES:])
    except NoiseError:
        return False
    return True


def _flat(data: bytearray | memoryview) -> memoryview:
    view = memoryview(data)
    return view if view.ndim == 1 and view.itemsize == 1 and view.contiguous else view.cast("B")


def _send_all(sock: socket.socket, pieces: list[bytes | memoryview]) -> None:
    sent = sock.sendmsg(pieces)
    for piece in pieces:
        if sent < len(piece):
            sock.sendall(memoryview(piece)[sent:])
        sent = max(0, sent - len(piece))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)

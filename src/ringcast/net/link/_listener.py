"""Where other links connect to: one address, one thread, and strangers who cost next to nothing.

Whoever connects has 2 s to prove that he has a queue's key, by the handshake and one record after it: the handshake's
first message may be a recording. Until then he is worth one socket and a hundred bytes, of 64 such at most, and 4 of an
address that have shown nothing; who has shown least, and of those the oldest, goes for the next one. So who is silent
cannot keep those out who speak. Only an honest peer's mistake is answered, by a number.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from ringcast._core import Cipher
from ringcast.net._addresses import Address, shown
from ringcast.net.link._channel import PROOF_BYTES, Channel, proves
from ringcast.net.link._hello import (
    FIRST_BYTES,
    HELLO_BYTES,
    VERSION,
    Hello,
    Release,
    Why,
    answer,
    version_of,
)
from ringcast.net.link._noise import Handshake, NoiseError

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 1024
MOST_UNPROVEN = 64
MOST_SILENT_OF_AN_ADDRESS = 4
PROVEN_WITHIN_S = 2.0

_ACCEPTED_AT_ONCE = 64
_LEFT_UNREAD_BYTES = 4096
_NO_DESCRIPTORS_NAP_S = 0.05
_OUT_OF_THEM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("ringcast.link")
KeyOf: TypeAlias = "Callable[[int], tuple[bytes, bool] | None]"
"""A queue's key, and whether its payloads are sealed; None if there is no such queue."""
OnPeer: TypeAlias = "Callable[[int, bool, Channel], None]"
"""Gets the queue, whether it is the control connection, and the proven connection, which is then his to close."""


class Listener:
    """Listens with a socket that is bound to one address. Both functions are called by its own thread, and are quick.

    `strangers` says how many were turned away or gave up.
    """

    def __init__(self, sock: socket.socket, key_of: KeyOf, on_peer: OnPeer) -> None:
        self.address: Address = sock.getsockname()[:2]
        self.strangers = 0
        self._socket = sock
        self._key_of = key_of
        self._on_peer = on_peer
        self._unproven: dict[socket.socket, _Stranger] = {}  # the oldest one first
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._closing = False
        if sys.platform == "linux":  # who says nothing is not even handed to us
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(PROVEN_WITHIN_S))
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._selector.register(sock, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, args=(woken,), name="ringcast-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more. Connections that were handed over stay."""
        self._closing = True
        self._wake.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self, woken: socket.socket) -> None:
        try:
            while not self._closing:
                for key, _ in self._selector.select(self._next_deadline()):
                    if key.fileobj is self._socket:
                        self._accept()
                    elif (stranger := self._unproven.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                        self._hear(stranger)
                now = time.monotonic()
                for stranger in [one for one in self._unproven.values() if one.deadline <= now]:
                    self._drop(stranger, f"it has proven nothing for {PROVEN_WITHIN_S:g} s")
        finally:
            for stranger in list(self._unproven.values()):
                self._drop(stranger, "nothing is listened for here any more")
            self._selector.close()
            self._socket.close()
            woken.close()

    def _next_deadline(self) -> float | None:
        oldest = next(iter(self._unproven.values()), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_THEM and not self._make_room(list(self._unproven.values())):
                    time.sleep(_NO_DESCRIPTORS_NAP_S)
                return  # else he has gone already
            sock.setblocking(False)
            stranger = _Stranger(sock, address)
            silent = [one for one in self._unproven.values() if one.house == stranger.house and not one.has_spoken]
            if len(silent) >= MOST_SILENT_OF_AN_ADDRESS:
                self._make_room(silent)
            if len(self._unproven) >= MOST_UNPROVEN:
                self._make_room(list(self._unproven.values()))
            self._unproven[sock] = stranger
            self._selector.register(sock, selectors.EVENT_READ)
            self._hear(stranger)

    def _make_room(self, among: list[_Stranger]) -> bool:
        oldest = min(among, key=lambda one: (one.has_spoken, one.deadline), default=None)
        if oldest is not None:
            self._drop(oldest, "others have come, and it has shown the least")
        return oldest is not None

    def _drop(self, stranger: _Stranger, why: str) -> None:
        log.warning("the stranger %s is turned away: %s", stranger.shown, why)
        self.strangers += 1
        self._forget(stranger)
        stranger.socket.close()

    def _forget(self, stranger: _Stranger) -> None:
        del self._unproven[stranger.socket]
        self._selector.unregister(stranger.socket)

    def _hear(self, stranger: _Stranger) -> None:
        """Whatever it is that he says, as far as it is there."""
        try:
            part = stranger.socket.recv(stranger.missing)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        stranger.heard += part
        try:
            if not part:
                self._drop(stranger, "it has gone")
            elif not stranger.has_spoken:
                self._hear_hello(stranger)
            elif not stranger.missing:
                self._hear_proof(stranger)
        except Exception:  # of one of the two functions; all others are still to be heard
            log.exception("a connection from %s was lost by a fault here", stranger.shown)
            if stranger.socket in self._unproven:
                self._drop(stranger, "a fault here")

    def _hear_hello(self, stranger: _Stranger) -> None:
        version = version_of(bytes(stranger.heard))
        if version is None:
            self._drop(stranger, "what it says is not what a link says")
        elif version not in (0, VERSION):
            self._refuse(stranger, Why.OTHER_VERSION)
        elif not stranger.missing:
            first = bytes(stranger.heard)
            hello = Hello.of(first[:HELLO_BYTES])
            if hello is None:
                self._drop(stranger, "its hello is none")
            elif (known := self._key_of(hello.queue)) is None:
                self._refuse(stranger, Why.UNKNOWN_QUEUE)
            elif hello.byte_order != sys.byteorder:
                self._refuse(stranger, Why.OTHER_BYTE_ORDER)
            elif hello.encrypt != known[1]:
                self._refuse(stranger, Why.OTHER_ENCRYPTION)
            else:
                self._shake_hands(stranger, hello, known[0], first)

    def _shake_hands(self, stranger: _Stranger, hello: Hello, key: bytes, first: bytes) -> None:
        handshake = Handshake(False, first[:HELLO_BYTES], key)
        try:
            handshake.read(first[HELLO_BYTES:])
            second = handshake.write(Release().packed())
        except NoiseError:
            self._refuse(stranger, Why.WRONG_KEY)
            return
        stranger.shook_hands(hello, handshake.split())
        if not self._say(stranger, answer(None) + second):
            self._drop(stranger, "it does not listen")

    def _hear_proof(self, stranger: _Stranger) -> None:
        assert stranger.hello is not None
        assert stranger.ciphers is not None
        hello, ciphers = stranger.hello, stranger.ciphers
        if not proves(bytes(stranger.heard), ciphers[1]):
            self._drop(stranger, "it has not the key, and says what another one has said")
            return
        self._forget(stranger)
        try:
            channel = Channel(stranger.socket, ciphers, hello.encrypt, stranger.shown, hello.speaker)
        except OSError:  # he has gone meanwhile
            stranger.socket.close()
            return
        try:
            self._on_peer(hello.queue, hello.control, channel)
        except BaseException:
            channel.close()
            raise

    def _refuse(self, stranger: _Stranger, why: Why) -> None:
        """Tell it, and let him go once he can have read it: what is still unread would reset the connection."""
        self._say(stranger, answer(why))
        with suppress(OSError):
            stranger.socket.shutdown(socket.SHUT_WR)
            stranger.socket.recv(_LEFT_UNREAD_BYTES)
        self._drop(stranger, why.name.lower().replace("_", " "))

    def _say(self, stranger: _Stranger, data: bytes) -> bool:
        try:
            return stranger.socket.send(data) == len(data)
        except OSError:
            return False


class _Stranger:
    """Who has connected and proven nothing yet."""

    def __init__(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self.socket = sock
        self.shown = shown(address[:2])
        self.house = _house(address[0])
        self.deadline = time.monotonic() + PROVEN_WITHIN_S
        self.heard = bytearray()
        self.hello: Hello | None = None
        self.ciphers: tuple[Cipher, Cipher] | None = None
        self._wanted = HELLO_BYTES + FIRST_BYTES

    @property
    def missing(self) -> int:
        """Bytes of what he says next."""
        return self._wanted - len(self.heard)

    @property
    def has_spoken(self) -> bool:
        """Has he sent a handshake's first message that was made with the key, by himself or by somebody else?"""
        return self.hello is not None

    def shook_hands(self, hello: Hello, ciphers: tuple[Cipher, Cipher]) -> None:
        self.hello, self.ciphers = hello, ciphers
        self.heard.clear()
        self._wanted = PROOF_BYTES


def _house(ip: str) -> str:
    """An address, but the network of an IPv6 one, of which a stranger has all."""
    parsed = ipaddress.ip_address(ip.partition("%")[0])
    return ip if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))

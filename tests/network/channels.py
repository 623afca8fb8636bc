"""Connections between two links in one process, over real sockets, and somebody in their way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from ringcast._core import Cipher
from ringcast.net._addresses import Address
from ringcast.net._deadline import Deadline
from ringcast.net.link._channel import Channel
from ringcast.net.link._dial import dial
from ringcast.net.link._hello import Release
from ringcast.net.link._listener import Listener
from tests.support import DEADLINE_S

QUEUE = 0x1234567890ABC
KEY = bytes(range(32))
BOTH = pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "clear"])


class Accepted(NamedTuple):
    queue: int
    control: bool
    channel: Channel


class Door:
    """A listener for one queue, and what comes through it."""

    def __init__(self, encrypt: bool = True, key: bytes = KEY, ip: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.encrypt = encrypt
        self.peers: SimpleQueue[Accepted] = SimpleQueue()
        self.listener = Listener(
            socket.create_server((ip, 0), family=family),
            lambda queue: (key, encrypt) if queue == QUEUE else None,
            lambda *peer: self.peers.put(Accepted(*peer)),
        )

    @property
    def address(self) -> Address:
        return self.listener.address

    def dial(self, address: Address | None = None) -> Channel:
        return dial(address or self.address, QUEUE, KEY, self.encrypt, Deadline(DEADLINE_S), control=False)

    def accepted(self) -> Channel:
        return self.peers.get(timeout=DEADLINE_S).channel

    def pair(self, address: Address | None = None) -> tuple[Channel, Channel]:
        """Who dialled, and who listened."""
        return self.dial(address), self.accepted()

    def close(self) -> None:
        self.listener.close()
        while not self.peers.empty():
            self.peers.get().channel.close()


@contextmanager
def connected(encrypt: bool = True) -> Iterator[tuple[Channel, Channel]]:
    with closing(Door(encrypt)) as door:
        ends = door.pair()
        with closing(ends[0]), closing(ends[1]):
            yield ends


@contextmanager
def raw(encrypt: bool = True) -> Iterator[tuple[socket.socket, Channel, Cipher]]:
    """Who can send what he wants, and even knows the key: his socket, the channel that hears him, and his cipher."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    channel = Channel(there, (Cipher(bytes(32)), Cipher(KEY)), encrypt, "the other side", Release())
    with here, closing(channel):
        yield here, channel, Cipher(KEY)


class Wiretap:
    """Somebody in the way, who reads what passes and may change it: `edit` gets what was sent by who dialled (True) or
    who listened (False), the place in it, and the bytes, and returns others; None cuts the connection."""

    def __init__(self, target: Address, edit: Callable[[bool, int, bytes], bytes | None] | None = None) -> None:
        self._target = target
        self._edit = edit
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listening.getsockname()[:2]
        self.seen = {True: b"", False: b""}
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            _end(sock)
        for thread in self._threads:
            thread.join()
        for sock in (self._listening, *self._sockets):
            sock.close()

    def _serve(self) -> None:
        """For one connection."""
        try:
            dialled, _ = self._listening.accept()
        except OSError:
            return
        onwards = socket.create_connection(self._target)
        self._sockets += [dialled, onwards]
        back = threading.Thread(target=self._pass, args=(onwards, dialled, False))
        self._threads.append(back)
        back.start()
        self._pass(dialled, onwards, True)

    def _pass(self, source: socket.socket, target: socket.socket, outwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                place = len(self.seen[outwards])
                self.seen[outwards] += data
                changed = data if self._edit is None else self._edit(outwards, place, data)
                if changed is None:
                    break
                target.sendall(changed)
        _end(target)
        _end(source)


def flip(outwards: bool, at: int) -> Callable[[bool, int, bytes], bytes]:
    """An edit that changes one bit of a byte of one direction."""

    def edit(direction: bool, place: int, data: bytes) -> bytes:
        if direction != outwards or not place <= at < place + len(data):
            return data
        changed = bytearray(data)
        changed[at - place] ^= 1 << at % 8
        return bytes(changed)

    return edit


def random_bytes(nbytes: int) -> bytes:
    return os.urandom(nbytes)


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

"""What the link process does for its ends: it takes the queues of writers elsewhere, and brings readers theirs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ringcast.errors import LinkError, RingcastError
from ringcast.net._addresses import Address, listening_for_links, shown
from ringcast.net._deadline import Deadline
from ringcast.net.link._channel import Channel
from ringcast.net.link._exported import Exported
from ringcast.net.link._incoming import Incoming, LeavingError
from ringcast.net.link._listener import Listener

log = logging.getLogger("ringcast.link")


class Service:
    """All streams of this process. `held(place)` says whether the end at a place of the desk lives."""

    def __init__(self, held: Callable[[int], bool]) -> None:
        self._held = held
        self._lock = threading.RLock()
        self._exported: dict[int, tuple[Exported, int]] = {}  # by epoch; with the place of the writer
        self._incoming: dict[int, Incoming] = {}  # the same
        self._streams_over: set[Incoming] = set()  # whose ring has not been let go, and which another one has followed
        self._readers: dict[int, int] = {}  # by place: the queue that it reads
        self._seated: dict[int, tuple[Incoming, int]] = {}  # the same: over which stream, and its rank there
        self._listeners: dict[tuple[Any, ...], tuple[Listener, Address]] = {}

    @property
    def is_busy(self) -> bool:
        """Is there a stream that is not over?"""
        with self._lock:
            return bool(self._exported or self._incoming or self._streams_over)

    def write(self, place: int, request: dict[str, Any]) -> dict[str, Any]:
        """A writer's queue is to be taken to other machines. Quick."""
        with self._lock:
            listener, address = self._listening(request)
            exported = Exported(request, bytes.fromhex(request["key"]), listener)
            self._exported[exported.segment.epoch] = (exported, place)
            log.info(
                "%s, of process %d, can be read at %s",
                exported.segment.label,
                exported.segment.creator_pid,
                shown(address),
            )
            return {"address": list(address)}

    def read(self, place: int, request: dict[str, Any]) -> dict[str, Any]:
        """A reader wants a queue of another machine. Takes its time. Raises LinkError and others."""
        epoch = int(request["epoch"])
        deadline = Deadline(float(request["within"]))
        with self._lock:
            incoming = self._incoming.get(epoch)
            if incoming is None:
                incoming = self._incoming[epoch] = Incoming(request, bytes.fromhex(request["key"]))
            self._readers[place] = epoch
        try:
            while True:
                try:
                    seated = incoming.join(int(request["rank"]), int(request["pid"]), place, deadline)
                    with self._lock:
                        self._seated[place] = (incoming, seated["rank"])
                    return seated
                except LeavingError:
                    with self._lock:
                        if self._incoming.get(epoch) is incoming:
                            if incoming.has_begun:
                                self._streams_over.add(incoming)
                            del self._incoming[epoch]
                        if epoch not in self._incoming:  # else another reader has come meanwhile
                            self._incoming[epoch] = Incoming(request, bytes.fromhex(request["key"]))
                        incoming = self._incoming[epoch]
        except BaseException as error:
            log.warning("rank %s (pid %s) cannot read here: %s", request["rank"], request["pid"], error)
            with self._lock:
                self._readers.pop(place, None)
                if not incoming.has_begun and self._incoming.get(epoch) is incoming:
                    del self._incoming[epoch]
            raise

    def look(self) -> None:
        """What has become of the ends and the streams since the last look."""
        with self._lock:
            for epoch, (exported, place) in list(self._exported.items()):
                exported.look()
                if exported.is_over and not self._held(place):
                    exported.close()
                    del self._exported[epoch]
                    log.info("%s is over", exported.segment.label)
            for place in [place for place in self._readers if not self._held(place)]:
                del self._readers[place]
            # Who has gone while his place was being looked for is found here all the same.
            gone = [(place, *self._seated.pop(place)) for place in list(self._seated) if not self._held(place)]
            incoming = [*self._incoming.items(), *((one.epoch, one) for one in self._streams_over)]
            wanted = set(self._readers.values())
            used = {id(exported.listener) for exported, _ in self._exported.values()}
            unused = {key: one for key, (one, _) in self._listeners.items() if id(one) not in used}
            for key in unused:
                del self._listeners[key]
        for listener in unused.values():  # without the lock: it waits for its thread, which asks `_key_of`
            listener.close()
        for place, stream, rank in gone:
            stream.expect_nobody(rank, place)
        for epoch, one in incoming:
            one.look()
            if one.over:
                if one.let_go(epoch in wanted):
                    with self._lock:
                        self._streams_over.discard(one)
                        if self._incoming.get(epoch) is one:
                            del self._incoming[epoch]
            else:
                with self._lock:  # who comes just now is found here, or finds that the stream is given up
                    if epoch not in self._readers.values():
                        one.forsake()

    def _listening(self, request: dict[str, Any]) -> tuple[Listener, Address]:
        environment = {str(name): str(value) for name, value in request["environment"].items()}
        key = (request["connect_ip"], request["towards"], *sorted(environment.items()))
        if key not in self._listeners:
            sock, address = listening_for_links(request["connect_ip"], request["towards"], environment)
            self._listeners[key] = (Listener(sock, self._key_of, self._meet), address)
        return self._listeners[key]

    def _key_of(self, epoch: int) -> tuple[bytes, bool] | None:
        with self._lock:
            known = self._exported.get(epoch)
            return None if known is None else (known[0].key, known[0].encrypt)

    def _meet(self, epoch: int, control: bool, channel: Channel) -> None:
        with self._lock:
            known = self._exported.get(epoch)
        if known is None:
            channel.close()
            return
        known[0].greetings.begin(channel, control)


def in_background(
    work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[RingcastError], None]
) -> None:
    """Do what takes time on a thread of its own."""

    def run() -> None:
        try:
            result = work()
        except RingcastError as error:
            failed(error)
        except Exception as error:
            log.exception("the link process fails")
            failed(LinkError(f"the link process failed: {type(error).__name__}: {error}"))
        else:
            done(result)

    threading.Thread(target=run, name="ringcast-request", daemon=True).start()

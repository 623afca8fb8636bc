"""How the ends of a machine talk to the link process of their job: JSON, both ways, over the link's desk.

The desk is a named segment that the link makes (src/core/desk.hpp). An end holds a place there for as long as it is
registered, and so the link knows by the kernel who is gone. Whatever does not fit into a place goes in parts, each of
which the other side takes before the next is put.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from ringcast import _core, errors
from ringcast._names import LINK_PREFIX, PREFIX, base36, suffix
from ringcast._version import __version__
from ringcast.errors import ArgumentError, BusyError, LinkError, RingcastError
from ringcast.net._deadline import Deadline

MAX_BYTES = 1 << 20
"""The longest request or answer."""
_VALID_JOB = re.compile(r"[a-z0-9]{1,11}\Z")
_FIRST, _LAST, _GO_ON = 1, 2, 4
"""The first byte of what lies at a place: is it the beginning, the end, or a word that the next part may come?"""
_PART_BYTES = _core.DESK_TEXT_BYTES - 1


def new_job() -> str:
    """A random name for a job."""
    return base36(_core.random_u64() >> 11).rjust(11, "0")


def desk_name(job: str) -> str:
    """The name of the segment that is the desk of this job's link, of this user. Raises ArgumentError."""
    if not isinstance(job, str) or not _VALID_JOB.match(job):
        raise ArgumentError(f"a job's name must be 1 to 11 of the characters a-z 0-9, not {job!r}")
    return LINK_PREFIX + job + suffix()


def leave_nothing_of_the_dead() -> None:
    """Remove what killed processes left in shared memory, a link's rings as well."""
    with suppress(RingcastError):
        _core.sweep(PREFIX, suffix(), dry_run=False)


class Request(NamedTuple):
    """What an end asks."""

    place: int
    """Who asks: the number of a holder of a place, which no other one of this desk has or gets."""
    number: int
    what: Any


class Desk:
    """The link's side. One thread waits and takes requests; everything else may be called from any thread."""

    def __init__(self, core: _core.Desk) -> None:
        self._core = core
        self._begun: dict[int, bytes] = {}  # by seat: what has come of a request in parts
        self._left: dict[int, tuple[int, bytes]] = {}  # by seat: whose answer it is, and what is left of it
        self._leaving = threading.Lock()

    @classmethod
    def create(cls, job: str) -> Desk:
        """The desk of this job, made now. Raises SegmentExistsError, with the `pid` of a living link that has it."""
        return cls(_core.Desk.create(desk_name(job), job, __version__))

    def wait(self, timeout: float) -> bool:
        """Until something was asked, or `rouse`, or the time is over: was there something?"""
        return self._core.wait(_core.checked_ns("timeout", timeout))

    def rouse(self) -> None:
        """End the wait that is going on, or the next one."""
        self._core.rouse()

    def requests(self) -> list[Request]:
        """What has been asked since the last call. Each is to be answered, or refused, at any later time."""
        found = []
        for place, number, text in self._core.take_requests():
            whole = self._whole(place, number, text)
            if whole is None:
                continue
            try:
                found.append(Request(place, number, json.loads(whole)))
            except ValueError as error:
                self.refuse(Request(place, number, None), LinkError(f"the request is not JSON: {error}"))
        return found

    def _whole(self, place: int, number: int, text: bytes) -> bytes | None:
        """The request that ends with this part, if it does."""
        kind, seat = text[0] if text else 0, place % _core.DESK_PLACES
        if kind & _GO_ON:
            owner, rest = self._left.pop(seat, (-1, b""))
            self._put(place, number, rest if owner == place else b"")
            return None
        before = b"" if kind & _FIRST else self._begun.pop(seat, b"")
        whole = before + text[1:]
        if kind & _LAST:
            return whole
        if len(whole) <= MAX_BYTES:  # else who asks goes on for nothing, and hears that it is not JSON
            self._begun[seat] = whole
        self._core.answer(place, number, bytes([_GO_ON]))
        return None

    def answer(self, request: Request, result: Any) -> None:
        """What `ask` returns. Who asked may be gone, or wait no more: then it is dropped."""
        self._put(request.place, request.number, json.dumps({"result": result}).encode())

    def refuse(self, request: Request, error: RingcastError) -> None:
        """What `ask` raises."""
        said = {"error": type(error).__name__, "message": str(error)}
        self._put(request.place, request.number, json.dumps(said).encode())

    def _put(self, place: int, number: int, text: bytes) -> None:
        last = len(text) <= _PART_BYTES
        if not last:
            with self._leaving:  # what is late for who has gone is not put over the next holder's
                if not self.held(place):
                    return
                self._left[place % _core.DESK_PLACES] = (place, text[_PART_BYTES:])
        self._core.answer(place, number, bytes([_LAST if last else 0]) + text[:_PART_BYTES])

    def held(self, place: int) -> bool:
        """Is the end that holds this place alive, and has it not left?"""
        return self._core.held(place)

    def in_use(self) -> bool:
        """Does anybody hold a place?"""
        return self._core.in_use()

    def close_if_unused(self) -> bool:
        """Close it, unless somebody holds a place. Who comes just now finds it closed, or is found."""
        return self._core.close_if_unused()

    def close(self) -> None:
        """Remove its name and end all waits at it, here and with LinkDiedError at its places."""
        self._core.close()


class Place:
    """An end's side: taken for as long as the end is registered with the link. One request at a time."""

    def __init__(self, core: _core.Place) -> None:
        self._core = core
        self._asking: dict[object, None] = {}  # who asks; the first one has the turn

    @classmethod
    def take(cls, job: str) -> Place:
        """A place at the desk of this job's link.

        Raises SegmentNotFoundError if there is no living one, CapacityError if all its places are taken, and
        SegmentMismatchError if it runs another release.
        """
        return cls(_core.Place.take(desk_name(job), __version__))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def number(self) -> int:
        """What the link knows this end by."""
        return self._core.holder

    @property
    def link(self) -> str:
        """The link process, for messages."""
        return self._core.link

    @property
    def link_pid(self) -> int:
        """The link's process, in its own pid namespace."""
        return self._core.link_pid

    @property
    def death(self) -> str | None:
        """That the link has died, in words; None while it lives."""
        return None if self._core.link_lives else f"{self.link} on host {socket.gethostname()} has died or ended"

    def tell_of_its_life(self, end: _core.End[Any]) -> None:
        """From now on this writer's waiting calls find out when the link dies, which alone could bring it readers."""
        end._rely_on(self._core, socket.gethostname())

    def ask(self, request: Any, deadline: Deadline) -> Any:
        """The link's answer. Signals' handlers run meanwhile.

        Raises what the link refuses the request with, LinkDiedError if it dies or has ended, QueueTimeoutError,
        QueueClosedError if this place was closed, BusyError if another request waits for its answer, ForkedError.
        """
        text = json.dumps(request).encode()
        if len(text) > MAX_BYTES:
            raise ArgumentError(f"a request of {len(text)} bytes to {self.link}: it takes at most {MAX_BYTES}")
        me = object()
        try:
            self._asking[me] = None
            first, *_ = self._asking
            if first is not me:
                raise BusyError(f"a request to {self.link} is waiting for its answer already at this place")
            answer = json.loads(self._exchange(text, deadline))
            del self._asking[me]
        except BaseException:  # wherever an interruption comes, the turn is somebody's who can give it back
            self._asking.pop(me, None)
            raise
        if "error" in answer:
            kind = getattr(errors, answer["error"], LinkError)
            raise kind(answer["message"])
        return answer["result"]

    def _exchange(self, text: bytes, deadline: Deadline) -> bytes:
        parts = [text[at : at + _PART_BYTES] for at in range(0, len(text), _PART_BYTES)]
        for at, part in enumerate(parts):
            kind = (_FIRST if at == 0 else 0) | (_LAST if at == len(parts) - 1 else 0)
            reply = self._say(bytes([kind]) + part, deadline)
        whole = reply[1:]
        while not reply[0] & _LAST:
            reply = self._say(bytes([_GO_ON]), deadline)
            whole += reply[1:]
        return whole

    def _say(self, text: bytes, deadline: Deadline) -> bytes:
        return self._core.ask(text, int(deadline.left * 1e9), deadline.seconds)

    def close(self) -> None:
        """Give the place back. From any thread, any number of times; never waits."""
        self._core.close()

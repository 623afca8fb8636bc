"""Our own connection to a store of torch's: calls that end by their deadline, whatever becomes of the store's host.

A call of torch's to a store whose host is stopped, or whose wire is cut, returns never, and while it waits no signal's
handler runs. So a thread of our own makes the calls, one after the other, and who asked waits for it with his deadline.
Nothing waits inside the store: torch prints a warning whenever such a wait is over, so who waits asks again.

A store takes values of some MiB at most, so longer ones are put in parts, under keys of their own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

from ringcast.errors import ForkedError, GroupError, GroupPeerError, GroupTimeoutError
from ringcast.net._deadline import Deadline

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PART_BYTES = 1 << 19
_BATCH = 8
_WHOLE, _IN_PARTS = b"w", b"p"
_ENDS_WITHIN_S = 1.0
"""Unless a call of torch's hangs. An interpreter that goes away under one that returns aborts the process."""

_Job: TypeAlias = "tuple[Callable[[Store], Any], _Answer] | None"
Through: TypeAlias = Callable[[Callable[[], None]], None]
"""Gets a step, which it takes or not."""


def _at_once(step: Callable[[], None]) -> None:
    step()


class _Answer:
    def __init__(self) -> None:
        self.there = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None


class Client:
    """A store, by our own connection. `where` says which store, in messages; `host` is the rank that holds it, if one
    is known to."""

    def __init__(self, connect: Callable[[], Store], where: str, deadline: Deadline, host: int | None = None) -> None:
        self.where = where
        self._host = () if host is None else (host,)
        self._pid = os.getpid()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, connect), name="ringcast-store", daemon=True
        )  # fmt: skip
        self._thread.start()
        self._stop = weakref.finalize(self, self._jobs.put, None)
        self._stop.atexit = False
        self._call(lambda _: None, deadline)

    def close(self) -> None:
        """Lets go of the connection, once what was asked for is done."""
        self._stop()
        if self._pid == os.getpid():
            self._thread.join(_ENDS_WITHIN_S)

    def put(self, key: str, value: bytes, deadline: Deadline, through: Through = _at_once) -> None:
        """Store a value of any length, in parts if need be; it is seen as a whole or not at all.

        The step that makes it seen goes `through` a function, in the client's thread, also after the deadline.
        """
        whole = _WHOLE + value
        if len(value) > PART_BYTES:
            count = -(-len(value) // PART_BYTES)
            for n in range(count):
                part = value[n * PART_BYTES : (n + 1) * PART_BYTES]
                self._call(_setting(f"{key}/{n}", part), deadline)
            whole = _IN_PARTS + str(count).encode()
        setting = _setting(key, whole)
        self._call(lambda store: through(lambda: setting(store)), deadline)

    def take(self, keys: Sequence[str], deadline: Deadline) -> list[bytes]:
        """Values that are there."""
        values: list[bytes] = []
        for at in range(0, len(keys), _BATCH):
            batch = list(keys[at : at + _BATCH])
            values += self._call(_getting(batch), deadline)
        return [self._whole(key, value, deadline) for key, value in zip(keys, values, strict=True)]

    def has(self, keys: Sequence[str], deadline: Deadline) -> bool:
        """Are all of them there?"""
        found: bool = self._call(lambda store: store.check(list(keys)), deadline)
        return found

    def count(self, key: str, deadline: Deadline) -> int:
        """Add one to a number, and tell it."""
        number: int = self._call(lambda store: store.add(key, 1), deadline)
        return number

    def delete(self, keys: Sequence[str], deadline: Deadline) -> None:
        """Delete values, with all their parts, as far as they are there."""
        self._call(_deleting(keys), deadline)

    def delete_later(self, keys: Sequence[str]) -> None:
        """The same, without a wait, and whatever comes of it."""
        self._jobs.put((_deleting(keys), _Answer()))

    def _whole(self, key: str, value: bytes, deadline: Deadline) -> bytes:
        if value[:1] == _WHOLE:
            return value[1:]
        count = int(value[1:]) if value[:1] == _IN_PARTS and value[1:].isdigit() else 0
        if not 0 < count <= 1 << 20:
            raise GroupError(f"{self.where} holds under {key!r} what no rank of this library puts there")
        parts = []
        for at in range(0, count, _BATCH):
            batch = [f"{key}/{n}" for n in range(at, min(count, at + _BATCH))]
            if not self.has(batch, deadline):
                raise GroupError(f"{self.where} holds under {key!r} a value of which parts are missing")
            parts += self._call(_getting(batch), deadline)
        return b"".join(parts)

    def _call(self, what: Callable[[Store], Any], deadline: Deadline) -> Any:
        if os.getpid() != self._pid:
            raise ForkedError(f"the connection to {self.where} belongs to process {self._pid}: make another group here")
        if not self._stop.alive:
            raise GroupError(f"the connection to {self.where} is closed")
        answer = _Answer()
        self._jobs.put((what, answer))
        if not answer.there.wait(max(deadline.left, 0.2)):
            silent = GroupTimeoutError(
                f"{self.where} has not answered within {deadline.seconds} s: its host may be stopped"
            )
            silent.ranks = self._host
            raise silent
        if answer.error is not None:
            gone = GroupPeerError(f"{self.where} cannot be used: {_first_line(answer.error)}")
            gone.ranks = self._host
            raise gone from answer.error
        return answer.value


def _serve(jobs: SimpleQueue[_Job], connect: Callable[[], Store]) -> None:
    """The thread. It knows no Client, so that one that nobody has any more is collected, and ends this."""
    store: Store | None = None
    while (job := jobs.get()) is not None:
        what, answer = job
        try:
            if store is None:
                store = connect()
            answer.value = what(store)
        except Exception as error:
            answer.error = error
        answer.there.set()
        del job, what, answer


def _setting(key: str, value: Any) -> Callable[[Store], None]:
    """torch declares a value to be text, and takes bytes as they are."""
    return lambda store: store.set(key, value)


def _deleting(keys: Sequence[str]) -> Callable[[Store], None]:
    def delete(store: Store) -> None:
        for key in keys:
            part = 0
            if store.delete_key(key):
                while store.delete_key(f"{key}/{part}"):
                    part += 1

    return delete


def _getting(keys: list[str]) -> Callable[[Store], list[bytes]]:
    return lambda store: store.multi_get(keys)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

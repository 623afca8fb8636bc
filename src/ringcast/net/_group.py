"""A group's ranks go through their collectives in a store: each with one deadline, and named errors.

Collectives have numbers; a rank says which one it has come to before it does anything there. What it has to say lies
under keys made of number, kind, step and rank, all of them under the group's generation. Whoever waits looks, five
times a second, at what those are doing who have not said their part: a rank at another collective, with other
arguments, that was started again, or whose process has ended, is named at once; one that is just late, at the deadline.
A rank that fails says that in the place of its part. The last one to leave deletes the keys.

A deadline that is over harms nothing: what is late finds what it needs, and the group goes on.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ringcast._interruptions import Tries
from ringcast._names import base36
from ringcast.errors import (
    GroupError,
    GroupMismatchError,
    GroupPeerError,
    GroupSecurityError,
    GroupTimeoutError,
    RingcastError,
)
from ringcast.net._client import Client
from ringcast.net._deadline import Deadline
from ringcast.net._members import Member, has_come, hello_of
from ringcast.net._numbers import Numbers
from ringcast.net._records import about, foreign, is_count, is_failure, is_word, parsed
from ringcast.net._sealing import Sealer

FIRST_NAP_S = 0.0001
LONGEST_NAP_S = 0.01
_LOOK_S = 0.2
TOLD_WITHIN_S = 1.0

_PART, _FAILURE = b"+", b"-"

KINDS = {one.__name__: one for one in (GroupTimeoutError, GroupMismatchError, GroupPeerError)}
"""Of errors that are about ranks, and stay what they are for those who are told of them."""


class Group:
    """The ranks that have met in a store. Made by `ringcast.net._meeting.meet`."""

    def __init__(self, client: Client, rank: int, members: list[Member], generation: str, trusted: bool) -> None:
        self.client = client
        self.rank = rank
        self.members = members
        self.sealer: Sealer = Sealer(generation, trusted)
        self._hello_sealer = Sealer("", trusted)
        self._generation = generation
        self.store_ip: str | None = None
        """Where the store's host is, if that is known: other machines are on the way to it."""
        self._lock = threading.Lock()
        self._number = 0
        self._sent: dict[int, Numbers] = {}  # by destination
        self._received: dict[int, Numbers] = {}  # by source
        self._tries: dict[str, Tries] = {}  # by key, of messages that are being received
        self._at: dict[str, Any] = {"number": 0, "kind": "meeting", "arguments": {}, "besides": ""}

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def job(self) -> str:
        """The job of all ranks that read or write over links: they share one link process a machine."""
        return base36(int.from_bytes(hashlib.sha256(self._generation.encode()).digest()[:7], "big")).rjust(11, "0")

    def named(self, ranks: Iterable[int]) -> str:
        return ", ".join(self.members[rank].named(rank) for rank in ranks)

    def key(self, *parts: object) -> str:
        return "/".join(("g", self._generation, *map(str, parts)))

    def enter(self, kind: str, arguments: Mapping[str, Any], timeout: float, *steps: str) -> Collective:
        """Come to the next collective. `arguments` are those that all ranks must have in common."""
        deadline = Deadline(timeout)
        with self._turn(deadline):
            self._number += 1
            at = {"number": self._number, "kind": kind, "arguments": dict(arguments), "besides": ""}
            self._say_where(at, deadline)
        return Collective(self, kind, self._number, at, deadline, steps)

    def send(self, obj: Any, destination: int, deadline: Deadline) -> None:
        """If this fails, the message may still be sent later, as one that was begun to be; its number is its own then.

        Raises GroupError and its kinds, EncodeError.
        """
        numbers = self._sent.setdefault(destination, Numbers())
        me, store = object(), object()

        def step(put: Callable[[], None]) -> None:
            if numbers.hand_over(me, store):
                try:
                    put()
                except BaseException:
                    numbers.give_back(store)
                    raise
                numbers.use(store)

        try:
            key = self.message_key(self.rank, destination, numbers.take(me))
            self.client.put(key, self.sealer.encode(obj, key), deadline, step)
        finally:
            numbers.give_back(me)

    def receive(self, source: int, deadline: Deadline) -> Any:
        """What fails, or is interrupted, leaves the message to the next call, unless it was one that cannot be read.

        Want of memory leaves it once.

        Raises GroupError and its kinds, DecodeError.
        """
        numbers = self._received.setdefault(source, Numbers())
        me = object()
        try:
            key = self.message_key(source, self.rank, numbers.take(me))
            self.besides(f"waits for a message from rank {source}", deadline)
            self.wait({source: key}, deadline, None, f"receiving from rank {source}")
            value = self.client.take([key], deadline)[0]
            with suppress(GroupError):  # which keeps nobody from what is here
                self.besides("", deadline)
            try:
                tries = self._tries.setdefault(key, Tries())
                obj = self.unpack(source, self.unseal(source, value, key), tries)
            except RingcastError:
                self._has_received(numbers, me, key)
                raise
            self._has_received(numbers, me, key)
            return obj
        finally:
            numbers.give_back(me)

    def _has_received(self, numbers: Numbers, holder: object, key: str) -> None:
        numbers.use(holder)
        self._tries.pop(key, None)
        self.client.delete_later([key])

    def message_key(self, source: int, destination: int, number: int) -> str:
        return self.key("message", source, destination, number)

    def besides(self, what: str, deadline: Deadline) -> None:
        """Say that this rank is at something that is no collective."""
        with self._turn(deadline):
            self._say_where({**self._at, "besides": what}, deadline)

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        """To say where this rank is: another thread that does so may have to wait for the store for much longer."""
        if not self._lock.acquire(timeout=deadline.left):
            raise GroupTimeoutError(
                f"waited {deadline.seconds} s for another thread of this rank, which waits for {self.client.where}"
            )
        try:
            yield
        finally:
            self._lock.release()

    def wait(self, keys: Mapping[int, str], deadline: Deadline, mine: Mapping[str, Any] | None, what: str) -> None:
        """Until all the ranks' keys are there. `mine`: where this rank is, if it is at a collective."""
        wanted = list(keys.values())
        nap, interval = FIRST_NAP_S, _LOOK_S
        look_at = time.monotonic() + interval
        longest = max(LONGEST_NAP_S, self.size * 0.0002)
        while not self.client.has(wanted, deadline):
            late = deadline.left == 0
            if late or time.monotonic() >= look_at:
                missing = self._look(keys, deadline, mine)
                if late and missing:
                    self._fail_late(missing, deadline, what)
                interval = min(2 * interval, _LOOK_S * max(1, self.size / 8))
                look_at = time.monotonic() + interval
            time.sleep(min(nap, deadline.left))
            nap = min(1.5 * nap, longest)

    def say_bye(self, deadline: Deadline) -> None:
        key = self.key("bye", self.rank)
        self.client.put(key, self.sealer.seal(b"", key), deadline)

    def wait_for_byes(self, deadline: Deadline) -> None:
        """Until no other rank that lives needs the store any more, or the deadline."""
        nap = FIRST_NAP_S
        while deadline.left > 0:
            others = [rank for rank in range(self.size) if rank != self.rank]
            living = [rank for rank in others if not self.client.has([self.key("bye", rank)], deadline)]
            if all(self.members[rank].is_dead for rank in living):
                return
            time.sleep(min(nap, deadline.left))
            nap = min(1.5 * nap, 0.05)

    def _say_where(self, at: dict[str, Any], deadline: Deadline) -> None:
        self._at = at
        key = self.key("at", self.rank)
        self.client.put(key, self.sealer.seal(json.dumps(at).encode(), key), deadline)

    def where(self, rank: int, deadline: Deadline) -> dict[str, Any]:
        """What a rank has come to."""
        key = self.key("at", rank)
        if not self.client.has([key], deadline):
            return {"number": 0, "kind": "meeting", "arguments": {}, "besides": ""}
        what = f"what {self.named([rank])} says of where it is"
        found = parsed(self.unseal(rank, self.client.take([key], deadline)[0], key), what)
        if (
            type(found) is not dict or set(found) != {"number", "kind", "arguments", "besides"}
            or not is_count(found["number"]) or type(found["arguments"]) is not dict
            or not is_word(found["kind"]) or not is_word(found["besides"])
        ):  # fmt: skip
            raise about(foreign(what, found), rank)
        at: dict[str, Any] = found
        return at

    def unseal(self, rank: int, data: bytes, key: str) -> bytes:
        """What a rank has said under a key. Raises GroupSecurityError."""
        try:
            return self.sealer.unseal(data, key, self.named([rank]))
        except GroupSecurityError as error:
            raise about(error, rank) from error

    def unpack(self, rank: int, data: bytes, tries: Tries | None = None) -> Any:
        """An object that a rank has sent. Raises GroupError, DecodeError, PickleRefusedError."""
        try:
            return self.sealer.unpack(data, self.named([rank]), tries)
        except GroupError as error:
            raise about(error, rank) from error

    def _look(self, keys: Mapping[int, str], deadline: Deadline, mine: Mapping[str, Any] | None) -> list[int]:
        """The ranks that have not said their part. Raises if one of them never will."""
        return [
            rank
            for rank, key in keys.items()
            if not self.client.has([key], deadline) and self._will_say(rank, key, deadline, mine)
        ]

    def _will_say(self, rank: int, key: str, deadline: Deadline, mine: Mapping[str, Any] | None) -> bool:
        """False: it has said its part meanwhile, before it went on, left or ended. Raises if it never will."""
        at = self.where(rank, deadline)
        if self.client.has([key], deadline):
            return False
        if mine is not None:
            self.compare(rank, at, mine)
        try:
            self._check_alive(rank, at, deadline)
        except GroupPeerError:
            if self.client.has([key], deadline):
                return False
            raise
        return True

    def compare(self, rank: int, at: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
        who = self.members[rank].named(rank)
        if at["number"] > mine["number"] or (at["number"] == mine["number"] and at["kind"] != mine["kind"]):
            raise about(GroupMismatchError(f"{who} is at {shown(at)}, this rank at {shown(mine)}"), rank)
        if at["number"] == mine["number"] and at["arguments"] != mine["arguments"]:
            difference = differences(at["arguments"], mine["arguments"])
            raise about(
                GroupMismatchError(f"{shown(mine)}: {who} came with other arguments than this rank: {difference}"), rank
            )

    def _check_alive(self, rank: int, at: Mapping[str, Any], deadline: Deadline) -> None:
        member = self.members[rank]
        who, last = member.named(rank), f"it was last at {shown(at)}"
        if has_come(self.client, rank, member.arrival + 1, deadline):
            now = hello_of(self.client, self._hello_sealer, rank, member.arrival + 1, deadline)
            raise about(
                GroupPeerError(
                    f"{who} was started again alone, as process {now.pid} of host {now.host}: {last}. "
                    "All ranks have to make the group again"
                ),
                rank,
            )
        if member.is_dead:
            raise about(GroupPeerError(f"{who} has ended; {last}"), rank)
        bye = self.key("bye", rank)
        if self.client.has([bye], deadline):
            if (said := self.unseal(rank, self.client.take([bye], deadline)[0], bye)) != b"":
                raise about(foreign(f"what {who} says when it leaves", said), rank)
            raise about(GroupPeerError(f"{who} has left the group; {last}"), rank)

    def _fail_late(self, missing: list[int], deadline: Deadline, what: str) -> NoReturn:
        grace = Deadline(TOLD_WITHIN_S)
        places = [f"{self.members[rank].named(rank)}, last at {shown(self.where(rank, grace))}" for rank in missing]
        raise about(
            GroupTimeoutError(f"{what}: waited {deadline.seconds} s, and nothing came from " + "; ".join(places)),
            *missing,
        )


class Collective:
    """One collective, as one rank goes through it: a context manager."""

    def __init__(
        self, group: Group, kind: str, number: int, at: Mapping[str, Any], deadline: Deadline, steps: Sequence[str]
    ) -> None:
        self.group = group
        self.deadline = deadline
        self._at = at
        self._name = f"{kind} {number}"
        self._prefix = ("collective", number)
        self._kind = kind
        self._steps = steps
        self._said: set[str] = set()

    def __enter__(self) -> Collective:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """An error is told to the others, where they wait for this rank's part."""
        grace = Deadline(max(self.deadline.left, TOLD_WITHIN_S))
        try:
            if isinstance(error, Exception):
                why = [type(error).__name__, str(error), list(getattr(error, "ranks", ()))]
                for step in self._steps:
                    if step not in self._said:
                        self._put(step, _FAILURE, json.dumps(why).encode(), grace)
            if self.group.client.count(self.group.key(*self._prefix, "done"), grace) == self.group.size:
                ranks = range(self.group.size)
                self.group.client.delete([self.key(step, rank) for step in self._steps for rank in ranks], grace)
                self.group.client.delete([self.group.key(*self._prefix, "done")], grace)
        except RingcastError:
            if error is None:
                raise

    def key(self, step: str, rank: int) -> str:
        return self.group.key(*self._prefix, self._kind, step, rank)

    def say(self, step: str, value: bytes) -> None:
        """This rank's part of a step."""
        self._put(step, _PART, value, self.deadline)
        self._said.add(step)

    def _put(self, step: str, tag: bytes, value: bytes, deadline: Deadline) -> None:
        """With what this rank came with: who hears it compares that."""
        came_with = json.dumps(self._at["arguments"]).encode()
        head = tag + len(came_with).to_bytes(4, "little") + came_with
        key = self.key(step, self.group.rank)
        self.group.client.put(key, self.group.sealer.seal(head + value, key), deadline)

    def hear(self, step: str, ranks: Sequence[int]) -> list[bytes]:
        """The parts of these ranks. Raises GroupError with what one of them failed with."""
        keys = {rank: self.key(step, rank) for rank in ranks}
        self.group.wait(keys, self.deadline, self._at, self._name)
        values = self.group.client.take(list(keys.values()), self.deadline)
        parts = []
        for rank, value in zip(ranks, values, strict=True):
            parts.append(self._part(rank, self.group.unseal(rank, value, keys[rank])))
        return parts

    def _part(self, rank: int, value: bytes) -> bytes:
        what = f"{self._name}: what came from {self.group.named([rank])}"
        tag, begin = value[:1], 5 + int.from_bytes(value[1:5], "little")
        if tag not in (_PART, _FAILURE) or len(value) < max(begin, 5):
            raise about(foreign(what, value), rank)
        arguments, body = parsed(value[5:begin], what), value[begin:]
        if type(arguments) is not dict:
            raise about(foreign(what, value), rank)
        self.group.compare(rank, {"number": self._at["number"], "kind": self._kind, "arguments": arguments}, self._at)
        if tag == _FAILURE and rank != self.group.rank:
            failure = parsed(body, what)
            if not is_failure(failure):
                raise about(foreign(what, failure), rank)
            kind, text, due_to = failure
            message = f"{self._name}: {self.group.named([rank])} failed: {kind}: {text}"
            raise about(KINDS.get(kind, GroupError)(message), *(due_to or [rank]))
        return body

    def exchange(self, step: str, value: bytes) -> list[bytes]:
        """All ranks' parts, each of which says its own."""
        self.say(step, value)
        return self.hear(step, range(self.group.size))

    def say_object(self, step: str, obj: Any) -> None:
        self.say(step, self.group.sealer.pack(obj))

    def objects(self, step: str, ranks: Sequence[int]) -> list[Any]:
        return [self.group.unpack(rank, value) for rank, value in zip(ranks, self.hear(step, ranks), strict=True)]


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={theirs.get(name)!r:.100}, here {mine.get(name)!r:.100}"
        for name in {**theirs, **mine}
        if theirs.get(name) != mine.get(name)
    )


def shown(at: Mapping[str, Any]) -> str:
    where = f"{at['kind']} {at['number']}" if at["number"] else "the meeting"
    return f"{where} and {at['besides']}" if at["besides"] else where

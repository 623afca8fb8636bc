"""Who is in a group: what each rank says of itself when it comes, and whether it still lives, as far as one can see."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ringcast._version import __version__
from ringcast.errors import GroupError, GroupMismatchError, GroupSecurityError
from ringcast.net._client import Client
from ringcast.net._deadline import Deadline
from ringcast.net._records import about, foreign, is_count, is_word, parsed
from ringcast.net._sealing import SECRET, Sealer


class Member(NamedTuple):
    """What a rank says of itself."""

    host: str
    pid: int
    boot: str
    """Which running system, and which pid namespace in it, `pid` belongs to; empty if that cannot be known."""
    started: str
    """When the process began, so that its number's next owner is not taken for it."""
    version: str
    incarnation: str
    """Random: another one for each time that a process comes."""
    arrival: int
    """How many have come as this rank, with this one."""
    arguments: dict[str, Any]
    """What all ranks have to agree on."""

    @classmethod
    def here(cls, arrival: int, arguments: dict[str, Any]) -> Member:
        return cls(
            socket.gethostname(), os.getpid(), _system(), _started(os.getpid()) or "", __version__,
            secrets.token_hex(8), arrival, arguments,
        )  # fmt: skip

    @classmethod
    def of(cls, fields: Any, what: str) -> Member:
        """From what JSON says. Raises GroupError, in which `what` says what it was read from."""
        version = fields.get("version") if type(fields) is dict else None
        if is_word(version) and version != __version__ and set(fields) != set(cls._fields):
            raise GroupMismatchError(f"{what} was written by ringcast {version}, and here is {__version__}")
        if type(fields) is not dict or set(fields) != set(cls._fields):
            raise foreign(what, fields)
        member = cls(**fields)
        words = (member.host, member.boot, member.started, member.version, member.incarnation)
        if not (
            all(map(is_word, words)) and is_count(member.pid) and is_count(member.arrival)
            and type(member.arguments) is dict
        ):  # fmt: skip
            raise foreign(what, fields)
        return member

    def to_json(self) -> bytes:
        return json.dumps(self._asdict()).encode()

    def say_hello(self, client: Client, sealer: Sealer, rank: int, deadline: Deadline) -> None:
        key = _hello(rank, self.arrival)
        client.put(key, sealer.seal(self.to_json(), key), deadline)

    def named(self, rank: int) -> str:
        return f"rank {rank} (host {self.host}, pid {self.pid})"

    @property
    def is_dead(self) -> bool:
        """Is it known that its process has ended? Of processes of other machines it never is."""
        return self._is_here and _started(self.pid) != self.started

    @property
    def is_known_to_live(self) -> bool:
        """Of processes of other machines it never is."""
        return self._is_here and _started(self.pid) == self.started

    @property
    def _is_here(self) -> bool:
        return bool(self.boot) and self.boot == _system()


def has_come(client: Client, rank: int, arrival: int, deadline: Deadline) -> bool:
    """Has somebody come as this rank, as the n-th one?"""
    return client.has([_hello(rank, arrival)], deadline)


def hello_of(client: Client, sealer: Sealer, rank: int, arrival: int, deadline: Deadline) -> Member:
    """What he said who has. Raises GroupError."""
    key = _hello(rank, arrival)
    what = f"what rank {rank} says of itself"
    try:
        text = sealer.unseal(client.take([key], deadline)[0], key, f"rank {rank}")
        member = Member.of(parsed(text, what), what)
        if member.arrival != arrival:
            raise foreign(what, text)
    except GroupSecurityError as error:
        raise about(GroupMismatchError(f"{error}. All ranks need the same {SECRET}"), rank) from error
    except GroupError as error:
        raise about(error, rank) from error
    return member


def _hello(rank: int, arrival: int) -> str:
    return f"hello/{rank}/{arrival}"


def _system() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """None if there is no such process, or only what is left of it until its parent asks for its exit code."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return fields[19]
    return None

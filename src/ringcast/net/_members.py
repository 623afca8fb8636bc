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
from ringcast.errors import GroupError


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
    secret: str
    """What shows whether two have the same RINGCAST_SECRET and tells nothing else of it; empty without one."""
    arguments: dict[str, Any]
    """What all ranks have to agree on."""

    @classmethod
    def here(cls, arrival: int, secret: str, arguments: dict[str, Any]) -> Member:
        return cls(
            socket.gethostname(), os.getpid(), _system(), _started(os.getpid()) or "", __version__,
            secrets.token_hex(8), arrival, secret, arguments,
        )  # fmt: skip

    @classmethod
    def of(cls, text: bytes) -> Member:
        """From JSON. Raises GroupError."""
        try:
            fields = json.loads(text)
            member = cls(**fields)
        except (ValueError, TypeError) as error:
            raise GroupError(f"a rank says of itself what this release does not understand: {error}") from error
        kinds = (str, int, str, str, str, str, int, str, dict)
        if any(type(value) is not kind for value, kind in zip(member, kinds, strict=True)):
            raise GroupError(f"a rank says of itself what this release does not understand: {fields!r:.200}")
        return member

    def to_json(self) -> bytes:
        return json.dumps(self._asdict()).encode()

    def named(self, rank: int) -> str:
        return f"rank {rank} (host {self.host}, pid {self.pid})"

    @property
    def is_dead(self) -> bool:
        """Is it known that its process has ended? Of processes of other machines it never is."""
        if not self.boot or self.boot != _system():
            return False
        return _started(self.pid) != self.started


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

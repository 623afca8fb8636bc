"""What a process has open, for those who end it: objects that come and go in any thread while somebody looks.

Each change and each look is one step of the interpreter's own, so that neither another thread, nor a finalizer, nor a
signal's handler comes in between, and nothing is locked that one of these, or a fork, could find locked. Each entry
says whose it is: what a forked child has inherited is there, and not its own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by identity. They are held weakly, or, with `keep`, for as long as they are in."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._entries: dict[int, tuple[int, Callable[[], T | None]]] = {}  # by identity: the process, and the object

    def add(self, one: T) -> None:
        entry = partial(_itself, one) if self._keep else weakref.ref(one, partial(_forget, self._entries, id(one)))
        self._entries[id(one)] = os.getpid(), entry

    def discard(self, one: T) -> None:
        self._entries.pop(id(one), None)

    def __contains__(self, one: object) -> bool:
        return id(one) in self._entries  # whose identity nobody else has while it lives, and no dead one has an entry

    def own(self) -> list[T]:
        """Those that this process has added, the earliest first, as of now."""
        return [one for pid, one in self._living() if pid == os.getpid()]

    def inherited(self) -> list[T]:
        """Those that were added before this process was forked."""
        return [one for pid, one in self._living() if pid != os.getpid()]

    def _living(self) -> list[tuple[int, T]]:
        entries = self._entries.copy().values()
        return [(pid, one) for pid, get in entries if (one := get()) is not None]


def _itself(one: T) -> T:
    return one


def _forget(entries: dict[int, Any], identity: int, _: object) -> None:
    entries.pop(identity, None)

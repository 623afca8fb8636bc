"""One call under way: who has to answer yet, what has been answered, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from ringcast.workers._failures import Failure, note, one_of, unpacked

if TYPE_CHECKING:
    from ringcast.workers._future import CallFuture

popleft = methodcaller("popleft")


def move_first(source: deque[Any], target: deque[Any]) -> None:
    """In one native step, so that an interruption finds it in one of the two."""
    target.extend(map(popleft, (source,)))


class Call:
    """Belongs to whoever made it; the answers are put into it by whoever reads them."""

    __slots__ = (
        "alone", "asked_at", "done", "errors", "expires", "future", "given_up", "items", "name", "number", "ranks",
        "results", "times", "waiting", "wake",
    )  # fmt: skip

    def __init__(self, name: Any, ranks: tuple[int, ...], alone: bool, seconds: float | None) -> None:
        self.name: Any = name
        self.ranks: tuple[int, ...] = ranks
        self.alone: bool = alone
        """The result is that of the one rank, not a list."""
        self.number: int = -1
        self.waiting: set[int] = set(ranks)
        """Who has not answered."""
        self.results: dict[int, Any] = {}
        self.times: dict[int, float] = {}
        """When those who have answered did."""
        self.errors: Sequence[tuple[int, Failure | BaseException]] = ()
        self.done: bool = False
        """Nobody waits for more: it is complete, has failed, has expired or was given up."""
        self.given_up: bool = False
        """Its ranks have been told so."""
        self.wake: threading.Event | None = None
        """Of one who waits while somebody else reads."""
        self.future: CallFuture[Any] | None = None
        self.items: deque[Any] | None = None
        """Of a stream: the records of items that have come and were not taken yet."""
        self.asked_at: float = time.monotonic()
        self.expires: float | None = None if seconds is None else self.asked_at + seconds
        """Its deadline, by the clock of `time.monotonic`."""

    def fail(self, rank: int, error: Failure | BaseException) -> None:
        """Any number of times for the same rank."""
        if all(rank != other for other, _ in self.errors):
            self.errors = (*self.errors, (rank, error))

    @property
    def told(self) -> str:
        """ "call 7, 'step'"."""
        name = self.name if isinstance(self.name, str) else getattr(self.name, "__qualname__", repr(self.name))
        return f"call {self.number}, {name!r}"

    def left(self) -> float | None:
        """Seconds until its deadline."""
        return None if self.expires is None else self.expires - time.monotonic()

    def finish(self) -> None:
        self.done = True
        if self.wake is not None:
            self.wake.set()

    def outcome(self) -> Any:
        """The result; raises what the workers raised."""
        if self.errors:
            raise self.error()
        return self.result(self.results)

    def result(self, results: dict[int, Any]) -> Any:
        """The result that these make up, of all ranks."""
        if self.alone:
            return results[self.ranks[0]]
        return [results[rank] for rank in self.ranks]

    def error(self) -> BaseException:
        doing = f"in {self.told}"
        errors = self.errors  # as they are now: others may still come
        told = [unpacked(it, rank, doing) if isinstance(it, Failure) else it for rank, it in errors]
        error = one_of(told, self.told)
        still = sorted(self.waiting - {rank for rank, _ in errors})
        if still:
            ranks = ", ".join(map(str, still))
            note(error, f"rank{'s' if len(still) > 1 else ''} {ranks} had not answered; what they answer is dropped")
        return error

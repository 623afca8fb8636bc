"""One call under way: who has to answer yet, what has been answered, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ringcast.workers._failures import Failure, note, one_of, unpacked

if TYPE_CHECKING:
    from ringcast.workers._future import CallFuture


class Call:
    """Belongs to whoever made it; the answers are put into it by whoever reads them."""

    number = -1
    waiting: set[int]
    """Who has not answered."""
    results: dict[int, Any]
    errors: Sequence[tuple[int, Failure | BaseException]] = ()
    expires: float | None = None
    """Its deadline, by the clock of `time.monotonic`."""
    done: bool = False
    """Nobody waits for more: it is complete, has failed, has expired or was given up."""
    wake: threading.Event | None = None
    """Of one who waits while somebody else reads."""
    future: CallFuture[Any] | None = None
    items: deque[tuple[int, Any]] | None = None
    """Of a stream: what has come, (rank, item), and was not taken yet."""

    def __init__(self, name: Any, ranks: tuple[int, ...], alone: bool, seconds: float | None) -> None:
        self.name = name
        self.ranks = ranks
        self.alone = alone
        """The result is that of the one rank, not a list."""
        self.waiting = set(ranks)
        self.results = {}
        self.times: dict[int, float] = {}
        """When those who have answered did."""
        self.asked_at: float = time.monotonic()
        if seconds is not None:
            self.expires = self.asked_at + seconds

    def fail(self, rank: int, error: Failure | BaseException) -> None:
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
        results = self.results
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

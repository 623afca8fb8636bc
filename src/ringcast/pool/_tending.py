"""The threads that do tiers' work for a pool's server, if it is not native, and one that logs what fails.

A native tier's work is done by native threads (src/core/pool/tier_work.hpp); which of it is done when is the server's
to say, for both (src/core/pool/tier_driver.hpp).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from ringcast import _core
from ringcast._arguments import refuse
from ringcast._mishaps import named, shown, tell
from ringcast.errors import ArgumentError, CorruptError
from ringcast.pool.tiers import FileTier, Tier
from ringcast.pool.tiers._jobs import one_for_each

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("ringcast.pool")

MOST_TIERS = 4
_LOOK_S = 1.0
"""How often it looks whether something has failed."""
_abandoned: list[object] = []
"""Tiers, and servers of them, whose threads have not come back: what these use stays."""


def checked_tiers(tiers: Iterable[Tier]) -> list[Tier]:
    """Open tiers, each once."""
    if isinstance(tiers, Tier) or not isinstance(tiers, Iterable):
        raise refuse("tiers", "a list of tiers, the fastest first", tiers)
    found = list(tiers)
    for tier in found:
        if not isinstance(tier, Tier):
            raise refuse("a tier", "a Tier, such as FileTier or ObjectTier", tier)
        tier._check_open()
    if len(found) > MOST_TIERS:
        raise ArgumentError(f"tiers must be at most {MOST_TIERS}, not {len(found)}")
    if len({id(tier) for tier in found}) != len(found):
        raise ArgumentError("tiers must be different ones")
    return found


def as_core(tiers: Sequence[Tier]) -> list[tuple[str, _core.FileTier | None, int]]:
    """What the core is told of them: what to call each, the native one, how many threads it has."""
    names = [type(tier).__name__ for tier in tiers]
    return [
        (
            name if names.count(name) == 1 else f"{name} {names[: number + 1].count(name)}",
            tier._core if isinstance(tier, FileTier) else None,
            tier._thread_count,
        )
        for number, (name, tier) in enumerate(zip(names, tiers, strict=True))
    ]


class Tending:
    """The threads of one server, from its start to its end; they are nobody's to wait for."""

    def __init__(self, pool: str, core: _core.PoolServer, tiers: Sequence[Tier]) -> None:
        self._pool = pool
        self._core = core
        self._tiers = tiers
        self._ended = threading.Event()
        self._memory: memoryview | None = None
        self._registered: list[Tier] = []

    def begin(self) -> None:
        """Raises RuntimeError if no thread can be had; `end` is right for whatever there is then."""
        self._register([tier for tier in self._tiers if type(tier).register is not Tier.register])
        for number, tier in enumerate(self._tiers):
            for _ in range(0 if isinstance(tier, FileTier) else tier._thread_count):
                self._start(_work, self._core, number, tier)
        self._start(self._tell)

    def end(self) -> None:
        """After the core has been closed: closes the tiers, but for those from which a thread has not come back."""
        self._ended.set()
        if self._core.abandoned:
            _abandoned.append((self._core, self._tiers))
            log.warning(
                "pool '%s': a tier has not come back; its threads and its file are left as they are", self._pool
            )
            return
        for tier in self._registered:
            self._try("unregistered", tier, tier.unregister)
        for tier in self._tiers:
            try:
                tier.close()
            except Exception as error:
                tell(log, "pool '%s': %s could not be closed: %s", self._pool, named(tier), shown(error))
        if self._memory is not None:
            with suppress(BufferError):  # a tier keeps a view
                self._memory.release()

    def _register(self, tiers: Sequence[Tier]) -> None:
        """The pool's memory with these tiers. With whom that fails, copies."""
        if tiers:
            self._memory = _core.served_memory(self._core)
        self._registered = [tier for tier in tiers if self._try("registered", tier, tier.register)]

    def _try(self, what: str, tier: Tier, do: Callable[[memoryview], None]) -> bool:
        assert self._memory is not None
        try:
            do(self._memory)
        except Exception as error:
            tell(log, "pool '%s': its memory could not be %s with %s: %s", self._pool, what, named(tier), shown(error))
            return False
        return True

    def _start(self, body: object, *arguments: object) -> None:
        name = f"ringcast tiers of {self._pool}"
        threading.Thread(target=body, args=arguments, name=name, daemon=True).start()  # type: ignore[arg-type]

    def _tell(self) -> None:
        """Logs what fails, ever less often: at the first, second, fourth, eighth time."""
        logged = [0] * len(self._tiers)
        while not self._ended.wait(_LOOK_S):
            try:
                found = self._core.tier_errors()
            except Exception as error:
                tell(log, "pool '%s': it cannot be said what has failed: %s", self._pool, shown(error))
                continue
            for number, (times, text) in enumerate(found):
                if times.bit_length() > logged[number]:
                    logged[number] = times.bit_length()
                    tier = named(self._tiers[number])
                    tell(log, "pool '%s': %s has failed %d times; the last: %s", self._pool, tier, times, text)


def _work(core: _core.PoolServer, number: int, tier: Tier) -> None:
    while True:
        job = _core.take_tier_job(core, number)
        if job is None:
            return
        outcome, error = "failed", ""
        found: list[bool] = []
        try:
            outcome, found = _done(tier, job)
        except BaseException as raised:
            outcome, error = "corrupt" if isinstance(raised, CorruptError) else "failed", shown(raised)
        job.finish(outcome, found, error)
        del job


def _done(tier: Tier, job: _core.PoolTierJob) -> tuple[str, list[bool]]:
    if job.task == "find":
        return "done", one_for_each(job.keys, tier.exists(job.keys).result())
    if job.task == "clear":
        tier.clear()
        return "done", []
    if job.task == "remove":
        return "done" if tier.remove_chunk(job.key) else "absent", []
    memory = job.memory
    try:
        if job.task == "store":
            return "done" if tier._store_checked(job.key, memory) else "refused", []
        return "done" if tier._load_checked(job.key, memory) else "absent", []
    finally:
        with suppress(BufferError):  # the tier keeps a view: the server has the chunk back once that is gone
            memory.release()

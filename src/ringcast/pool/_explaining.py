"""Why a lookup misses: what is there, what was there, and what is there under another namespace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ringcast import _core
from ringcast._arguments import refuse
from ringcast.errors import ArgumentError, ArgumentTypeError
from ringcast.pool._events import PoolEvent, attached
from ringcast.pool._keys import TOKENS_OF_A_CHUNK, Keys, chunk_keys, keys_from_hashes
from ringcast.pool._namespace import Namespace

Verdict = Literal[
    "present", "pending", "tiered", "evicted", "orphaned", "damaged", "failed", "cleared", "gone", "not stored"
]

_TOLD: dict[Verdict, str] = {
    "present": "is in the pool",
    "pending": "is being stored",
    "tiered": "is in a tier, and not in memory",
    "evicted": "was evicted for what was stored later",
    "orphaned": "went with the chunk that it continued",
    "damaged": "was removed, since its bytes were not what was stored",
    "failed": "could not be brought back from its tier",
    "cleared": "was cleared",
    "gone": "was stored, and has gone",
    "not stored": "has not been stored",
}
_FIELDS = ("model", "revision", "dtype", "layout", "shards", "group", "chained", "salt_digest")


class Elsewhere(NamedTuple):
    """A namespace under which the same tokens are in the pool, and in what it differs from the one asked for."""

    digest: str
    """Of the namespace, in hex."""
    differs: dict[str, tuple[Any, Any]]
    """By field of `Namespace.record`: what it is there, and what was asked for."""


class Explanation(NamedTuple):
    """What became of one key."""

    chunk: int
    """Its place among the keys, from 0."""
    key: bytes
    verdict: Verdict
    """"not stored": as far back as the pool remembers its events."""
    at_ns: int
    """When it was stored or went, by the wall clock; 0: not known."""
    first_missing: int | None
    """The first chunk of its chain that is not there, if that is before it: without that it is of no use."""
    elsewhere: list[Elsewhere]

    def __str__(self) -> str:
        told = f"chunk {self.chunk} {_TOLD[self.verdict]}"
        if self.at_ns:
            told += f", {_ago(time.time_ns() - self.at_ns)} ago"
        if self.first_missing is not None:
            told += f"; chunk {self.first_missing} before it is missing"
        for one in self.elsewhere:
            fields = ", ".join(
                f"{field} {there!r} instead of {asked!r}" for field, (there, asked) in one.differs.items()
            )
            told += f"; it is there for another namespace ({fields or 'another salt'})"
        return told


def explain(
    name: str,
    space: Namespace,
    *,
    tokens: Any = None,
    hashes: Sequence[bytes | int] | None = None,
    chunk_size: int = TOKENS_OF_A_CHUNK,
    every: int = 1,
) -> list[Explanation]:
    """Why a lookup of these tokens' or hashes' keys finds what it finds in the pool of this name, key by key.

    Args:
        space: the namespace that the lookup is made with.
        tokens: what `chunk_keys` takes, with `chunk_size`; or
        hashes: what `keys_from_hashes` takes, with `every`.

    What went is told as far back as the pool's last events go (1,024 to 65,536 of them, by the number of its entries).
    The pool is also searched under every other namespace that it has a record of. Takes no seat and asks no server.
    Raises PoolConnectError if there is no such pool.

    >>> right = Namespace("m", dtype="uint8", layout="bytes")
    >>> wrong = Namespace("m", dtype="int8", layout="bytes")
    >>> with PoolServer("docs-explain", "1MiB"), PoolClient.connect("docs-explain", layout=4096) as client:
    ...     _ = client.commit_store(client.prepare_store(chunk_keys(range(256), right)))
    ...     [why] = explain("docs-explain", wrong, tokens=range(256))
    >>> why.verdict, why.elsewhere[0].differs
    ('not stored', {'dtype': ('uint8', 'int8')})
    """
    if not isinstance(space, Namespace):
        raise refuse("space", "a Namespace", space)
    if (tokens is None) == (hashes is None):
        raise ArgumentError("give either tokens or hashes")

    def keys_in(one: Namespace) -> Keys:
        if hashes is not None:
            return keys_from_hashes(hashes, one, every)
        return chunk_keys(tokens, one, chunk_size)

    memory = attached(name)
    keys = keys_in(space)
    states = memory.states(keys)
    journal = _Journal(memory)
    elsewhere = _elsewhere(memory, space, keys_in, len(keys))
    found: list[Explanation] = []
    first_missing: int | None = None
    for index, (key, state) in enumerate(zip(keys, states, strict=True)):
        verdict, at_ns = journal.verdict(key, state)
        found.append(Explanation(index, key, verdict, at_ns, first_missing, elsewhere[index]))
        if state == "missing" and first_missing is None and space.chained:
            first_missing = index
    return found


class _Journal:
    """The last event of each key, and what was cleared since."""

    def __init__(self, memory: _core.PoolMemory) -> None:
        self._last: dict[bytes, PoolEvent] = {}
        self._cleared: list[PoolEvent] = []
        number, following = -1, 0
        while following != number:
            number = following
            found, following, _ = memory.events(number, 4096)
            for event in map(PoolEvent._make, found):
                if event.key is not None:
                    self._last[event.key] = event
                elif event.kind == "cleared":
                    self._cleared.append(event)

    def verdict(self, key: bytes, state: str) -> tuple[Verdict, int]:
        last = self._last.get(key)
        if state == "present":
            return "present", last.at_ns if last is not None and last.kind == "stored" else 0
        if state == "pending":
            return "pending", 0
        if state == "tiered":
            return "tiered", last.at_ns if last is not None else 0
        if last is None:
            return "not stored", 0
        if last.kind == "removed":
            return last.reason or "gone", last.at_ns
        for event in self._cleared:
            if event.number > last.number and event.space in {None, last.space}:
                return "cleared", event.at_ns
        return "gone", 0


def _elsewhere(memory: _core.PoolMemory, space: Namespace, keys_in: Any, count: int) -> list[list[Elsewhere]]:
    """For each key, under which other namespaces it is there."""
    found: list[list[Elsewhere]] = [[] for _ in range(count)]
    for digest, salt_digest, packed in memory.spaces():
        other = Namespace._recorded(digest, salt_digest, packed)
        if other is None or digest == space.digest:
            continue
        there, asked = other.record, space.record
        differs = {field: (there[field], asked[field]) for field in _FIELDS if there[field] != asked[field]}
        try:
            keys = keys_in(other)
        except (ArgumentError, ArgumentTypeError):
            continue
        for index, state in enumerate(memory.states(keys)):
            if state in {"present", "tiered"}:
                found[index].append(Elsewhere(digest.hex(), differs))
    return found


def _ago(ns: int) -> str:
    seconds = max(ns, 0) / 1e9
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"

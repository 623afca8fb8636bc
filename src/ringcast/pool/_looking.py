"""Pools seen from outside: which there are, what is in them, who uses them. Looking takes no seat."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypedDict, cast

from ringcast import _core
from ringcast._names import POOL_PREFIX, other_owners, pool_segment_name, suffix
from ringcast._version import __version__
from ringcast.errors import PoolConnectError, PoolError, RingcastError, SegmentError, SegmentNotFoundError
from ringcast.pool import _huge_pages

SCHEMA = 1
"""Counts up when the meaning of a field below changes."""


class _Counters(TypedDict):
    """What was looked up and retrieved."""

    lookups: int
    keys_looked_up: int
    keys_found: int
    retrieves: int
    keys_retrieved: int
    """How many keys were wanted."""
    hits: int
    """How many of those were got."""


class PoolClientStats(_Counters):
    """A client of a pool. What it looked up and retrieved is counted since it took its seat."""

    seat: int
    forked: bool
    """Is it held by forked children of a client, for views that they inherited? They ask for nothing."""
    worker_id: str
    pid: int
    """Of forked children, the last one's."""
    alive: bool
    since_ns: int
    """When it took its seat, by the wall clock."""
    pins: int
    """How many chunks, or runs of chunks, it holds."""
    oldest_pin_s: float
    """For how long it has held the one that it has held longest; 0.0: it holds none."""


class PoolPin(TypedDict):
    """A chunk, or the end of a run of chunks, that a living client holds."""

    seat: int
    worker_id: str
    pid: int
    age_s: float
    key: str
    """In hex."""


class PoolTenant(TypedDict):
    """Whose chunks they are: those of all namespaces with one salt."""

    salt_digest: str
    """The first 8 bytes, in hex, of what `salt_digest` makes of the salt; chunks without one have b"" as theirs."""
    chunks: int
    used_bytes: int
    """As its quota counts them: of a chunk of several parts with four bytes for the checksum of each."""
    quota: int | None


class PoolTierStats(TypedDict):
    """A tier, as the pool's server drives it; since that server was started."""

    name: str
    local: bool
    """Is it on this machine, and what it has in the index, where lookups see it?"""
    slots: int
    """How many chunks it has room for; 0: not known."""
    chunks: int
    """How many chunks of the index have a copy there."""
    stored: int
    stored_bytes: int
    store_rate: float
    """Bytes for each second that a thread spent on them, as the other rate."""
    wanted: int
    """How often a chunk was to come from there into memory."""
    hits: int
    """How often it did."""
    loaded_bytes: int
    load_rate: float
    dropped: int
    """Copies that were not made: too many waited, or the chunk had gone when it was its turn."""
    failed: int
    """Calls that the system, or a service, refused."""
    corrupt: int
    """Chunks whose bytes were not those that had been stored; such a copy is dropped."""
    late: int
    """Chunks that nobody waits for any more, since nothing came from the tier for too long."""
    waiting: int
    """Chunks that are to be moved, either way."""
    running: int
    """Jobs that its threads have."""


class PoolStats(_Counters):
    """What a pool is, what is in it, who uses it. Bytes are those of chunks; counts are since the pool was made.

    What was looked up and retrieved is that of all clients that there have been; of a killed one as far as it came.
    """

    schema: int
    name: str
    segment: str
    epoch: int
    """How many servers it has had."""
    server: Literal["living", "stopped", "gone"]
    server_pid: int
    closed: bool
    """Has its server ended it in order?"""
    kept: bool
    """Does it stay when its server ends, and when nobody has it?"""
    checksums: bool
    created_at_ns: int
    capacity: int
    entries: int
    """How many chunks there may be."""
    policy: str
    huge_page_bytes: int | None
    """What its server maps with huge pages; None: the system does not tell, or `list_pools` does not ask."""
    used_bytes: int
    chunks: int
    reserved: int
    """Chunks that are being stored."""
    limbo: int
    """Chunks that are gone, but for somebody who still holds them."""
    quarantined: int
    """Chunks whose bytes were not what was stored: their memory is not used again before the next server."""
    stored: int
    evicted: int
    aborted: int
    cleared: int
    no_memory: int
    full_buckets: int
    refused: int
    events: int
    """How many there have been: the number of the next one that `watch` gives."""
    tiers: list[PoolTierStats]
    """The fastest first."""
    tenants: list[PoolTenant]
    """Those with chunks, the largest first, and those with a quota (of more than 64 quotas 64)."""
    curve: dict[str, dict[str, float]]
    """By policy, by size ("0.5", "1", "2" and "4" times the capacity): the share of accesses that would be hits.

    From a sample of what was asked of this server; empty before the first store.
    """
    curve_accesses: int
    """How many accesses to chunks that is from; older ones count less."""
    curve_lost: int
    """Accesses that came too fast to be counted."""
    spaces: int
    """How many namespaces it has records of; see `explain`."""
    spaces_without_room: int
    """How often a record was not kept, for it has only so much room."""
    oldest_pins: list[PoolPin]
    """The eight that have been held longest, the oldest first."""
    clients: list[PoolClientStats]


class UnreadablePool(NamedTuple):
    """What has a pool's name and cannot be looked at; `error` says why."""

    segment: str
    error: str


class FoundPools(NamedTuple):
    """What `list_pools` returns, each in the order of the segments' names."""

    pools: list[PoolStats]
    unreadable: list[UnreadablePool]


def as_stats(described: dict[str, Any], look_closely: bool) -> PoolStats:
    """What the core says of a pool, and what else there is to know; `look_closely`: also what may take seconds."""
    huge = _huge_pages.mapped_bytes(described["segment"], described["server_pid"]) if look_closely else None
    tiers = [_with_rates(tier) for tier in described["tiers"]]
    return cast(PoolStats, {"schema": SCHEMA, **described, "tiers": tiers, "huge_page_bytes": huge})


def _with_rates(tier: dict[str, Any]) -> dict[str, Any]:
    for what, done in (("store", "stored"), ("load", "loaded")):
        nanoseconds = tier.pop(f"{what}_ns")
        tier[f"{what}_rate"] = tier[f"{done}_bytes"] * 1e9 / nanoseconds if nanoseconds else 0.0
    return tier


def describe(name: str) -> PoolStats:
    """What the pool of this name is, what is in it, who uses it. Raises PoolConnectError if there is none.

    >>> with PoolServer("docs-described", "1MiB"):
    ...     described = describe("docs-described")
    >>> described["server"], described["chunks"], described["clients"]
    ('living', 0, [])
    """
    try:
        return as_stats(_core.PoolMemory(pool_segment_name(name), __version__).described(), look_closely=True)
    except SegmentError as error:
        raise PoolConnectError(not_reached(name, error)) from error


def not_reached(name: str, error: SegmentError) -> str:
    """Why a pool cannot be had, and what to do if there is none."""
    label, text = f"pool '{name}'", str(error)
    text = text if text.startswith(label) else f"{label}: {text}"
    if not isinstance(error, SegmentNotFoundError):
        return text
    if owners := other_owners(pool_segment_name(name)):
        users = ", ".join(map(str, owners))
        return f"{text}; one of uid {users} has that name, but each user has pools of his own, and only he may connect"
    return f"{text}: start its server first (ringcast pool serve {name} --size SIZE), by the same user"


def list_pools() -> FoundPools:
    """Every pool of this user, those of dead servers too. Raises SystemCallError only if they cannot be listed.

    >>> with PoolServer("docs-listed", "1MiB"):
    ...     found = list_pools()
    >>> [pool["capacity"] for pool in found.pools if pool["name"] == "docs-listed"]
    [1048576]
    """
    found = FoundPools([], [])
    for segment in _core.list_names(POOL_PREFIX):
        if not segment.endswith(suffix()):
            continue
        try:
            found.pools.append(as_stats(_core.PoolMemory(segment, __version__).described(), look_closely=False))
        except SegmentNotFoundError:
            continue
        except RingcastError as error:
            found.unreadable.append(UnreadablePool(segment, str(error)))
    return found


def remove(name: str) -> None:
    """Remove the pool of this name, which nobody has any more: a kept one, or what a dead server left.

    Raises PoolConnectError if there is none, and PoolError if it cannot be removed, with who has it or what is in the
    way.

    >>> PoolServer("docs-removed", "1MiB", keep=True).start().close()
    >>> remove("docs-removed")
    """
    segment = pool_segment_name(name)
    outcome = _core.remove_pool(segment)
    if outcome == "":
        raise PoolConnectError(f"there is no pool '{name}'")
    if outcome == "alive":
        raise PoolError(f"pool '{name}' cannot be removed: {_who_has(name)}")
    if outcome != "removed":
        why = "another process is just removing it" if outcome == "removing" else outcome
        raise PoolError(f"pool '{name}' cannot be removed: {why}")


def _who_has(name: str) -> str:
    try:
        pool = describe(name)
    except PoolConnectError:
        return "somebody has it"
    if pool["server"] != "gone":
        return f"its server is {pool['server']} (pid {pool['server_pid']}); end that first"
    living = [f"{client['worker_id']} (pid {client['pid']})" for client in pool["clients"] if client["alive"]]
    return f"its server is gone, but clients have it: {', '.join(living) or 'one that has just come or gone'}"

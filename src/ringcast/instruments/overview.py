"""Everything of this user at one glance, again and again: what `ringcast top`, its exporter and its metrics show.

`Observer.look` is the whole picture, with rates since the look before; `Observer.glance`, some microseconds for each
queue, only sees who sleeps for what, and is called in between. Neither takes a seat, stores anything in shared memory
or asks a process anything: who is stopped or killed holds nobody up.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import TypedDict

from ringcast import _core
from ringcast._names import LINK_PREFIX, POOL_PREFIX, PREFIX, suffix
from ringcast._stats import StreamStats
from ringcast._version import __version__
from ringcast.errors import RingcastError, SegmentNotFoundError
from ringcast.instruments.blocking import Blocked, in_pool
from ringcast.instruments.groups import GroupView, groups_of
from ringcast.instruments.processes import Processes, ProcessStats
from ringcast.instruments.watched import QueueView, Watched, has_its_name, rescued_wakes
from ringcast.pool import PoolStats, list_pools

SCHEMA = 1
_SPARED_FILES = 128
"""The mapping of each queue is kept from one look to the next, and takes a descriptor; so many are left to others."""


class LinkView(StreamStats):
    """A stream of a queue to (`way` is "to") or from another machine; rates in bytes for each second."""

    queue: str
    way: str
    host: str | None
    send_rate: float | None
    receive_rate: float | None


class PoolView(PoolStats):
    """A pool, with what its counters grew by for each second since the last look; empty after the first one."""

    rates: dict[str, float]
    blocked: list[Blocked]


class Overview(TypedDict):
    """What `Observer.look` returns, fit for JSON. `seconds` is since the last look, None of the first.

    `lost_wakeups` are those that were seen from outside, `rescued_wakes` what the ends that are there have counted.
    """

    schema: int
    at_ns: int
    seconds: float | None
    queues: list[QueueView]
    groups: list[GroupView]
    links: list[LinkView]
    pools: list[PoolView]
    processes: list[ProcessStats]
    blocked: list[Blocked]
    lost_wakeups: int
    rescued_wakes: int
    unreadable: list[str]


class Observer:
    """Looks at all queues, links, worker groups and pools of this user. For one thread at a time.

    >>> from ringcast import MessageQueue
    >>> queue, observer = MessageQueue(1, name="docs-watched"), Observer()
    >>> [one["rate"] for one in observer.look()["queues"] if one["name"] == "docs-watched"]
    [None]
    >>> queue.enqueue("something")
    >>> [one["rate"] > 0 for one in observer.look()["queues"] if one["name"] == "docs-watched"]
    [True]
    """

    def __init__(self) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_kept = sys.maxsize if files == resource.RLIM_INFINITY else max(0, files - _SPARED_FILES)
        self._watched: dict[str, Watched] = {}
        self._processes = Processes()
        self._looked_at: float | None = None
        self._blocked_since: dict[tuple[str, str, str], float] = {}
        self._pools: dict[tuple[str, int], dict[str, int]] = {}
        self._wires: dict[tuple[int, str, int], tuple[int, int]] = {}
        self._lost = 0
        """Of queues that are gone."""

    def glance(self) -> None:
        """Sees who sleeps for what, in the queues of the last look. Raises nothing.

        >>> observer = Observer()
        >>> before = observer.look()
        >>> observer.glance()
        """
        for watched in self._watched.values():
            watched.glance()

    def look(self) -> Overview:
        """Everything. Raises SystemCallError only if the segments cannot be listed.

        >>> overview = Observer().look()
        >>> overview["lost_wakeups"], overview["seconds"]
        (0, None)
        """
        now = time.monotonic()
        seconds = None if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        queues, unreadable = self._queues()
        found = list_pools()
        pools = self._rated(found.pools, seconds)
        unreadable += [f"{one.segment}: {one.error}" for one in found.unreadable]
        groups = list(groups_of(queues))
        blocked = self._aged([one for view in (*queues, *pools) for one in view["blocked"]], now)
        return {
            "schema": SCHEMA,
            "at_ns": time.time_ns(),
            "seconds": seconds,
            "queues": queues,
            "groups": groups,
            "links": self._links(queues, seconds),
            "pools": pools,
            "processes": self._processes.look(_roles(queues, groups, pools)),
            "blocked": blocked,
            "lost_wakeups": self._lost + sum(view["lost_wakeups"] for view in queues),
            "rescued_wakes": sum(rescued_wakes(view) for view in queues),
            "unreadable": unreadable,
        }

    def _queues(self) -> tuple[list[QueueView], list[str]]:
        views: list[QueueView] = []
        unreadable: list[str] = []
        ending, kept = suffix(), self._watched
        self._watched = {}
        for name in _core.list_names(PREFIX):
            if name.startswith((LINK_PREFIX, POOL_PREFIX)) or not name.endswith(ending):
                continue
            watched = kept.get(name)
            try:
                view = None if watched is None else watched.look()
                # Whose creator lives has its name still; another one's may be a new queue's by now.
                if watched is None or view is None or not has_its_name(view):
                    segment = _core.Segment.attach(name, __version__, observe=True)
                    if watched is None or view is None or watched.segment.epoch != segment.epoch:
                        watched = Watched(segment)
                        view = watched.look()
                        if name in kept:
                            self._forget(kept.pop(name))
                views.append(view)
            except SegmentNotFoundError:
                continue
            except RingcastError as error:
                unreadable.append(f"{name}: {error}")
                continue
            kept.pop(name, None)
            if len(self._watched) < self._most_kept:
                self._watched[name] = watched
        for gone in kept.values():
            self._forget(gone)
        return views, unreadable

    def _forget(self, watched: Watched) -> None:
        self._lost += watched.lost

    def _rated(self, pools: Iterable[PoolStats], seconds: float | None) -> list[PoolView]:
        counted: dict[tuple[str, int], dict[str, int]] = {}
        views: list[PoolView] = []
        for pool in pools:
            key = pool["segment"], pool["created_at_ns"]
            now = counted[key] = {what: pool[what] for what in _POOL_COUNTERS}  # type: ignore[literal-required]
            before = self._pools.get(key)
            rates = {what: (now[what] - before[what]) / seconds for what in now} if before and seconds else {}
            views.append({**pool, "rates": rates, "blocked": in_pool(pool)})
        self._pools = counted
        return views

    def _links(self, queues: Iterable[QueueView], seconds: float | None) -> list[LinkView]:
        wires: dict[tuple[int, str, int], tuple[int, int]] = {}
        views: list[LinkView] = []

        def add(queue: QueueView, way: str, seat: int, host: str | None, stream: StreamStats) -> None:
            key = queue["epoch"], way, seat
            wires[key] = now = stream["bytes_sent"], stream["bytes_received"]
            before = self._wires.get(key)
            rates = [(now[i] - before[i]) / seconds if before and seconds else None for i in (0, 1)]
            views.append({
                "queue": queue["name"] or queue["segment"], "way": way, "host": host, "send_rate": rates[0],
                "receive_rate": rates[1], "pid": stream["pid"], "alive": stream["alive"], "process": stream["process"],
                "out_of_reach_s": stream["out_of_reach_s"], "bytes_sent": now[0], "bytes_received": now[1],
                "reconnects": stream["reconnects"], "encrypted": stream["encrypted"], "under_way": stream["under_way"],
                "waits": stream["waits"],
            })  # fmt: skip

        for queue in queues:
            for link in queue["links"]:
                add(queue, "to", link["seat"], link["host"], link)
            if relay := queue["writer"]["relayed_by"]:
                add(queue, "from", -1, queue["writer"]["host"], relay)
        self._wires = wires
        return views

    def _aged(self, blocked: list[Blocked], now: float) -> list[Blocked]:
        """For how long each has been seen, the longest first."""
        since = {}
        for one in blocked:
            key = one["queue"], one["waiter"], one["holder"]
            since[key] = self._blocked_since.get(key, now)
            one["seconds"] = now - since[key]
        self._blocked_since = since
        return sorted(blocked, key=lambda one: -one["seconds"])


_POOL_COUNTERS = (
    "lookups", "keys_looked_up", "keys_found", "retrieves", "keys_retrieved", "hits", "stored", "evicted", "aborted",
    "cleared", "no_memory", "full_buckets", "refused",
)  # fmt: skip


def _roles(
    queues: Iterable[QueueView], groups: Iterable[GroupView], pools: Iterable[PoolStats]
) -> dict[int, list[str]]:
    """Which processes of this machine, and of this pid namespace, there are, and what they do."""
    roles: defaultdict[int, list[str]] = defaultdict(list)
    of_groups = set()
    for group in groups:
        of_groups.update(group["segments"])
        roles[group["pid"]].append(f"owns a worker group of {len(group['workers'])}")
        for worker in group["workers"]:
            roles[worker["pid"]].append(f"works as {worker['rank']} for {group['pid']}")
    for queue in queues:
        if queue["segment"] in of_groups:
            continue
        name = queue["name"] or queue["segment"]
        writer = queue["writer"]
        relay = writer["relayed_by"]
        if relay:
            roles[relay["pid"]].append(f"links {name} from {writer['host']}")
        elif writer["process"] != "unknown":
            roles[writer["pid"]].append(f"writes {name}")
        for reader in queue["readers"]:
            if reader["host"] is None and reader["pid"] and reader["process"] != "unknown":
                roles[reader["pid"]].append(f"reads {name} as {reader['rank']}")
        for link in queue["links"]:
            roles[link["pid"]].append(f"links {name} to {link['host']}")
    for pool in pools:
        if pool["server"] != "gone":
            roles[pool["server_pid"]].append(f"serves pool {pool['name']}")
        for client in pool["clients"]:
            if client["alive"] and not client["forked"]:
                roles[client["pid"]].append(f"uses pool {pool['name']} as {client['worker_id']}")
    with suppress(KeyError):
        del roles[0]
    return dict(roles)

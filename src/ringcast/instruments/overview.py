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
from ringcast._stats import QueueInfo, StreamStats, described
from ringcast._version import __version__
from ringcast.errors import RingcastError, SegmentNotFoundError
from ringcast.instruments.blocking import Blocked, in_pool, in_queue
from ringcast.instruments.processes import Processes, ProcessStats
from ringcast.pool import PoolStats, list_pools

SCHEMA = 1
_SPARED_FILES = 128
"""The mapping of each queue is kept from one look to the next, and takes a descriptor; so many are left to others."""
_LOST_AFTER_NS = 100_000_000
"""A waker may be held up between its store and its wake-up; for longer is worth a word."""


class EndView(TypedDict):
    """An end of a queue: the writer's, or a reader's of this machine.

    `sleep` is "awake", "asleep", or "armed": waits for several queues at once, or will. `waits` is for how many seconds
    it has been seen asleep since the first look, by cause: a writer for "room" (a reader has not read), "memory" (views
    hold it), "readers" (who have not come) or "delivery"; a reader for a "message". `wakes` counts the wake-ups that
    were seen, of several between two looks one; `rate` is in messages for each second, since the last look.
    """

    role: str
    seat: int | None
    rank: int | None
    pid: int
    sleep: str
    waits: dict[str, float]
    wakes: int
    rate: float | None


class QueueView(QueueInfo):
    """A queue, and what is known of it since the first look. Rates are for each second, since the last look.

    `lost_wakeups` counts the readers that were seen asleep for 0.1 s with something to read: 0, unless their writer was
    held up, or ended, before it woke them. `created_at_ns` is by the wall clock,
    `watched_s` for how long it has been looked at. `waits` and `wakes` are those of its ends, by "writer" and "reader",
    of readers that have left, too.
    """

    created_at_ns: int
    watched_s: float
    rate: float | None
    byte_rate: float | None
    ends: list[EndView]
    waits: dict[str, dict[str, float]]
    wakes: dict[str, int]
    lost_wakeups: int
    blocked: list[Blocked]


class WorkerView(TypedDict):
    """A worker of a group: how many calls it has not begun to read, and how many answers it has sent."""

    rank: int
    pid: int
    alive: bool
    process: str
    behind: int
    answers: int
    unread_answers: int


class GroupView(TypedDict):
    """A worker group of this machine, as its queues show it: one from its owner, `pid`, to all, one back from each."""

    pid: int
    epoch: int
    calls: int
    rate: float | None
    workers: list[WorkerView]
    segments: list[str]


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
    """What `Observer.look` returns, fit for JSON. `seconds` is since the last look, None of the first."""

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
    unreadable: list[str]


class _Total:
    """Of all writers, or readers, that a queue has had."""

    def __init__(self) -> None:
        self.waits: defaultdict[str, float] = defaultdict(float)
        self.wakes = 0


class _End:
    """What has been seen of an end."""

    def __init__(self, total: _Total) -> None:
        self._total = total
        self.sleep = "awake"
        self.cause = ""
        self.waits: defaultdict[str, float] = defaultdict(float)
        self.causes: set[str] = set()
        """Since the last look."""
        self.wakes = 0
        self.woken_ns = 0
        self.cursor = 0
        self.unread_since: tuple[int, int, int] | None = None
        """When it was first seen asleep with something to read; the cursor and the last wake-up then."""

    def see(self, sleep: str, cause: str, woken_ns: int, seconds: float) -> None:
        if self.cause:
            self.waits[self.cause] += seconds
            self._total.waits[self.cause] += seconds
        if woken_ns != self.woken_ns:
            self.wakes += self.woken_ns != 0
            self._total.wakes += self.woken_ns != 0
            self.woken_ns = woken_ns
        self.sleep, self.cause = sleep, cause if sleep != "awake" else ""
        if self.cause:
            self.causes.add(self.cause)


class _Watched:
    """A queue that is looked at again and again."""

    def __init__(self, segment: _core.Segment) -> None:
        self.segment = segment
        self.since = time.monotonic()
        self.totals = {"writer": _Total(), "reader": _Total()}
        self.writer = _End(self.totals["writer"])
        self.readers: dict[tuple[int, int], _End] = {}
        self.waits_for: int | None = None
        self.for_any = "delivery"
        """What the writer waits for when any seat's change wakes it."""
        self.lost = 0
        self.glanced_ns = 0
        self.looked: tuple[float, int, int] | None = None
        self.cursors: dict[tuple[int, int], int] = {}

    def glance(self) -> list[tuple[int, int, int, int, int, int, str, int]]:
        """Who sleeps for what; the seats."""
        began_ns, head, waits_for, woken_ns, seats, _ = self.segment.look()
        seconds = (began_ns - self.glanced_ns) / 1e9 if self.glanced_ns else 0.0
        self.glanced_ns = began_ns
        cause = "" if waits_for is None else "room" if waits_for >= 0 else self.for_any
        self.waits_for = waits_for
        self.writer.see("awake" if waits_for is None else "asleep", cause, woken_ns, seconds)
        complete = all(pid for _, _, _, pid, *_ in seats)
        there = set()
        for seat, incarnation, rank, pid, _, cursor, sleep, woken in seats:
            if pid == 0 or rank == _core.STREAM:
                continue
            key = seat, incarnation
            there.add(key)
            end = self.readers.get(key) or self.readers.setdefault(key, _End(self.totals["reader"]))
            end.see(sleep, "message" if cursor >= head else "", woken, seconds)
            end.cursor = cursor
            if sleep != "asleep" or cursor >= head or not complete:
                end.unread_since = None
            elif end.unread_since is None or end.unread_since[1:] != (cursor, woken):
                end.unread_since = began_ns, cursor, woken
            elif 0 <= end.unread_since[0] < began_ns - _LOST_AFTER_NS:
                self.lost += 1
                end.unread_since = -1, cursor, woken  # counted
        for key in self.readers.keys() - there:
            del self.readers[key]
        return seats

    def look(self) -> QueueView:
        """The whole picture of it."""
        info = described(self.segment)
        self.for_any = _why_any(info)
        seats = self.glance()
        now = time.monotonic()
        before, self.looked = self.looked, (now, info["messages"], info["bytes"])
        seconds = now - before[0] if before else 0.0
        ends = [_view("writer", None, None, info["writer"]["pid"], self.writer, None)]
        cursors = {}
        for seat, incarnation, rank, pid, _, cursor, _, _ in seats:
            end = self.readers.get((seat, incarnation))
            if end is None:
                continue
            cursors[seat, incarnation] = cursor
            last = self.cursors.get((seat, incarnation))
            rate = (cursor - last) / seconds if last is not None and seconds > 0 else None
            ends.append(_view("reader", seat, rank, pid, end, rate))
        ends[0]["rate"] = (info["messages"] - before[1]) / seconds if before and seconds > 0 else None
        self.cursors = cursors
        causes, self.writer.causes = self.writer.causes, set()
        return {
            **info,
            "created_at_ns": self.segment.created_at_ns,
            "watched_s": now - self.since,
            "rate": ends[0]["rate"],
            "byte_rate": (info["bytes"] - before[2]) / seconds if before and seconds > 0 else None,
            "ends": ends,
            "waits": {role: dict(total.waits) for role, total in self.totals.items()},
            "wakes": {role: total.wakes for role, total in self.totals.items()},
            "lost_wakeups": self.lost,
            "blocked": in_queue(info, self.waits_for, causes, {end["seat"]: end["rate"] for end in ends}),
        }


def _view(role: str, seat: int | None, rank: int | None, pid: int, end: _End, rate: float | None) -> EndView:
    return {
        "role": role, "seat": seat, "rank": rank, "pid": pid, "sleep": end.sleep,
        "waits": {cause: round(seconds, 3) for cause, seconds in end.waits.items()}, "wakes": end.wakes, "rate": rate,
    }  # fmt: skip


def _has_its_name(queue: QueueView) -> bool:
    """Does its creator live: the writer, or the link of a relay?"""
    return (queue["writer"]["relayed_by"] or queue["writer"])["alive"]


def _why_any(info: QueueInfo) -> str:
    """What its writer waits for if it sleeps until any reader does something."""
    missing = info["n_reader"] - len(info["readers"]) if info["messages"] == 0 else info["expected_elsewhere"]
    if missing > 0 or any(reader["state"] == "expected" for reader in info["readers"]):
        return "readers"
    if any(reader["leased_blocks"] for reader in info["readers"]):
        return "memory"
    return "delivery"


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
        self._watched: dict[str, _Watched] = {}
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
        groups = list(_groups(queues))
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
                if watched is None or view is None or not _has_its_name(view):
                    segment = _core.Segment.attach(name, __version__, observe=True)
                    if watched is None or view is None or watched.segment.epoch != segment.epoch:
                        watched = _Watched(segment)
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

    def _forget(self, watched: _Watched) -> None:
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


def _groups(queues: list[QueueView]) -> Iterable[GroupView]:
    """Worker groups, told by their queues: nameless ones from a process to others, each with one back from it."""
    back: dict[tuple[int, int], QueueView] = {}
    for queue in queues:
        if queue["name"] is None and queue["n_reader"] == 1 and len(queue["readers"]) == 1:
            back[queue["writer"]["pid"], queue["readers"][0]["pid"]] = queue
    for queue in queues:
        owner, readers = queue["writer"]["pid"], queue["readers"]
        answers = [back.get((reader["pid"], owner)) for reader in readers]
        if queue["name"] is not None or not readers or owner == 0 or not any(answers):
            continue
        # Of two queues between two processes, the one that was made first asks, and the other one answers.
        if queue["n_reader"] == 1 and answers[0] and queue["created_at_ns"] > answers[0]["created_at_ns"]:
            continue
        yield {
            "pid": owner, "epoch": queue["epoch"], "calls": queue["messages"], "rate": queue["rate"],
            "workers": [
                {
                    "rank": reader["rank"], "pid": reader["pid"], "alive": reader["alive"],
                    "process": reader["process"], "behind": reader["behind"],
                    "answers": answer["messages"] if answer else 0,
                    "unread_answers": answer["queued"] if answer else 0,
                }
                for reader, answer in zip(readers, answers, strict=True)
            ],
            "segments": [queue["segment"], *(answer["segment"] for answer in answers if answer)],
        }  # fmt: skip


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

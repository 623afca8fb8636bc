"""From looks to samples: what both kinds of metrics are made of."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from ringcast._stats import QueueStats, WaitStats
from ringcast.errors import RingcastError
from ringcast.instruments.overview import Observer, Overview, PoolView
from ringcast.instruments.watched import QueueView
from ringcast.metrics._metrics import METRICS, Metric

Samples: TypeAlias = "list[tuple[Metric, dict[tuple[str, ...], float]]]"
"""Of each metric the values, by its labels' values."""

_BY_NAME = {metric.name.removeprefix("ringcast."): metric for metric in METRICS}
_READER_STATES = ("active", "expected", "failed", "evicted", "cut", "lost")
_Add: TypeAlias = "Callable[..., None]"
_Sample: TypeAlias = "tuple[str, float, tuple[str, ...]]"
"""A metric's name, its value, and the values of its labels but for the first one."""
_Counted: TypeAlias = "dict[tuple[str, tuple[str, ...], tuple[int, ...]], float]"
"""Counters of queues without names: by metric, labels, and whose it is."""
_Sums: TypeAlias = "dict[tuple[str, tuple[str, ...]], float]"


class End(Protocol):
    """An end of a queue of this process."""

    def stats(self) -> QueueStats: ...


class Source:
    """Looks, and says what there is. Any thread may ask it.

    Queues without a name share the label "" and are counted together: their segments' names would be ever new ones.
    Counters of those that are gone stay in that sum. What is asked for again within `fresh_s` is told from the last
    look.
    """

    def __init__(self, ends: Sequence[End] = (), fresh_s: float = 0.0) -> None:
        self._observer = Observer()
        self._ends = ends
        self._fresh_s = fresh_s
        self._lock = threading.RLock()
        self._looked_at = float("-inf")
        self._last: Samples = []
        self._counted: tuple[_Counted, _Sums] = {}, {}
        """Of queues without a name: the counters of those that are there, and the sums of those that are gone."""

    def glance(self) -> None:
        """Sees who sleeps for what now."""
        if not self._looks:
            with self._lock:
                self._observer.glance()

    def samples(self) -> Samples:
        """All metrics that have values. Raises SystemCallError only if the segments cannot be listed."""
        if self._looks:
            return self._last
        with self._lock:
            began = time.monotonic()
            if began - self._looked_at >= self._fresh_s:
                overview = self._observer.look()
                self._last = self._made(overview, began)
                self._looked_at = time.monotonic()
            return self._last

    @property
    def _looks(self) -> bool:
        """Does this very thread look just now? Then a signal's handler asks, and is told the last look."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]
        return owned

    def _made(self, overview: Overview, began: float) -> Samples:
        found: dict[str, dict[tuple[str, ...], float]] = {}
        nameless: _Counted = {}

        def add(name: str, value: float, *labels: object, join: Callable[..., float] = _the_first) -> None:
            values = found.setdefault(name, {})
            key = tuple(map(str, labels))
            values[key] = join(values[key], value) if key in values else value

        cpu = {one["pid"]: one["cpu_s"] for one in overview["processes"]}
        # A relay has the name of the queue that it brings here: where both are on this machine, it does not count.
        for queue in sorted(overview["queues"], key=lambda one: one["writer"]["relayed_by"] is not None):
            if queue["name"] is None:
                self._of_nameless(queue, add, nameless)
            else:
                self._of_queue(queue, queue["name"], add, cpu)
        # After what is seen from outside, so that no end is counted twice.
        for end in self._ends:
            _of_end(end, add, nameless)
        last, gone = self._counted[0], self._counted[1].copy()
        for key, before in last.items():
            if nameless.get(key, -1.0) < before:  # it is gone, or another one has begun in its place
                gone[key[:2]] = gone.get(key[:2], 0.0) + before
        for (name, labels, _), value in nameless.items():
            add(name, value, *labels, join=operator.add)
        for (name, labels), value in gone.items():
            add(name, value, *labels, join=operator.add)
        self._of_links(overview, add)
        self._of_groups(overview, add)
        for pool in overview["pools"]:
            _of_pool(pool, add)
        add("queues", len(overview["queues"]))
        add("unreadable_segments", len(overview["unreadable"]))
        add("look", time.monotonic() - began)
        self._counted = nameless, gone  # last: what raises before leaves each counted once
        return [(_BY_NAME[name], found[name]) for name in _BY_NAME if name in found]

    def _of_nameless(self, queue: QueueView, add: _Add, nameless: _Counted) -> None:
        for name, value, labels in _counters(queue):
            nameless[name, ("", *labels), (queue["epoch"],)] = value
        for name, value, labels in _gauges(queue):
            add(name, value, "", *labels, join=operator.add)
        for role, rank, pid, waits in _ends_of(queue):
            _of_nameless_end(queue["epoch"], role, rank, pid, waits, add, nameless)

    def _of_queue(self, queue: QueueView, name: str, add: _Add, cpu: dict[int, float | None]) -> None:
        for metric, value, labels in (*_counters(queue), *_gauges(queue)):
            add(metric, value, name, *labels)
        writer = queue["writer"]
        if writer["host"] is None and (spent := cpu.get(writer["pid"])) is not None:
            add("queue.cpu", spent, name, "writer", "")
        for reader in queue["readers"]:
            rank = reader["rank"]
            add("queue.reader_behind_messages", reader["behind"], name, rank)
            add("queue.reader_up", reader["alive"] and reader["process"] not in ("stopped", "gone"), name, rank)
            if reader["host"] is None:
                add("queue.reader_messages", queue["messages"] - reader["behind"], name, rank)
                add("queue.reader_held", reader["leased_bytes"], name, rank)
                if reader["pid"] and (spent := cpu.get(reader["pid"])) is not None:
                    add("queue.cpu", spent, name, "reader", rank)
        for rank, missed in queue["missed"].items():
            add("queue.missed_messages", missed, name, rank)
        for role, of, _, waits in _ends_of(queue):
            _of_named_end(name, role, of, waits, add)

    def _of_links(self, overview: Overview, add: _Add) -> None:
        for link in overview["links"]:
            labels = link["queue"], link["way"], link["host"] or ""
            cut_s = link["out_of_reach_s"]
            add("link.up", link["alive"] and link["process"] != "stopped" and cut_s is None, *labels)
            add("link.sent", link["bytes_sent"], *labels)
            add("link.received", link["bytes_received"], *labels)
            add("link.reconnects", link["reconnects"], *labels)
            add("link.under_way_messages", link["under_way"], *labels)
            add("link.out_of_reach", cut_s or 0.0, *labels)

    def _of_groups(self, overview: Overview, add: _Add) -> None:
        workers = [worker for group in overview["groups"] for worker in group["workers"]]
        add("groups", len(overview["groups"]))
        for state in ("running", "stopped", "gone"):
            add("group.workers", sum(worker["process"] == state for worker in workers), state)
        add("group.behind_calls", max((worker["behind"] for worker in workers), default=0))


def _the_first(first: float, _: float) -> float:
    return first


def _ends_of(queue: QueueView) -> Iterator[tuple[str, int | None, int, WaitStats]]:
    """Role, rank, pid and waits of the queue's ends here that are not links'; who has been evicted comes last."""
    writer = queue["writer"]
    if writer["waits"] is not None:
        yield "writer", None, writer["pid"], writer["waits"]
    for reader in sorted(queue["readers"], key=lambda one: one["state"] == "evicted"):
        if reader["waits"] is not None:
            yield "reader", reader["rank"], reader["pid"], reader["waits"]


def _of_waits(waits: WaitStats) -> Iterator[_Sample]:
    """The counters."""
    for how in ("brief", "awake", "parked"):
        yield "end.waits", waits[how], (how,)
    yield "end.parks", waits["parks"], ()
    yield "end.rescued_wakes", waits["rescued_wakes"], ()
    yield "end.long_waits", waits["long_waits"], ()
    yield "end.vain_cpu", waits["vain_s"], ()


def _of_named_end(name: str, role: str, rank: int | None, waits: WaitStats, add: _Add) -> None:
    """An end has the same labels, whoever tells of it: it counts once."""
    labels = name, role, "" if rank is None else rank
    for metric, value, more in _of_waits(waits):
        add(metric, value, *labels, *more)
    if waits["wakeup_s"] is not None:
        add("end.wakeup", waits["wakeup_s"], *labels)


def _of_nameless_end(
    epoch: int, role: str, rank: int | None, pid: int, waits: WaitStats, add: _Add, nameless: _Counted
) -> None:
    for metric, value, more in _of_waits(waits):
        nameless.setdefault((metric, ("", role, "", *more), _whose(epoch, rank, pid)), value)
    if waits["wakeup_s"] is not None:
        add("end.wakeup", waits["wakeup_s"], "", role, "", join=max)


def _whose(epoch: int, rank: int | None, pid: int) -> tuple[int, ...]:
    """Of an end of a queue without a name."""
    return epoch, -1 if rank is None else rank, pid


def _counters(queue: QueueView) -> Iterator[_Sample]:
    """Those that make sense for several queues together."""
    yield "queue.messages", queue["messages"], ()
    yield "queue.published", queue["bytes"], ()
    yield "queue.oversize_messages", queue["oversize"], ()
    yield "queue.lost_wakeups", queue["lost_wakeups"], ()
    for role in ("writer", "reader"):
        for cause, seconds in queue["waits"][role].items():
            yield "queue.wait", seconds, (role, cause)
        yield "queue.seen_wakeups", queue["wakes"][role], (role,)


def _gauges(queue: QueueView) -> Iterator[_Sample]:
    memory, writer = queue["memory"], queue["writer"]
    yield "queue.queued_messages", queue["queued"], ()
    yield "queue.depth_messages", queue["depth"], ()
    yield "queue.memory", memory["control"], ("ring",)
    yield "queue.memory", memory["data_committed"], ("large",)
    yield "queue.memory_limit", memory["data_budget"], ()
    yield "queue.writer_up", writer["alive"] and writer["process"] != "stopped", ()
    for state in _READER_STATES:
        yield "queue.readers", sum(reader["state"] == state for reader in queue["readers"]), (state,)
    for cause in ("room", "memory", "readers", "message", "link"):
        yield "queue.blocked", sum(one["cause"] == cause for one in queue["blocked"]), (cause,)


_POOL_COUNTERS = {
    "lookups": "lookups", "looked_up_keys": "keys_looked_up", "found_keys": "keys_found", "retrieves": "retrieves",
    "retrieved_keys": "keys_retrieved", "hits": "hits", "stored_chunks": "stored",
}  # fmt: skip


def _of_pool(pool: PoolView, add: _Add) -> None:
    name = pool["name"]
    add("pool.up", pool["server"] == "living", name)
    add("pool.capacity", pool["capacity"], name)
    add("pool.used", pool["used_bytes"], name)
    add("pool.chunks", pool["chunks"], name, "present")
    for state in ("reserved", "limbo", "quarantined"):
        add("pool.chunks", pool[state], name, state)
    add("pool.clients", sum(client["alive"] and not client["forked"] for client in pool["clients"]), name)
    add("pool.oldest_pin", max((pin["age_s"] for pin in pool["oldest_pins"]), default=0.0), name)
    for metric, field in _POOL_COUNTERS.items():
        add(f"pool.{metric}", pool[field], name)  # type: ignore[literal-required]
    for how in ("evicted", "aborted", "cleared"):
        add("pool.removed_chunks", pool[how], name, how)
    for why in ("no_memory", "full_buckets", "refused"):
        add("pool.refusals", pool[why], name, why)
    for tier in pool["tiers"]:
        labels = name, tier["name"]
        add("pool.tier_chunks", tier["chunks"], *labels)
        add("pool.tier_stored", tier["stored_bytes"], *labels)
        add("pool.tier_loaded", tier["loaded_bytes"], *labels)
        add("pool.tier_wanted_chunks", tier["wanted"], *labels)
        add("pool.tier_hits", tier["hits"], *labels)
        for why in ("dropped", "failed", "corrupt", "late"):
            add("pool.tier_failures", tier[why], *labels, why)  # type: ignore[literal-required]


def _of_end(end: End, add: _Add, nameless: _Counted) -> None:
    """One of this process: what others see of it, if its queue cannot be seen any more, and what only it knows."""
    try:
        stats = end.stats()
    except RingcastError:  # it is closed: there is nothing more to say of it
        return
    name, role, rank = stats["name"], stats["role"], stats["rank"]
    if name is None:
        _of_nameless_end(stats["epoch"], role, rank, stats["pid"], stats["waits"], add, nameless)
        nameless["end.messages", ("", role, ""), _whose(stats["epoch"], rank, stats["pid"])] = stats["messages"]
        add("end.waiting", stats["waiting_s"], "", role, "", join=max)
    else:
        _of_named_end(name, role, rank, stats["waits"], add)
        add("end.messages", stats["messages"], name, role, "" if rank is None else rank)
        add("end.waiting", stats["waiting_s"], name, role, "" if rank is None else rank)

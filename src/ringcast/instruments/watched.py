"""One queue, looked at again and again: who sleeps for what, for how long, and who should have been woken."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TypedDict

from ringcast import _core
from ringcast._stats import QueueInfo, WaitStats, described
from ringcast.instruments.blocking import Blocked, in_queue

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


class _Total:
    """Of all writers, or readers, that a queue has had."""

    def __init__(self) -> None:
        self.waits: defaultdict[str, float] = defaultdict(float)
        self.wakes: int = 0


class _End:
    """What has been seen of an end."""

    def __init__(self, total: _Total) -> None:
        self._total = total
        self.sleep: str = "awake"
        self.cause: str = ""
        self.waits: defaultdict[str, float] = defaultdict(float)
        self.causes: set[str] = set()
        """Since the last look."""
        self.wakes: int = 0
        self.woken_ns: int = 0
        self.cursor: int = 0
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


class Watched:
    """A queue that is looked at again and again."""

    def __init__(self, segment: _core.Segment) -> None:
        self.segment = segment
        self.since: float = time.monotonic()
        self.totals: dict[str, _Total] = {"writer": _Total(), "reader": _Total()}
        self.writer: _End = _End(self.totals["writer"])
        self.readers: dict[tuple[int, int], _End] = {}
        self.waits_for: int | None = None
        self.for_any: str = "delivery"
        """What the writer waits for when any seat's change wakes it."""
        self.lost: int = 0
        self.glanced_ns: int = 0
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


def ends_of(queue: QueueInfo) -> Iterator[tuple[str, WaitStats]]:
    """The ends of this machine that are there, in words, and how their waits have ended; links' ends are some."""
    writer = queue["writer"]
    if writer["waits"]:
        yield "writer", writer["waits"]
    if (relay := writer["relayed_by"]) and relay["waits"]:
        yield "link here", relay["waits"]
    for reader in queue["readers"]:
        if reader["waits"]:
            yield f"rank {reader['rank']}", reader["waits"]
    for link in queue["links"]:
        if link["waits"]:
            yield f"link to {link['host'] or 'another machine'}", link["waits"]


def rescued_wakes(queue: QueueInfo) -> int:
    """Of all its ends."""
    return sum(waits["rescued_wakes"] for _, waits in ends_of(queue))


def has_its_name(queue: QueueView) -> bool:
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

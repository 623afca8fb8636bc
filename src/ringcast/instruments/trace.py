"""Traces of a queue: when each message was published, which reader was woken, and when it was read and released.

A recorder looks at the ring again and again, from outside and without a seat, and concludes from what has changed. So
nobody is stopped or slowed, and an event is known as well as looks are close to each other: it was between one look and
the next, and is told at the later one. Wake-ups are exact, since whoever wakes a sleeper stores when. What the figures
are of this trace is in it (`precision`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from ringcast import _core
from ringcast._version import __version__

_LIFE_S = 0.25
"""So often it is asked whether the writer lives."""

Event = dict[str, Any]
_Key = tuple[int, int]
"""A seat, and how often it had been taken."""


class Moment(NamedTuple):
    """Something happened after `after_ns` and at `at_ns` at the latest, by the monotonic clock."""

    after_ns: int
    at_ns: int


class Reader(NamedTuple):
    """Who read from a seat."""

    seat: int
    rank: int
    pid: int


class Message(NamedTuple):
    """A message; `read` and `released` by reader. `nbytes` is None of one that was overwritten before it was seen."""

    position: int
    nbytes: int | None
    published: Moment
    read: dict[Reader, Moment]
    released: dict[Reader, Moment]


class Sleep(NamedTuple):
    """An end slept; `reader` is None for the writer, which waited for the reader in `seat` (-1: for any). `exact` if it
    was woken at the very time, else it was found awake then."""

    reader: Reader | None
    seat: int
    begun: Moment
    ended_ns: int
    exact: bool


class _Track:
    """A reader's seat, as it was at the last look."""

    def __init__(self, reader: Reader, cursor: int, sleep: str, woken_ns: int) -> None:
        self.reader = reader
        self.cursor = cursor
        self.sleep = sleep
        self.woken_ns = woken_ns
        self.asleep_since: Moment | None = None
        self.held: dict[int, int] = {}
        """Of messages that it has read and may still view, by position, the row of their marks."""


class Trace:
    """What a recording saw of the queue `name`. Times are in ns of the monotonic clock.

    >>> record(queue.segment, 0.01).left_out
    0
    """

    def __init__(self, name: str, writer_pid: int, most: int) -> None:
        self.name = name
        self.writer_pid = writer_pid
        self.messages: dict[int, Message] = {}
        self.sleeps: list[Sleep] = []
        self.wakes: list[tuple[Reader | None, int]] = []
        """Who was woken (None: the writer), and when."""
        self.behind: list[tuple[int, Reader, int]] = []
        """When, who, and how many messages it had not read."""
        self.left_out = 0
        """Messages beyond the first `most`: they are counted in `behind`, and not traced one by one."""
        self.gaps_ns: list[int] = []
        """From one look to the next."""
        self.began_ns = 0
        self.ended_ns = 0
        self._most = most

    @property
    def precision(self) -> dict[str, Any]:
        """How well times are known, in microseconds: between which looks events lie, and how far looks are apart."""
        found = self.messages.values()
        return {
            "clock": "CLOCK_MONOTONIC",
            "looks": len(self.gaps_ns) + 1,
            "between_looks_us": _spread(self.gaps_ns),
            "publish_within_us": _spread([_width(one.published) for one in found]),
            "read_within_us": _spread([_width(moment) for one in found for moment in one.read.values()]),
            "release_within_us": _spread([_width(moment) for one in found for moment in one.released.values()]),
            "wake": "exact",
        }

    def events(self) -> Iterator[Event]:
        """Events as Chrome's trace format has them, for Perfetto, by their times.

        Each message is an instant "publish" of the writer, and of each reader "read" and "release", and a span from
        the one to the other in the category "unread"; ends sleep, and are woken.

        >>> trace = record(queue.segment, 0.01)
        >>> [event["args"]["name"] for event in trace.events() if event["name"] == "thread_name"][:1]
        ['writer']
        """
        readers = {reader for one in self.messages.values() for reader in one.read}
        readers |= {reader for _, reader, _ in self.behind}
        pids = {self.writer_pid: "writer"} | {one.pid: f"rank {one.rank}" for one in readers}
        if any(one.pid == self.writer_pid for one in readers):
            pids[self.writer_pid] = "writer and readers"
        for pid, what in sorted(pids.items()):
            yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": f"{self.name} {what}"}}
            yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": int(what != "writer")}}
        yield {"ph": "M", "name": "thread_name", "pid": self.writer_pid, "tid": 0, "args": {"name": "writer"}}
        for reader in sorted(readers):
            name = f"rank {reader.rank}"
            yield {"ph": "M", "name": "thread_name", **_place(reader), "args": {"name": name}}
        timed = [*self._of_messages(), *self._of_sleeps(), *self._of_counts()]
        yield from sorted(timed, key=lambda event: float(event["ts"]))

    def write(self, file: IO[str]) -> None:
        """As one JSON object, for https://ui.perfetto.dev. Raises what the file does.

        >>> import io, json
        >>> file = io.StringIO()
        >>> record(queue.segment, 0.01).write(file)
        >>> json.loads(file.getvalue())["otherData"]["messages"]
        0
        """
        about = {
            "queue": self.name, "ringcast": __version__, "messages": len(self.messages), "left_out": self.left_out,
            "seconds": (self.ended_ns - self.began_ns) / 1e9, "precision": self.precision,
        }  # fmt: skip
        file.write('{"displayTimeUnit": "ms",\n"otherData": ' + json.dumps(about) + ',\n"traceEvents": [')
        separator = "\n"
        for event in self.events():
            file.write(separator + json.dumps(event, separators=(",", ":")))
            separator = ",\n"
        file.write("\n]}\n")

    def _instant(self, name: str, reader: Reader | None, at_ns: int, **about: Any) -> Event:
        place = {"pid": self.writer_pid, "tid": 0} if reader is None else _place(reader)
        return {"name": name, "ph": "i", "s": "t", "ts": self._us(at_ns), **place, "args": about}

    def _of_messages(self) -> Iterator[Event]:
        for one in self.messages.values():
            at = one.published
            yield self._instant(
                "publish", None, at.at_ns, message=one.position, bytes=one.nbytes, within_us=_width(at) / 1e3
            )
            for reader, read in one.read.items():
                span = {"cat": "unread", "name": f"message {one.position}", **_place(reader)}
                span["id"] = f"{reader.seat}.{one.position}"
                yield {**span, "ph": "b", "ts": self._us(at.at_ns)}
                yield {**span, "ph": "e", "ts": self._us(read.at_ns)}
                yield self._instant("read", reader, read.at_ns, message=one.position, within_us=_width(read) / 1e3)
            for reader, released in one.released.items():
                yield self._instant(
                    "release", reader, released.at_ns, message=one.position, within_us=_width(released) / 1e3
                )

    def _of_sleeps(self) -> Iterator[Event]:
        for sleep in self.sleeps:
            place = {"pid": self.writer_pid, "tid": 0} if sleep.reader is None else _place(sleep.reader)
            why = "a message" if sleep.reader else f"seat {sleep.seat}" if sleep.seat >= 0 else "any reader"
            begun = sleep.begun.at_ns
            yield {
                "name": f"asleep, for {why}", "ph": "X", "ts": self._us(begun), **place,
                "dur": max(0, sleep.ended_ns - begun) / 1e3, "args": {"within_us": _width(sleep.begun) / 1e3},
            }  # fmt: skip
        for reader, at_ns in self.wakes:
            yield self._instant("wake", reader, at_ns)

    def _of_counts(self) -> Iterator[Event]:
        for at_ns, reader, behind in self.behind:
            yield {
                "name": f"{self.name}: behind", "ph": "C", "ts": self._us(at_ns), "pid": self.writer_pid,
                "args": {f"rank {reader.rank}": behind},
            }  # fmt: skip

    @staticmethod
    def _us(at_ns: int) -> float:
        return at_ns / 1e3


class Recorder:
    """Looks, and makes a Trace of what it sees."""

    def __init__(self, segment: _core.Segment, name: str, most: int) -> None:
        self.trace = Trace(name, segment.creator_pid, most)
        self._segment = segment
        self._most = most
        self._head = 0
        self._began_ns = 0
        self._tracks: dict[_Key, _Track] = {}
        self._writer_seat: int | None = None
        self._writer_woken_ns = 0
        self._writer_since: Moment | None = None
        self._rows: dict[int, int] = {}
        """Of messages in blocks, the row of their marks."""

    def look(self) -> None:
        """Once more."""
        began_ns, head, waits_for, woken_ns, seats, ended_ns = self._segment.look()
        trace = self.trace
        span = Moment(self._began_ns, ended_ns)
        if self._began_ns == 0:
            trace.began_ns = span_begin = began_ns
            span = Moment(span_begin, ended_ns)
            self._head = head = max([head, *(cursor for *_, cursor, _, _ in seats)])
            self._writer_woken_ns = woken_ns
        else:
            trace.gaps_ns.append(began_ns - self._began_ns)
        # A reader may be faster than the writer's store of the head.
        head = max([head, *(cursor for *_, cursor, _, _ in seats)])
        self._publish(head, span)
        there = set()
        for seat, incarnation, rank, pid, _, cursor, sleep, woken in seats:
            if pid == 0:
                continue
            there.add((seat, incarnation))
            track = self._tracks.get((seat, incarnation))
            if track is None:
                shown = rank if rank not in (_core.STREAM, _core.NOBODY) else -1
                track = self._tracks[seat, incarnation] = _Track(Reader(seat, shown, pid), cursor, "awake", woken)
                trace.behind.append((ended_ns, track.reader, head - cursor))
            self._follow(track, cursor, sleep, woken, span, head)
        for key in self._tracks.keys() - there:
            track = self._tracks.pop(key)
            for position in track.held:
                self._release(track.reader, position, span)
        self._follow_writer(waits_for, woken_ns, span)
        self._began_ns, self._head, trace.ended_ns = began_ns, head, ended_ns

    def behind(self) -> list[int]:
        """What each reader has not read."""
        return [self._head - track.cursor for track in self._tracks.values()]

    def _publish(self, head: int, span: Moment) -> None:
        trace, depth = self.trace, self._segment.max_chunks
        for position in range(self._head, head):
            if len(trace.messages) >= self._most:
                trace.left_out += head - position
                return
            found = self._segment.message(position) if position >= head - depth else None
            nbytes, row = found or (None, None)
            if row is not None:
                self._rows[position] = row
            trace.messages[position] = Message(position, nbytes, span, {}, {})

    def _follow(self, track: _Track, cursor: int, sleep: str, woken: int, span: Moment, head: int) -> None:
        """What a reader has done since the last look."""
        trace, reader = self.trace, track.reader
        if woken != track.woken_ns:
            track.woken_ns = woken
            if span.after_ns < woken <= span.at_ns:
                trace.wakes.append((reader, woken))
                first = trace.messages.get(track.cursor)
                if first is not None and first.published == span and track.cursor == self._head:
                    # It slept for this message, and whoever published it woke it right then.
                    trace.messages[track.cursor] = first._replace(published=Moment(span.after_ns, woken))
        self._note_sleep(track, sleep, woken, span)
        for position in range(track.cursor, cursor):
            message = trace.messages.get(position)
            if message is None:
                continue
            message.read[reader] = Moment(max(span.after_ns, message.published.after_ns), span.at_ns)
            row = self._rows.get(position)
            if row is None:
                self._release(reader, position, span)
            else:
                track.held[position] = row
        if cursor != track.cursor or head != self._head:
            trace.behind.append((span.at_ns, reader, head - cursor))
        track.cursor = cursor
        for position, row in list(track.held.items()):
            if self._segment.mark(reader.seat, row) > position:
                del track.held[position]
                self._release(reader, position, span)

    def _note_sleep(self, track: _Track, sleep: str, woken: int, span: Moment) -> None:
        since = track.asleep_since
        exact = since is not None and since.at_ns <= woken <= span.at_ns
        if since is not None and (sleep != "asleep" or exact):
            self.trace.sleeps.append(Sleep(track.reader, -1, since, woken if exact else span.at_ns, exact))
            track.asleep_since = None
        if sleep == "asleep" and track.asleep_since is None:
            track.asleep_since = Moment(woken, span.at_ns) if exact else span
        track.sleep = sleep

    def _follow_writer(self, waits_for: int | None, woken: int, span: Moment) -> None:
        trace, since = self.trace, self._writer_since
        if woken != self._writer_woken_ns:
            self._writer_woken_ns = woken
            if span.after_ns < woken <= span.at_ns:
                trace.wakes.append((None, woken))
        exact = since is not None and since.at_ns <= woken <= span.at_ns
        if since is not None and (waits_for != self._writer_seat or exact):
            seat = -1 if self._writer_seat is None else self._writer_seat
            trace.sleeps.append(Sleep(None, seat, since, woken if exact else span.at_ns, exact))
            since = None
        if waits_for is not None and since is None:
            since = span
        self._writer_seat, self._writer_since = waits_for, since

    def _release(self, reader: Reader, position: int, span: Moment) -> None:
        message = self.trace.messages.get(position)
        if message is not None and reader in message.read:
            message.released[reader] = Moment(max(span.after_ns, message.read[reader].after_ns), span.at_ns)


def record(
    segment_name: str,
    seconds: float,
    *,
    interval: float = 100e-6,
    most: int = 20_000,
    name: str | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> Trace:
    """Look at the queue in this segment for so many seconds, every `interval` seconds (0: all the time, with a whole
    core), and trace up to `most` messages one by one. It ends sooner when the writer is gone and all is read, or at a
    KeyboardInterrupt, or when `ended()`, which is asked four times a second. Raises SegmentError if there is no such
    queue.

    >>> from ringcast import MessageQueue
    >>> with MessageQueue(1) as queue:
    ...     trace = record(queue.segment, 0.01)
    >>> trace.messages, trace.precision["looks"] > 1
    ({}, True)
    """
    segment = _core.Segment.attach(segment_name, __version__, observe=True)
    recorder = Recorder(segment, name or segment.user_name or segment_name, most)
    now = time.monotonic()
    end, ask_at = now + seconds, now + _LIFE_S
    try:
        while now < end:
            recorder.look()
            if now >= ask_at:
                ask_at = now + _LIFE_S
                gone = not segment.creator_alive
                if ended() or (gone and not any(recorder.behind())):
                    break
            time.sleep(interval)
            now = time.monotonic()
    except KeyboardInterrupt:
        pass
    return recorder.trace


def _place(reader: Reader) -> dict[str, Any]:
    return {"pid": reader.pid, "tid": reader.seat + 1}


def _width(moment: Moment) -> int:
    return moment.at_ns - moment.after_ns


def _spread(widths_ns: list[int]) -> dict[str, float] | None:
    if not widths_ns:
        return None
    ordered = sorted(widths_ns)
    return {
        what: ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1e3
        for what, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }

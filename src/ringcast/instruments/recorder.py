"""Records what happens to each message of a queue.

A recorder looks at the ring again and again, from outside and without a seat, and concludes from what has changed. So
nobody is stopped or slowed, and an event is known as well as looks are close to each other: it was between one look and
the next, and is told at the later one. Wake-ups are exact, since whoever wakes a sleeper stores when. What the figures
are of this trace is in it (`precision`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ringcast import _core
from ringcast._version import __version__
from ringcast.instruments.trace import Message, Moment, Reader, Sleep, Trace

_LIFE_S = 0.25
"""So often it is asked whether the writer lives."""

_Key = tuple[int, int]
"""A seat, and how often it had been taken."""


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


class Recorder:
    """Looks, and makes a Trace of what it sees."""

    def __init__(self, segment: _core.Segment, name: str, most: int) -> None:
        self.trace: Trace = Trace(name, segment.creator_pid, most)
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

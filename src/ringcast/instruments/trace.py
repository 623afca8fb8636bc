"""A trace of a queue: when each message was published, which reader was woken, and when it was read and released.

`recorder` makes one. It can be written for Perfetto, in Chrome's format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from ringcast._version import __version__

Event = dict[str, Any]


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

"""A queue that this machine's link reads for other machines: who is placed where, and one stream for each machine.

This side alone decides on places. The queue keeps one seat for each reader that is to come from elsewhere; the first
one of a machine makes it the machine's stream's, each further one gives its own up, since its machine's ring keeps
everything for it from there on.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from ringcast import _segment
from ringcast.errors import LinkError, RankError, RankTakenError, RingcastError
from ringcast.net.link._channel import Channel
from ringcast.net.link._listener import Listener
from ringcast.net.link._outgoing import Outgoing
from ringcast.net.link._words import HELLO, REFUSED, LostError, receive, refused

GREETED_WITHIN_S = 5.0

log = logging.getLogger("ringcast.link")
_CAUSES = ("dead", "slow", "absent")
_GONE = ("left", "died", "evicted", "lost")


class Exported:
    """One queue. `request` is what its writer asked of the link."""

    def __init__(self, request: dict[str, Any], key: bytes, listener: Listener) -> None:
        self.listener = listener
        self.key = key
        self.encrypt = bool(request["encrypt"])
        self.link_timeout = float(request["link_timeout"])
        self.segment = _segment.attach(request["segment"])
        if self.segment.epoch != request["epoch"]:
            raise LinkError(f"{self.segment.label} is another one than the writer says")
        self._policy = list(request["policy"])
        self._lock = threading.RLock()
        self._streams: dict[str, Outgoing] = {}
        self._kept: dict[int, bool] = {}  # of each place: was all kept for who has it?
        self._version = 0  # counts the places given away

    @property
    def streams(self) -> list[Outgoing]:
        with self._lock:
            return list(self._streams.values())

    @property
    def is_over(self) -> bool:
        """Is there nothing left to bring anywhere, and will there never be?"""
        return self.writer_is_gone and all(stream.over for stream in self.streams)

    @property
    def writer_is_gone(self) -> bool:
        """Has it closed the queue, lingered for those who had not come, and let go of it? Or died? Nobody can come any
        more."""
        return not self.segment.creator_alive

    def greet(self, channel: Channel, control: bool) -> None:
        """Who has shown the key says what he wants. On a thread of its own."""
        try:
            hello = receive(channel, HELLO, GREETED_WITHIN_S)
            with self._lock:
                stream = self._streams.get(str(hello["stream"]))
                if control:
                    if stream is None or stream.over:
                        raise LostError("there is no such stream any more")
                    stream.control(channel)
                elif stream is not None:
                    if stream.over or hello["published"] is None:
                        raise LostError("this stream is lost")
                    stream.connect(channel, int(hello["published"]), {})
                elif hello["published"] is not None:
                    raise LostError("there is no such stream any more")
                else:
                    self._begin(channel, hello)
        except RingcastError as error:
            self._turn_away(channel, error)
        except (KeyError, TypeError, ValueError) as error:
            self._turn_away(channel, LinkError(f"a hello that this release does not understand: {error!r}"))

    def _turn_away(self, channel: Channel, error: Exception) -> None:
        try:
            channel.send(REFUSED, refused(error))
            channel.wait(GREETED_WITHIN_S)  # until he has read it and hangs up
        except LinkError:
            pass
        channel.close()

    def _begin(self, channel: Channel, hello: dict[str, Any]) -> None:
        """A machine's first reader."""
        if self.writer_is_gone:
            raise LinkError(
                f"{self.segment.label} has ended: its writer (host {socket.gethostname()}, pid "
                f"{self.segment.creator_pid}) closed it or died"
            )
        host, rank, pid = str(hello["host"]), int(hello["rank"]), int(hello["pid"])
        self._find_place(None, rank)
        stream = Outgoing(self, str(hello["stream"]), host)
        self._streams[stream.stream] = stream
        open_homes = self.open_homes() + (1 if stream.tap.kept else 0)
        try:
            placed = self.place(stream, rank, pid)
        except BaseException:
            stream.leave()
            raise
        segment = self.segment
        stream.connect(
            channel,
            None,
            {
                "host": socket.gethostname(),
                "pid": segment.creator_pid,
                "name": segment.user_name or segment.name,
                "homes": segment.n_remote,
                "open": open_homes,
                "first": stream.base,
                "max_chunks": segment.max_chunks,
                "max_chunk_bytes": segment.max_chunk_bytes,
                "max_bytes": segment.control_bytes + segment.data_budget,
                "data_budget": segment.data_budget,
                "policy": self._policy,
                "link_timeout": self.link_timeout,
                "placed": placed,
            },
        )

    def place(self, stream: Outgoing, rank: int, pid: int) -> dict[str, Any]:
        """A reader's place at this stream's machine. Raises RankError, RankTakenError."""
        with self._lock:
            rank, index = self._find_place(stream, rank)
            before = self.segment.placements()[index]
            home = len(self.segment.ranks) + index
            if before[2] == "open":
                kept = (home == stream.tap.seat and stream.tap.kept) or self.segment.forgo_home(home)
            else:  # it comes again, and if nobody has told it of its place yet, to that
                kept = before[2] == "placed" and before[5] == stream.tap.seat and self._kept.get(index, False)
            self._kept[index] = kept
            self._version += 1
            version = self._version
            self.segment.place(index, rank, pid, stream.host, stream.tap.seat)
            others = [other for other in self._streams.values() if other is not stream and not other.over]
        for other in others:
            other.tell()
        return {"rank": rank, "kept": kept, "version": version}

    def _find_place(self, stream: Outgoing | None, rank: int) -> tuple[int, int]:
        """The rank that a reader is to have, and the index of its place."""
        segment = self.segment
        placements = segment.placements()
        taken = {of: (index, state, host, pid, seat) for index, of, state, pid, host, seat, *_ in placements
                 if state != "open"}  # fmt: skip
        opened = [index for index, _, state, *_ in placements if state == "open"]
        if rank in segment.ranks:
            raise RankError(
                f"rank {rank} reads {segment.label} on the writer's own machine: it is one of {segment.ranks}"
            )
        if rank < 0:
            rank = next(n for n in range(len(placements) + len(segment.ranks) + 1)
                        if n not in segment.ranks and n not in taken)  # fmt: skip
        if rank in taken:
            index, state, host, pid, seat = taken[rank]
            if state in _GONE or (stream is not None and seat == stream.tap.seat):
                return rank, index
            raise RankTakenError(f"rank {rank} of {segment.label} is taken by process {pid} on host {host}")
        if not opened:
            has = f"{segment.label} has {len(placements)} readers on other machines"
            raise RankTakenError(f"{has}, and all have come: ranks {', '.join(map(str, sorted(taken)))}")
        if stream is not None and stream.tap.kept:
            own = stream.tap.seat - len(segment.ranks)
            if own in opened:
                return rank, own
        expected = {seat[0] for seat in segment.seats() if seat[3] == "expected"}
        kept = [index for index in opened if len(segment.ranks) + index in expected]
        return rank, (kept or opened)[0]

    def open_homes(self) -> int:
        """How many readers are still to come, for whom everything is kept."""
        segment = self.segment
        if self.writer_is_gone:
            return 0
        expected = {seat[0] for seat in segment.seats() if seat[3] == "expected"}
        return sum(state == "open" and len(segment.ranks) + index in expected
                   for index, _, state, *_ in segment.placements())  # fmt: skip

    def state_for(self, stream: Outgoing) -> dict[str, Any]:
        """How things stand at the writer, for the link at the other side of a stream.

        `version` tells it from older ones, which may come later.
        """
        with self._lock:
            return {
                "op": "state",
                "version": self._version,
                "open": self.open_homes(),
                "evict": self.wishes(stream),
                "ready": stream.tap.all_ready,
                "closed": self.segment.closed,
                "over": self.writer_is_gone,
            }

    def wishes(self, stream: Outgoing) -> list[list[int]]:
        """How often the writer has wished to go on without each of the stream's readers. Who is not named has moved."""
        return [[rank, wishes] for _, rank, state, _, _, seat, _, wishes in self.segment.placements()
                if state != "open" and seat == stream.tap.seat]  # fmt: skip

    def hear_of(self, stream: Outgoing, rank: int, before: tuple[Any, ...] | None, facts: tuple[Any, ...]) -> None:
        """What a reader's link says of it."""
        state, pid, behind, cause, position = facts
        with self._lock:
            index = next((one[0] for one in self.segment.placements()
                          if one[1] == rank and one[2] != "open" and one[5] == stream.tap.seat), None)  # fmt: skip
            if index is None:
                return
            if before is not None and before[:2] == (state, pid) and before[4] == position:
                self.segment.note_behind(index, behind)
                return
            if state == "attached":
                self.segment.note_presence(index, stream.base + position)
            elif state == "left" and position is not None:
                self.segment.note_absence(index, stream.base + position, pid)
            elif state == "evicted":
                self.segment.note_absence(index, max(0, stream.tap.acknowledged - behind), 0)
            causes = _CAUSES.index(cause) if cause in _CAUSES else 0
            self.segment.post(index, state, pid, behind, causes)

    def note_cut(self, stream: Outgoing) -> None:
        """The stream's machine is out of reach; its readers say where they are once it is back."""
        with self._lock:
            for index, _, state, pid, _, seat, behind, _ in self.segment.placements():
                if seat == stream.tap.seat and state == "attached" and not stream.over:
                    self.segment.post(index, "cut", pid, behind)

    def lose(self, stream: Outgoing) -> None:
        """The stream's machine cannot be reached any more."""
        with self._lock:
            for index, _, state, pid, _, seat, behind, _ in self.segment.placements():
                if seat == stream.tap.seat and state in ("placed", "attached", "died", "cut"):
                    self.segment.post(index, "lost", pid, behind)

    def look(self) -> None:
        """Nobody holds a stream up by one connection without the other."""
        for stream in self.streams:
            stream.look()

    def close(self) -> None:
        for stream in self.streams:
            stream.leave()

"""A queue that this machine's link reads for other machines: who is placed where, and one stream for each machine.

This side alone decides on places. The queue keeps one seat for each reader that is to come from elsewhere; the first
one of a machine makes it the machine's stream's, each further one gives its own up, since its machine's ring keeps
everything for it from there on. Who comes again, and is promised nothing, leaves those seats to others: his machine's
stream begins with the next message, and who comes there for the first time is told what was kept before that.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from ringcast import _segment
from ringcast.errors import LinkError, RankError, RankTakenError
from ringcast.net.link._channel import Channel
from ringcast.net.link._control import SILENCE_S
from ringcast.net.link._greetings import Greetings
from ringcast.net.link._listener import Listener
from ringcast.net.link._outgoing import Outgoing
from ringcast.net.link._words import INT32_MAX, UINT32_MAX, LostError, number_in, text_in

_EVICT = 2  # of what a writer does about slow readers

log = logging.getLogger("ringcast.link")
_CAUSES = ("dead", "slow", "absent")
_GONE = ("left", "died", "evicted", "lost")


def _is_free(state: str, pid: int) -> bool:
    """May whoever comes have this place, on any machine? Also where who had it is gone, and had not attached."""
    return state in _GONE or (state == "placed" and pid == 0)


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
        self.patience_s = max(self.link_timeout, SILENCE_S)
        """With a link that is there and does nothing."""
        _, slow, _, full_deadline_ns = self._policy
        self.evicts_within_s = full_deadline_ns / 1e9 * self.segment.n_remote if slow == _EVICT else None
        self.greetings = Greetings(self.welcome)
        self._lock = threading.RLock()
        self._streams: dict[str, Outgoing] = {}
        self._kept: dict[int, int | None] = {}  # of each place: from where on is all kept for who has it, if it is?
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

    def welcome(self, channel: Channel, control: bool, hello: dict[str, Any]) -> None:
        """Who has shown the key says what he wants. Raises LinkError, and others, if he is to be turned away."""
        name = text_in(hello, "stream", 64)
        published = hello.get("published")
        begins = False
        with self._lock:
            stream = self._streams.get(name)
            if control:
                if stream is None or stream.over:
                    raise LostError("there is no such stream any more")
                stream.control(channel)
            elif stream is not None:
                if stream.over or published is None:
                    raise LostError("this stream is lost")
                stream.connect(channel, number_in(hello, "published"), {})
            elif published is not None:
                raise LostError("there is no such stream any more")
            else:
                stream = self._begin(channel, name, hello)
                begins = True
        if begins:
            self._tell_all_but(stream)

    def _begin(self, channel: Channel, name: str, hello: dict[str, Any]) -> Outgoing:
        """A machine's first reader. With the lock."""
        if self.writer_is_gone:
            raise LinkError(
                f"{self.segment.label} has ended: its writer (host {socket.gethostname()}, pid "
                f"{self.segment.creator_pid}) closed it or died"
            )
        host = text_in(hello, "host")
        rank, pid = number_in(hello, "rank", -INT32_MAX, INT32_MAX), number_in(hello, "pid", 0, UINT32_MAX)
        _, index = self._find_place(None, rank)
        is_promised = self.segment.placements()[index][2] == "open"
        stream = Outgoing(self, name, host, is_promised)
        self.segment.forget_stream(stream.tap.seat)
        stream.log.info("begins, over %s: %s", channel.peer, self.segment.label)
        self._streams[stream.stream] = stream
        open_homes = self.open_homes() + (1 if stream.tap.kept else 0)
        try:
            placed = self._placed(stream, rank, pid, begins=True)
        except BaseException:
            stream.leave()
            raise
        if placed["kept"] and not stream.tap.kept:
            open_homes += 1
        segment = self.segment
        stream.connect(
            channel,
            None,
            {
                "host": socket.gethostname(),
                "pid": segment.creator_pid,
                "name": segment.user_name or "",
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
        return stream

    def place(self, stream: Outgoing, rank: int, pid: int) -> dict[str, Any]:
        """A reader's place at this stream's machine. Raises RankError, RankTakenError."""
        with self._lock:
            placed = self._placed(stream, rank, pid)
        self._tell_all_but(stream)
        return placed

    def _placed(self, stream: Outgoing, rank: int, pid: int, *, begins: bool = False) -> dict[str, Any]:
        """The same, with the lock; the other streams are to be told afterwards."""
        rank, index = self._find_place(stream, rank)
        before = self.segment.placements()[index]
        home = len(self.segment.ranks) + index
        given_up = False  # which is to be known to who comes too late
        if before[2] == "open":
            own = home == stream.tap.seat and stream.tap.kept
            kept = stream.base if own else self._brought(stream, index, home)
            given_up = kept is None
        else:  # it comes again, and if nobody has told it of its place yet, to that
            kept = self._kept.get(index) if before[2] == "placed" else None
            has_all = before[5] == stream.tap.seat or (begins and kept == stream.base)
            if kept is not None and not has_all:  # it is elsewhere, where nobody came for it
                given_up = kept < self.segment.head
                self.segment.note_absence(index, kept, 0)
                kept = None
        wished = before[7]  # of whoever was here before
        stream.patience.heed(rank, wished)
        self._kept[index] = kept
        self._version += 1
        self.segment.place(index, rank, pid, stream.host, stream.tap.seat)
        stream.log.info("rank %d (pid %d) has its place there", rank, pid)
        return {
            "rank": rank, "kept": kept is not None, "given_up": given_up, "wished": wished, "version": self._version,
        }  # fmt: skip

    def _brought(self, stream: Outgoing, index: int, home: int) -> int | None:
        """From where on all that is kept in a home has been brought to the stream's machine, or will be; None if not
        all. Nobody is expected there any more."""
        since = next((seat[6] for seat in self.segment.seats() if seat[0] == home and seat[3] == "expected"), None)
        if since is None or not self.segment.forgo_home(home):
            return None
        if since < stream.base:
            self.segment.note_absence(index, since, 0)
            return None
        return since

    def _tell_all_but(self, stream: Outgoing) -> None:
        """How things stand now."""
        for other in self.streams:
            if other is not stream and not other.over:
                other.tell()

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
            rank = self._any_rank(stream, taken)
        if rank in taken:
            index, state, host, pid, seat = taken[rank]
            if _is_free(state, pid) or (stream is not None and seat == stream.tap.seat):
                return rank, index
            raise RankTakenError(f"rank {rank} of {segment.label} is taken by process {pid} on host {host}")
        if not opened:
            who = f"rank{'s' if len(taken) > 1 else ''} {', '.join(map(str, sorted(taken)))}"
            raise RankTakenError(f"{segment.label}: all its readers on other machines have come: {who}")
        if stream is not None and stream.tap.kept:
            own = stream.tap.seat - len(segment.ranks)
            if own in opened:
                return rank, own
        expected = {seat[0] for seat in segment.seats() if seat[3] == "expected"}
        kept = [index for index in opened if len(segment.ranks) + index in expected]
        return rank, (kept or opened)[0]

    def _any_rank(self, stream: Outgoing | None, taken: dict[int, tuple[int, str, str, int, int]]) -> int:
        """For who asks for none: one that is kept on his machine, one that nobody has had, or one that is free."""
        free = [rank for rank, (_, state, _, pid, _) in sorted(taken.items()) if _is_free(state, pid)]
        if stream is not None:
            kept_here = [rank for rank in free if taken[rank][1] == "placed" and taken[rank][4] == stream.tap.seat]
            if kept_here:
                return kept_here[0]
        if free and len(taken) == self.segment.n_remote:
            return free[0]
        ours = self.segment.ranks
        return next(n for n in range(len(taken) + len(ours) + 1) if n not in ours and n not in taken)

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

    def wishes_of(self, stream: Outgoing) -> dict[int, int]:
        """The writer's to go on without a reader, by rank, of those that are still there."""
        return {rank: wishes for _, rank, state, _, _, seat, _, wishes in self.segment.placements()
                if state != "open" and state not in _GONE and seat == stream.tap.seat}  # fmt: skip

    def hear_of(self, stream: Outgoing, rank: int, before: tuple[Any, ...] | None, facts: tuple[Any, ...]) -> bool:
        """What a reader's link says of it. False: it has no such reader."""
        state, pid, behind, cause, position = facts
        if before is None or before[:2] != (state, pid):
            why = "" if cause is None else f" ({cause})"
            if state == "placed" and pid == 0:
                stream.log.info("rank %d is expected there: who had its place is gone, and had not attached", rank)
            else:
                stream.log.info("rank %d (pid %d) is %s there%s, %d messages behind", rank, pid, state, why, behind)
        with self._lock:
            place = next((one for one in self.segment.placements()
                          if one[1] == rank and one[2] != "open" and one[5] == stream.tap.seat), None)  # fmt: skip
            if place is None:
                return False
            index, wishes = place[0], place[7]
            if before is not None and before[:2] == (state, pid) and before[4] == position:
                self.segment.note_behind(index, behind)
                return True
            if position is not None:
                position = min(position, self.segment.head)
            if state == "attached":
                self.segment.note_presence(index, stream.base + position)
            elif state == "left" and position is not None:
                self.segment.note_absence(index, stream.base + position, pid)
            elif state == "evicted":
                stream.patience.heed(rank, wishes)
                self.segment.note_absence(index, max(0, stream.tap.acknowledged - behind), 0)
            causes = _CAUSES.index(cause) if cause in _CAUSES else 0
            self.segment.post(index, state, pid, behind, causes)
            return True

    def note_cut(self, stream: Outgoing) -> None:
        """The stream's machine is out of reach; its readers say where they are once it is back."""
        with self._lock:
            for index, _, state, pid, _, seat, behind, _ in self.segment.placements():
                if seat == stream.tap.seat and state == "attached" and not stream.over:
                    self.segment.post(index, "cut", pid, behind)

    def loses(self, stream: Outgoing) -> bool:
        """Are there readers of this stream that the writer does not wish to go on without?"""
        return any(not stream.patience.is_wished(rank) for rank in self.wishes_of(stream))

    def lose(self, stream: Outgoing) -> None:
        """The stream's machine cannot be reached any more, or does not heed what the writer wishes."""
        with self._lock:
            for index, rank, state, pid, _, seat, behind, _ in self.segment.placements():
                if seat == stream.tap.seat and state in ("placed", "attached", "died", "cut"):
                    if stream.patience.is_wished(rank):
                        self.segment.post(index, "evicted", pid, behind, _CAUSES.index("slow"))
                    else:
                        self.segment.post(index, "lost", pid, behind)

    def look(self) -> None:
        """Nobody holds a stream up by one connection without the other, nor by doing nothing."""
        for stream in self.streams:
            stream.look()
            if stream.over:  # who asks for it hears the same as of one that there never was
                with self._lock:
                    del self._streams[stream.stream]

    def close(self) -> None:
        for stream in self.streams:
            stream.leave()

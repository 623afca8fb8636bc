"""A relay: the ring on this machine that what a stream brings is written into, and the ranks that read it here.

An ordinary ring, of which this link is the writer. Its readers attach, lag, die and leave under the policy of the
queue's writer, which came along; what becomes of them is told to the writer's link, by states that may be said again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ringcast import _core
from ringcast._names import segment_name
from ringcast._version import __version__
from ringcast.codec import codec
from ringcast.errors import LinkError, QueueClosedError, QueueFullError, ReaderDiedError
from ringcast.net.link._channel import Channel
from ringcast.net.link._readers import Readers
from ringcast.net.link._words import (
    INT32_MAX,
    UINT32_MAX,
    flag_in,
    number,
    number_in,
    rows_in,
    seconds_in,
    text_in,
)
from ringcast.waiting import WaitSettings

_SLICE_S = 0.1
"""How often who waits for room looks whether the connection is cut: it is to be dialled again within 0.7 s."""
_EVICT = 2  # of what a writer does about slow readers, all that is done here
_PAUSE_S = 0.05
"""How often it is tried again where a reader that died, or views, are in the way of what has come."""


class Relay:
    """Of one stream. `welcome` is what the writer's link says of its queue; `shape` what the readers' handle does.

    All but `publish`, which one thread calls, may be called from any.
    """

    def __init__(self, peer: str, n_local: int, shape: list[int], welcome: dict[str, Any]) -> None:
        homes = number_in(welcome, "homes", 1, INT32_MAX)
        found = [homes + n_local, number_in(welcome, "max_chunk_bytes", 1), number_in(welcome, "max_chunks", 1)]
        if found != shape:
            raise LinkError(f"{peer} has another queue than the handle says: {found} and not {shape}")
        self.link_timeout = seconds_in(welcome, "link_timeout")
        self.base = number_in(welcome, "first")
        """The writer's number of the first message here."""
        policy = rows_in({"policy": [welcome.get("policy")]}, "policy", 4)[0]
        dead, slow, _, patience_ns = (number(one, "policy") for one in policy)
        self.readers = Readers()
        self.published = 0
        """By the writer, when its link last said so; counted as here."""
        self.host = text_in(welcome, "host")
        """The writer's."""
        self.segment = segment = _core.Segment.create(
            name=segment_name(None), user_name=text_in(welcome, "name", _core.MAX_USER_NAME_BYTES), release=__version__,
            n_reader=homes, ranks=[_core.NOBODY] * homes, max_chunk_bytes=shape[1], max_chunks=shape[2],
            max_bytes=0, max_leases=0, data_budget=number_in(welcome, "data_budget"),
            source=(self.host[:63], number_in(welcome, "pid", 0, UINT32_MAX)),
        )  # fmt: skip
        self._end: _core.End[Any] = _core.End(
            segment, writer=True, rank=None, strategy=WaitSettings.of(None).strategy,
            policy=(dead, slow if slow == _EVICT else 0, 0, patience_ns), codec=codec("raw"),
            reporter=self.readers, report_interval_ns=60_000_000_000,
        )  # fmt: skip
        self._flow: _core.Inflow | None = None
        self._lock = threading.RLock()
        self._ranks: dict[int, int] = {}  # the home seat of each that is placed here
        self._homes = list(range(homes))  # in which somebody is expected who is not placed yet
        self._spare: list[int] = []  # in which nobody is
        self._wishes: dict[int, int] = {}  # of the writer, to go on without a rank, that are known here
        self._version = 0
        self._ready = False
        self._is_closed = self._nobody_can_come = False
        try:
            self._expect(number_in(welcome, "open", 0, INT32_MAX))
        except LinkError:
            self._end._close(0)
            raise

    @property
    def waits(self) -> bool:
        """For its readers, to take what has come."""
        flow = self._flow
        return flow is not None and flow.waits

    @property
    def head(self) -> int:
        """How many messages are published here."""
        return self.segment.head

    def has(self, rank: int) -> bool:
        with self._lock:
            return rank in self._ranks

    def note_place(self, placed: dict[str, Any]) -> None:
        """Of a place that the writer's link has given to a reader here: from now on older words of it are stale."""
        with self._lock:
            self._version = max(self._version, number_in(placed, "version"))

    def seat(self, rank: int, pid: int, place: int, placed: dict[str, Any] | None) -> None:
        """A seat for who is about to attach, and holds `place` at the desk. `placed` is what the writer's link says, if
        it was asked."""
        with self._lock:
            if rank not in self._ranks:
                assert placed is not None
                kept, given_up = flag_in(placed, "kept"), flag_in(placed, "given_up")
                wished = number_in(placed, "wished", 0, UINT32_MAX)
                pool = self._homes if kept and self._homes else self._spare or self._homes
                if not pool:
                    raise LinkError("there is no seat for another reader")
                home = self._ranks[rank] = pool.pop(0)
                self._wishes[rank] = wished
                self.segment.name_rank(home, rank)
                if given_up:
                    self.segment.give_up_home(home)
            self.readers.expect(rank, pid, place)

    def state(self) -> dict[str, Any]:
        """What has become of the readers, for the writer's link."""
        with self._lock:
            states = self.readers.states(self.segment, set(self._ranks))
            return {"op": "state", "readers": states, "waits": self.waits}

    def heed(self, word: dict[str, Any]) -> None:
        """How things stand at the writer. Raises LinkError."""
        version, open_homes = number_in(word, "version"), number_in(word, "open", 0, INT32_MAX)
        wishes = {
            number(rank, "rank", 0, INT32_MAX): number(count, "wishes", 0, UINT32_MAX)
            for rank, count in rows_in(word, "evict", 2)
        }
        closed, over, ready = (flag_in(word, name) for name in ("closed", "over", "ready"))
        published = number_in(word, "published")
        with self._lock:
            self.published = max(self.published, published - self.base)
            if version < self._version:
                return
            self._version = version
            # Who has been given a place here and does not know it yet has his home, too.
            self._expect(open_homes + sum(rank not in self._ranks for rank in wishes))
            for rank, count in wishes.items():
                if rank in self._ranks and count > self._wishes[rank]:
                    self._wishes[rank] = count
                    if self._evict(rank):
                        self.readers.evicted(rank, "slow", 0)
            self._is_closed, self._nobody_can_come = closed, over
            for rank in [rank for rank in self._ranks if rank not in wishes]:  # it has come up elsewhere
                self._evict(rank)
                self.readers.forget(rank)
                self._spare.append(self._ranks.pop(rank))
                del self._wishes[rank]
            if ready and not self._ready:  # by a thread of its own: a message may be waiting for room
                threading.Thread(target=self.confirm_ready, daemon=True).start()
                self._ready = True  # not before: if the system gives no thread, the next word finds it to be done

    def confirm_ready(self) -> None:
        with suppress(QueueClosedError):
            self._end._relay_ready()

    def drop_the_dead(self, states: list[list[Any]]) -> None:
        """Once nobody can take a rank over any more: who lives is not to wait for those who died."""
        if self._is_closed or self._nobody_can_come:
            self._drop({one[0]: one[3] for one in states if one[1] == "died"})

    def drop_the_absent(self, states: list[list[Any]]) -> None:
        """No process here asks for this queue any more: nor for who has not attached."""
        if self._nobody_can_come:
            self._drop({one[0]: one[3] for one in states if one[1] == "placed"})

    def flow(self, data: Channel, control: Channel) -> _core.Inflow:
        """What comes over these connections is published here, by `publish`."""
        self._flow = _core.Inflow(self._end, data, control, self.base)
        return self._flow

    def publish(self, flow: _core.Inflow, meanwhile: Callable[[], None]) -> tuple[int, int]:
        """All that comes, until the stream's end: why, and whether all readers were there.

        Calls `meanwhile` now and then while it waits for room. Raises what that does, and LinkError.
        """
        try:
            while True:
                try:
                    ended = flow.run(_SLICE_S)
                except (ReaderDiedError, QueueFullError):  # no error of the link: the readers' states tell of it
                    time.sleep(_PAUSE_S)
                    ended = None
                if ended is not None:
                    return ended
                meanwhile()
        finally:
            self._flow = None  # what would have to wait comes again

    def end(self, why: int, reason: str) -> None:
        """Nothing more will be published: readers are told why, after all that is there."""
        self._end._relay_end(why, reason)

    def let_go(self, wanted: bool) -> bool:
        """Of the ring, after its end; unless somebody is just about to attach, who is to read what came."""
        self.readers.states(self.segment, set(self._ranks))
        if wanted and self.readers.are_awaited:
            return False
        self._end._close(0)
        return True

    def _drop(self, behind: dict[int, int]) -> None:
        for rank, messages in behind.items():
            if self._evict(rank):
                self.readers.evicted(rank, "dead", messages)

    def _evict(self, rank: int) -> bool:
        """Go on without it. False: it is in nobody's way, as none is once nothing more is published."""
        with suppress(QueueClosedError):
            return self._end.evict(rank)
        return False

    def _expect(self, how_many: int) -> None:
        """No more readers than so many are still to come."""
        while len(self._homes) > how_many:
            home = self._homes.pop()
            self.segment.forgo_home(home)
            self._spare.append(home)

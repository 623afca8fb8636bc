"""A stream at the writer's side: what its ring holds, for the readers of one other machine.

The tap reads ahead of what the other link has published in its ring, and that is this seat's cursor; so the ring is the
window. A connection that ends is followed by another one, over which the other link says how far it has come; until
then nothing is given up but what it has.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ringcast import _core
from ringcast.errors import LinkError, RingcastError
from ringcast.net.link._carried import Carried
from ringcast.net.link._channel import Channel, ChannelClosedError
from ringcast.net.link._control import SILENCE_S, Control
from ringcast.net.link._log import of_stream
from ringcast.net.link._patience import Patience
from ringcast.net.link._words import (
    END,
    INT32_MAX,
    UINT32_MAX,
    WELCOME,
    LostError,
    flag_in,
    number,
    number_in,
    rows_in,
    text_in,
    words,
)
from ringcast.waiting import WaitSettings

if TYPE_CHECKING:
    from ringcast.net.link._exported import Exported

REDIALLED_WITHIN_S = 0.7
"""After an end of both connections: a link that lives has dialled again by then."""
_LOOK_S = 0.5
"""How often an idle stream asks whether the writer lives."""
_ORDERS_S = 0.05
"""How often a busy one looks what the writer wishes."""

_TOLD_STATES = ("placed", "attached", "left", "died", "evicted")
_CAUSES = (None, "dead", "slow", "absent")


class Outgoing:
    """One stream. Its first connection comes by `connect`, as all later ones do. `promised`: all was kept for the
    reader that it begins with."""

    def __init__(self, exported: Exported, stream: str, host: str, promised: bool) -> None:
        self.stream = stream
        self.host = host
        self.over = False
        """Everything has arrived, or the stream is lost."""
        self.cut_at: float | None = None
        """Since when there is no connection, on the monotonic clock."""
        self.reconnects = -1
        self.tap = _core.Tap(exported.segment, WaitSettings.of(None).strategy, promised)
        self.base = self.tap.first
        self.log = of_stream(stream, host)
        self._exported = exported
        self._changed = threading.Condition()
        self._next: tuple[Channel, int | None, dict[str, Any]] | None = None
        self._data: Channel | None = None
        self._control: Control | None = None
        self._silent = False
        self._begun_at = 0.0
        self._leaving = False
        self._end_is_sent = False
        self._ended = False  # the other link has had the end, too
        self._given_up = ""  # why
        self._carried = Carried(exported.encrypt)
        self._readers: dict[int, tuple[Any, ...]] = {}  # what was last heard of each, by rank
        self._waits = False  # the other link, for its readers, as it says
        self.patience = Patience(exported.patience_s, exported.evicts_within_s)
        self._thread = threading.Thread(target=self._run, name="ringcast-outgoing", daemon=True)
        self._thread.start()

    def connect(self, channel: Channel, published: int | None, welcome: dict[str, Any]) -> None:
        """The other link is there, anew if it says what it has published, and is to be welcomed."""
        with self._changed:
            if self.over or self._given_up:
                raise LostError("this stream is lost")
            self._carried.watch(channel)
            if self._next is not None:
                self._next[0].close()
            self._next = (channel, published, welcome)
            self._hang_up()

    def control(self, channel: Channel) -> None:
        """The control connection that belongs to the data connection of now."""
        self._carried.watch(channel)
        with self._changed:
            before, self._control = self._control, Control(
                channel, tap=self.tap, on_word=self._hear, on_beat=self._beat, on_cut=self._cut
            )  # fmt: skip
            if before is not None:
                before.close()
            self._control.start()

    def state(self) -> dict[str, Any]:
        """How things stand at the writer, for the other link."""
        return self._exported.state_for(self)

    def _beat(self) -> dict[str, Any]:
        return {**self.state(), "published": self._exported.segment.head}

    def tell(self) -> None:
        """How things stand is said, soon, if there is a connection; who is not there hears it when he comes."""
        control = self._control
        if control is not None:
            control.beat_soon()

    def look(self) -> None:
        """A data connection whose control connection does not come is none: nothing would tell that it is cut. And one
        whose other side does nothing is not waited for."""
        self.note()
        wishes = self._exported.wishes_of(self)
        with self._changed:
            if self.over:
                return
            data = self._data
            if data is not None and self._control is None and (why := self._is_half_open(data)):
                self._note_cut(why)  # which `_pump` would not find out as long as there is nothing to send
                self._changed.notify_all()
                self.tap.rouse()
                return
            acknowledged = self.tap.acknowledged
            why = self.patience.ends(
                time.monotonic(),
                connected=data is not None,
                under_way=self.tap.position != acknowledged or self._end_is_sent,
                progress=(acknowledged, 0 if data is None else data.sent_bytes),
                waits_for_readers=self._waits,
                wishes=wishes,
            )
        if why:
            self._give_up(why)

    def _is_half_open(self, data: Channel) -> str:
        """Why a data connection without a control connection is given up, if it is."""
        if data.wait(0):  # nothing is ever said on it to this side: it is the end
            return "the other link has ended before its control connection came"
        if time.monotonic() - self._begun_at > SILENCE_S:
            return f"its control connection has not come for {SILENCE_S:g} s"
        return ""

    def note(self) -> None:
        """Say in the queue's memory how the stream fares."""
        self._carried.note(self._exported.segment, self.tap.seat, reconnects=self.reconnects, cut_at=self.cut_at)

    def leave(self) -> None:
        """No reader is left there."""
        with self._changed:
            self._leaving = True
            self._hang_up()

    def _hang_up(self) -> None:
        """With the lock."""
        for one in (self._data, self._control):
            if one is not None:
                one.close()
        self._changed.notify_all()
        self.tap.rouse()

    def _run(self) -> None:
        lost = "a fault of the link process"
        try:
            while True:
                channel = self._await_connection()
                if channel is None:
                    arrived = self.tap.ending(False) and self.tap.acknowledged == self.tap.position
                    lost = self._given_up or ("" if self._leaving or arrived else "its link has not come back")
                    return
                try:
                    self._pump(channel)
                    lost = ""
                    return
                except LinkError as error:
                    with self._changed:
                        self._note_cut(str(error))
        except RingcastError as error:
            lost = str(error)
        except Exception:
            self.log.exception("fails")
        finally:
            with self._changed:
                self.over = True
                self._hang_up()
                if self._next is not None:
                    self._next[0].close()
            self.note()
            if lost:
                self.log.warning("is lost: %s", lost)
            else:
                how = "no reader is left there" if self._leaving else "everything has arrived"
                self.log.info("ends: %s; %d messages", how, self.tap.acknowledged - self.base)
            # Nothing is read any more when the writer is told. Whom it has evicted it does not hear of as lost.
            self.tap.close(lost=bool(lost) and self._exported.loses(self))
            if lost:
                self._exported.lose(self)

    def _note_cut(self, why: str) -> None:
        """With the lock."""
        if self.cut_at is None:
            self.cut_at = time.monotonic()
            if not self._leaving and not self._given_up:
                self.log.warning("is cut: %s", why)
        self._close_connections()

    def _close_connections(self) -> None:
        """With the lock."""
        for one in (self._data, self._control):
            if one is not None:
                one.close()
        self._data = self._control = None
        self._waits = False

    def _await_connection(self) -> Channel | None:
        """The next connection, welcomed. None: there will be none."""
        with self._changed:
            while True:
                if self._leaving or self._given_up:
                    return None
                if self._next is not None:
                    (channel, published, welcome), self._next = self._next, None
                    break
                left = None
                if self.cut_at is not None:
                    patience = self._exported.link_timeout
                    if not self._silent:
                        patience = min(patience, REDIALLED_WITHIN_S)
                    left = self.cut_at + patience - time.monotonic()
                    if left <= 0:
                        return None
                self._changed.wait(left)
            self._begun_at = time.monotonic()
            if self.cut_at is not None:
                self.log.warning("is back after %.1f s, over %s", self._begun_at - self.cut_at, channel.peer)
            self._data, self.cut_at, self._silent = channel, None, False
            self.reconnects += 1
            self._end_is_sent = False
        if published is not None:
            if not self.tap.acknowledge(published):
                channel.close()
                raise LinkError(
                    f"the link at the other side says it has published {published} messages, which cannot be: "
                    f"{self.tap.acknowledged} were acknowledged, {self.tap.position} sent"
                )
            self.tap.go_back()
        try:
            channel.send(WELCOME, words(welcome))
        except LinkError as error:
            with self._changed:
                self._note_cut(str(error))
            return self._await_connection()
        return channel

    def _pump(self, channel: Channel) -> None:
        """Send all there is, until everything has arrived. Raises LinkError when the connection ends."""
        tap, flow = self.tap, _core.Outflow(self.tap)
        idle = False
        while (why := tap.ending(idle)) == 0 or tap.readable:
            if self._data is not channel or self._next is not None or self._leaving:
                raise ChannelClosedError(f"the connection to {channel.peer} is over")
            idle = flow.run(channel, _ORDERS_S, _LOOK_S)
            self._look_at_wishes()
        channel.send(END, bytes([why, self.tap.all_ready]))
        with self._changed:
            self._end_is_sent = True
            while not self._ended:
                if self._data is not channel or self._next is not None:
                    raise ChannelClosedError(f"the connection to {channel.peer} is over")
                self._changed.wait()

    _said: dict[str, Any] | None = None

    def _look_at_wishes(self) -> None:
        state = self.state()
        if state != self._said:
            self._said = state
            self.tell()

    def _cut(self, control: Control, silent: bool, why: str) -> None:
        """The control connection is over; and with it, the data connection."""
        with self._changed:
            if control is not self._control or self.over:
                return
            self._silent = silent
            self._note_cut(why)
            self._readers.clear()  # all is told anew
            self._changed.notify_all()
            self.tap.rouse()
        if silent:
            self._exported.note_cut(self)

    def _hear(self, word: dict[str, Any]) -> None:
        """Raises LinkError."""
        op = word.get("op")
        if op == "state":
            self._waits = flag_in(word, "waits")
            for rank, *facts in map(_checked_facts, rows_in(word, "readers", 6)):
                before, now = self._readers.get(rank), tuple(facts)
                if before != now and self._exported.hear_of(self, rank, before, now):
                    self._readers[rank] = now
        elif op == "place":
            self._place(word)
        elif op == "leave":
            self._confirm()
            self.leave()
        elif op == "ended":
            self._confirm()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
        elif op == "failed":
            self._give_up(f"the readers there cannot be served: {text_in(word, 'why', 4096)}")

    def _confirm(self) -> None:
        """The other link hears that it was heard; else it comes again, and is told that this stream is over."""
        control = self._control
        if control is not None:
            with suppress(LinkError):
                control.say({"op": "ended"})

    def _give_up(self, why: str) -> None:
        with self._changed:
            if not self._given_up:
                self._given_up = why
                self._close_connections()
                self._changed.notify_all()
                self.tap.rouse()

    def _place(self, word: dict[str, Any]) -> None:
        """Raises LinkError."""
        rank, pid = number_in(word, "rank", -INT32_MAX, INT32_MAX), number_in(word, "pid", 0, UINT32_MAX)
        answer: dict[str, Any] = {"op": "placed", "id": number_in(word, "id")}
        try:
            answer.update(self._exported.place(self, rank, pid))
        except RingcastError as error:
            answer.update(error=type(error).__name__, message=str(error))
        control = self._control
        if control is not None:
            control.say(answer)


def _checked_facts(row: list[Any]) -> list[Any]:
    """Rank, state, pid, messages behind, cause and position of a reader, as its link says. Raises LinkError."""
    rank, state, pid, behind, cause, position = row
    if state not in _TOLD_STATES or cause not in _CAUSES:
        raise LinkError(f"the link at the other side says of a reader that it is {state!r:.40}, {cause!r:.40}")
    number(rank, "rank", 0, INT32_MAX)
    number(pid, "pid", 0, UINT32_MAX)
    number(behind, "behind")
    if position is not None:
        number(position, "position")
    return row

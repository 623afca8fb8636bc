"""A stream at the readers' side: its connections, which bring a queue of another machine into a relay.

This side dials, and dials again after a cut. A message that has arrived in part is room that is reserved: a cut gives
it back. What is acknowledged has been published.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ringcast.errors import (
    CapacityError,
    CorruptError,
    LinkError,
    MessageTooLargeError,
    QueueClosedError,
    RingcastError,
)
from ringcast.net._addresses import shown
from ringcast.net._deadline import Deadline
from ringcast.net.link._carried import Carried
from ringcast.net.link._channel import Channel, ChannelClosedError
from ringcast.net.link._control import BEAT_S, Control
from ringcast.net.link._dial import DialError, dial
from ringcast.net.link._hello import Why
from ringcast.net.link._log import of_stream
from ringcast.net.link._relay import Relay
from ringcast.net.link._words import (
    CLOSED,
    HELLO,
    INT32_MAX,
    LINK_DIED,
    WELCOME,
    WRITER_DIED,
    LostError,
    number_in,
    receive,
    refusal,
    words,
)

WELCOMED_WITHIN_S = 10.0
REDIALS_S = (0.0, 0.1, 0.3)
"""Pauses before the first redials after a cut; then the last one again and again."""
_DIAL_S = 2.0
_REFUSALS = 2
"""So often refused, the other link is gone."""
_SLICE_S = 0.5
_HANGS_UP_WITHIN_S = 5.0

_ENDS = {CLOSED: "its queue was closed", WRITER_DIED: "its writer died"}


class LeavingError(Exception):
    """A stream that is given up takes no reader any more: another one does."""


class Incoming:
    """One queue of another machine, for the readers here. `wanted` is what a reader asked of the link."""

    def __init__(self, wanted: dict[str, Any], key: bytes) -> None:
        self.epoch = int(wanted["epoch"])
        self.over = False
        self.cut_at: float | None = None
        self.reconnects = 0
        self._address: tuple[str, int] = (wanted["address"][0], int(wanted["address"][1]))
        self._encrypt = bool(wanted["encrypt"])
        self._key = key
        self._n_local = len(wanted["local_ranks"])
        self._shape = list(wanted["shape"])
        self._stream = secrets.token_hex(8)
        self._log = of_stream(self._stream, shown(self._address))
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._answers: dict[int, dict[str, Any] | None] = {}  # of the questions that wait for one
        self._asked = 0
        self._relay: Relay | None = None
        self._carried = Carried(self._encrypt)
        self._data: Channel | None = None
        self._control: Control | None = None
        self._leaving = False
        self._failed = ""
        self._lost = ""
        self._ended = False  # all has come
        self._is_confirmed = False  # the other link knows that it has, or that no reader is left here
        self._has_finished = False
        self._said: tuple[Any, ...] | None = None

    @property
    def has_begun(self) -> bool:
        return self._relay is not None

    def join(self, rank: int, pid: int, place: int, deadline: Deadline) -> dict[str, Any]:
        """A seat for a reader of this machine, who holds `place` at the desk: the ring to attach to, and its rank.

        Raises LinkError, and LeavingError if this stream comes to its end.
        """
        with self._lock:
            if self._leaving or self.over:
                raise LeavingError
            placed: dict[str, Any] | None = None
            if self._relay is None:
                try:
                    placed = self._open(rank, pid, deadline)
                except BaseException:
                    self.over = True  # who waits for the lock dials by himself, what he was told, and is looked after
                    raise
            elif not self._relay.has(rank):
                placed = self._ask_for_place(rank, pid, deadline)
            relay = self._relay
            assert relay is not None
            rank = rank if placed is None else number_in(placed, "rank", 0, INT32_MAX)
            self._log.info("rank %d (pid %d) has its place here", rank, pid)
            relay.seat(rank, pid, place, placed)
            return {"segment": relay.segment.name, "epoch": relay.segment.epoch, "rank": rank}

    def expect_nobody(self, rank: int, place: int) -> None:
        """Who was given the rank has left his place at the desk, perhaps before he has attached."""
        relay = self._relay
        if relay is not None:
            relay.readers.expect_nobody(rank, place)

    def look(self) -> None:
        """What has become of the readers is told to the writer's link, if it is new; and how the stream fares, here.

        Without waiting, for all streams are looked after by one thread.
        """
        relay = self._relay
        if relay is None:
            return  # it is being made
        self._note()
        control = self._control
        if control is None or self.over:
            return  # cut, or all is said
        state = relay.state()
        relay.drop_the_dead(state["readers"])
        facts = (state["readers"], state["waits"])
        if facts != self._said:
            self._said = facts
            control.beat_soon()

    def forsake(self) -> None:
        """No process here asks for this queue any more: if its readers have all left, the stream is given up.

        Without waiting: while somebody joins or the stream ends, the next call will do.
        """
        relay, control = self._relay, self._control
        if relay is None or control is None or self.over or not self._lock.acquire(blocking=False):
            return
        try:  # who joins has his place before, or finds that it is too late
            state = relay.state()
            relay.drop_the_absent(state["readers"])
            if not all(one[1] in ("left", "evicted") for one in state["readers"]):
                return
            self._leaving = True
        finally:
            self._lock.release()
        control.say_soon({"op": "leave"})

    def let_go(self, wanted: bool) -> bool:
        """Of the ring of a stream that is over, unless somebody is just about to attach, who is to read what came."""
        return self._has_finished and self._relay is not None and self._relay.let_go(wanted)

    def _note(self) -> None:
        relay = self._relay
        if relay is not None:
            self._carried.note(
                relay.segment, None, reconnects=self.reconnects, cut_at=self.cut_at, published=relay.published
            )

    def _open(self, rank: int, pid: int, deadline: Deadline) -> dict[str, Any]:
        """The stream's first connections, and its ring."""
        hello = {"stream": self._stream, "host": socket.gethostname(), "rank": rank, "pid": pid, "published": None}
        data = self._dialled(hello, deadline, control=False)
        relay: Relay | None = None
        try:
            welcome = receive(data, WELCOME, min(WELCOMED_WITHIN_S, deadline.left))
            placed = welcome.get("placed")
            if not isinstance(placed, dict):
                raise LinkError(f"{data.peer} welcomes in a way that this release does not understand")
            self._relay = relay = Relay(data.peer, self._n_local, self._shape, welcome)
            relay.note_place(placed)
            self._connected(data, self._dialled({"stream": self._stream}, deadline, control=True))
            self._log = of_stream(self._stream, relay.host)
            self._log.info("begins, from %s: %s", data.peer, relay.segment.label)
            threading.Thread(target=self._run, args=(data, relay), name="ringcast-incoming", daemon=True).start()
        except BaseException:
            data.close()
            self._hang_up()
            if relay is not None:
                relay.end(LINK_DIED, "it could not be joined")
                relay.let_go(False)
            self._relay = None
            raise
        return placed

    def _dialled(self, hello: dict[str, Any], deadline: Deadline, *, control: bool) -> Channel:
        channel = dial(self._address, self.epoch, self._key, self._encrypt, deadline, control=control)
        self._carried.watch(channel)
        channel.send(HELLO, words(hello))
        return channel

    def _connected(self, data: Channel, control: Channel) -> None:
        with self._lock:
            relay = self._relay
            assert relay is not None
            self._data, self.cut_at, self._said = data, None, None
            relay.segment.note_reach(False)
            self._control = Control(control, on_word=self._hear, on_beat=relay.state, on_cut=self._cut)
            self._control.start()

    def _ask_for_place(self, rank: int, pid: int, deadline: Deadline) -> dict[str, Any]:
        """With the lock."""
        self._asked += 1
        number = self._asked
        self._answers[number] = None
        asked_of = None
        try:
            while (answer := self._answers[number]) is None:
                # Of a stream that is over the answer may be under way still: it comes on the other connection.
                if self._has_finished or deadline.left <= 0:
                    raise LinkError(
                        f"the link of the writer's machine has not placed this reader within {deadline.seconds} s"
                        if not self.over else "the stream from the writer's machine has ended"
                    )  # fmt: skip
                control = self._control
                if control is not None and control is not asked_of:
                    asked_of = control  # the next one is asked, too
                    control.say_soon({"op": "place", "id": number, "rank": rank, "pid": pid})
                self._answered.wait(min(_SLICE_S, deadline.left))
        finally:
            del self._answers[number]
        if "error" in answer:
            raise refusal(answer)
        return answer

    def _hear(self, word: dict[str, Any]) -> None:
        """Raises LinkError."""
        relay = self._relay
        assert relay is not None
        op = word.get("op")
        if op == "placed":
            with self._lock:
                number = number_in(word, "id")
                if "error" not in word:
                    relay.note_place(word)
                if number in self._answers:
                    self._answers[number] = word
                    self._answered.notify_all()
        elif op == "state" and not self.over:
            relay.heed(word)
        elif op == "ended":
            self._is_confirmed = True

    def _run(self, data: Channel, relay: Relay) -> None:
        why = LINK_DIED
        head, last = -1, 0.0
        try:
            while True:
                began = time.monotonic()
                try:
                    why = self._receive(data, relay)
                    break
                except LinkError as error:
                    if self._leaving:
                        self._hear_out()
                    if self._failed or self._is_confirmed:
                        break
                    with self._lock:
                        if self.cut_at is None and not self._leaving:
                            self.cut_at = time.monotonic()
                            self._log.warning("is cut: %s", error)
                        self._hang_up()
                tried = 1
                if relay.head != head or time.monotonic() - began >= BEAT_S:  # else it was hardly one
                    head, last, tried = relay.head, time.monotonic() + relay.link_timeout, 0
                again = self._redial(relay, last, tried)
                if isinstance(again, str):
                    if not self._leaving:
                        self._lost = again
                        self._log.warning("is lost: %s", self._lost)
                    break
                data = again
        except (CapacityError, MessageTooLargeError, CorruptError) as error:
            self._fail(str(error))
        except QueueClosedError:
            pass
        except Exception as error:
            self._log.exception("fails")
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._finish(data, relay, why)

    def _finish(self, data: Channel, relay: Relay, why: int) -> None:
        """The stream is over: readers are told why, and the other link, if it is there, that all has come."""
        with self._lock:
            self.over = True
            relay.end(why, self._failed or self._lost)
            self._answered.notify_all()
            if why == LINK_DIED:
                self._hang_up()
        if why != LINK_DIED:
            try:
                self._confirm(data, relay)
            except Exception:  # readers have all that they are to have
                self._log.exception("may not have been told that all has come")
        if not self._failed and not self._lost:
            how = "no reader is left here" if self._leaving else _ENDS.get(why, "it was closed here")
            self._log.info("ends: %s; %d messages", how, relay.head)
        self._note()
        with self._lock:
            self._has_finished = True
            self._answered.notify_all()

    def _confirm(self, data: Channel, relay: Relay) -> None:
        """The other link hears that all has come, also after a cut: it would take the readers for lost, and say so."""
        last = time.monotonic() + relay.link_timeout
        while True:
            with self._lock:
                if self._control is not None:
                    self._control.say_soon({"op": "ended"})
            with suppress(LinkError):  # which is what it comes to: the other side hangs up once it has heard that
                while data.wait(_HANGS_UP_WITHIN_S):
                    data.next()
                    data.read()  # the end, which is told again
            self._hear_out()
            with self._lock:
                self._hang_up()
            again = "it has heard it" if self._is_confirmed else self._redial(relay, last, 1)
            if isinstance(again, str):  # who gives a stream up, or is gone, has nothing more to hear
                return
            data = again

    def _hear_out(self) -> None:
        """What the other link has said last, before it hung up."""
        control = self._control
        if control is not None:
            control.join(_HANGS_UP_WITHIN_S)

    def _fail(self, why: str) -> None:
        self._log.error("cannot go on here: %s", why)
        with self._lock:
            self._failed = f"host {socket.gethostname()} cannot take its messages: {why}"
            control = self._control
        if control is not None:
            with suppress(LinkError):
                control.say({"op": "failed", "why": why[:1000]})

    def _hang_up(self) -> None:
        for one in (self._data, self._control):
            if one is not None:
                one.close()
        self._data = self._control = None

    def _receive(self, data: Channel, relay: Relay) -> int:
        """Publish what comes, until the end; why it is one. Raises LinkError when the connection ends."""
        with self._lock:
            control = self._control
        if control is None:
            raise ChannelClosedError(f"the connection to {data.peer} is over")
        flow = relay.flow(data, control.channel)

        def tell() -> None:
            """What was published of a batch that still waits is the other side's to know; and who is in its way."""
            with suppress(LinkError):  # the data connection will say so, too
                flow.acknowledge()
            self.look()

        def meanwhile() -> None:
            tell()
            if self._data is not data:  # cut: what waits for room here comes again
                raise ChannelClosedError(f"the connection to {data.peer} is over")

        why, all_were_there = relay.publish(flow, meanwhile)
        if not CLOSED <= why <= LINK_DIED or all_were_there > 1:
            raise LinkError(f"{data.peer} says that its queue has ended in way {why}, which is none")
        if all_were_there:
            relay.confirm_ready()
        with self._lock:
            self._ended = True
        tell()
        return why

    def _cut(self, control: Control, silent: bool, why: str) -> None:
        with self._lock:
            if control is not self._control:
                return
            if self._ended:
                self._hang_up()
                return
            assert self._relay is not None
            self._relay.segment.note_reach(silent)
            if self.cut_at is None:
                self.cut_at = time.monotonic()
                if not self._leaving:
                    self._log.warning("is cut: %s", why)
            self._hang_up()

    def _redial(self, relay: Relay, last: float, tried: int) -> Channel | str:
        """The next data connection, or why there is none until `last`: the other link is gone, or out of reach."""
        refusals = 0
        while not self._is_confirmed:
            time.sleep(REDIALS_S[min(tried, len(REDIALS_S) - 1)])  # nothing tells that a way is open again
            tried += 1
            left = last - time.monotonic()
            if left <= 0:
                return f"it was out of reach for {relay.link_timeout:g} s (link_timeout)"
            data = None
            try:
                hello = {"stream": self._stream, "published": relay.base + relay.head}
                data = self._dialled(hello, Deadline(min(left, _DIAL_S)), control=False)
                receive(data, WELCOME, min(left, _DIAL_S))
                control = self._dialled({"stream": self._stream}, Deadline(min(left, _DIAL_S)), control=True)
            except DialError as error:
                if data is not None:
                    data.close()
                refusals = refusals + 1 if error.why in (Why.REFUSED, Why.UNKNOWN_QUEUE) else 0
                if refusals >= _REFUSALS:
                    return f"its link is gone: {error}"
                continue
            except LostError as error:
                return f"it gave the stream up: {error}"
            except RingcastError:
                if data is not None:
                    data.close()
                continue
            self.reconnects += 1
            if self.cut_at is not None:
                self._log.warning("is back after %.1f s, from %s", time.monotonic() - self.cut_at, data.peer)
            self._connected(data, control)
            return data
        return "it has heard it"

"""A stream at the readers' side: an ordinary ring on this machine, a relay, which this link writes with what comes.

Its readers attach, lag, die and leave there under the writer's policy, which came along; what becomes of them is told
to the writer's link, by states that may be said again. A message that has arrived in part is room that is reserved: a
cut gives it back. What is acknowledged has been published.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ringcast import _core
from ringcast._names import segment_name
from ringcast._version import __version__
from ringcast.codec import codec
from ringcast.errors import (
    CapacityError,
    CorruptError,
    LinkError,
    MessageTooLargeError,
    QueueClosedError,
    ReaderDiedError,
    RingcastError,
)
from ringcast.net._deadline import Deadline
from ringcast.net.link._channel import Channel
from ringcast.net.link._control import Control
from ringcast.net.link._dial import DialError, dial
from ringcast.net.link._hello import Why
from ringcast.net.link._readers import Readers
from ringcast.net.link._words import (
    BATCH,
    BEGIN,
    BEGINNING,
    BODY,
    END,
    HELLO,
    LINK_DIED,
    WELCOME,
    LostError,
    receive,
    refusal,
    words,
)
from ringcast.waiting import WaitSettings

WELCOMED_WITHIN_S = 10.0
REDIALS_S = (0.0, 0.1, 0.3)
"""Pauses before the first redials after a cut; then the last one again and again."""
_DIAL_S = 2.0
_REFUSALS = 2
"""So often refused, the other link is gone."""
_SLICE_S = 0.5
_ACKNOWLEDGED_AFTER_S = 0.001
"""If nothing follows: an acknowledgement costs the other link's threads more than a message, and is not hurried for."""
_EVICT = 2  # of what a writer does about slow readers, all that is done here
_HANGS_UP_WITHIN_S = 5.0

log = logging.getLogger("ringcast.link")


class Incoming:
    """One queue of another machine, for the readers here. `wanted` is what a reader asked of the link."""

    def __init__(self, wanted: dict[str, Any], key: bytes) -> None:
        self.epoch = int(wanted["epoch"])
        self.over = False
        self.cut_at: float | None = None
        self.reconnects = 0
        self.segment: _core.Segment | None = None
        self._address: tuple[str, int] = (wanted["address"][0], int(wanted["address"][1]))
        self._encrypt = bool(wanted["encrypt"])
        self._key = key
        self._local_ranks = list(wanted["local_ranks"])
        self._shape = list(wanted["shape"])
        self._stream = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._answers: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self._end: _core.End[Any] | None = None
        self._welcome: dict[str, Any] = {}
        self._base = 0
        self._ranks: dict[int, int] = {}  # the home seat of each that is placed here
        self._homes: list[int] = []  # in which somebody is expected who is not placed yet
        self._spare: list[int] = []  # in which nobody is
        self._readers = Readers()
        self._wishes: dict[int, int] = {}
        self._data: Channel | None = None
        self._control: Control | None = None
        self._leaving = False
        self._failed = ""
        self._ended = False  # all has come
        self._said: list[Any] | None = None

    def join(self, rank: int, pid: int, deadline: Deadline) -> dict[str, Any]:
        """A place for a reader of this machine: the ring that it is to attach to, and its rank. Raises LinkError."""
        with self._lock:
            if self._end is None:
                placed = self._open(rank, pid, deadline)
            elif rank in self._ranks:
                placed = {"rank": rank, "kept": True}
            else:
                placed = self._ask_for_place(rank, pid, deadline)
            rank = placed["rank"]
            if rank not in self._ranks:
                pool = self._homes if placed["kept"] and self._homes else self._spare or self._homes
                if not pool:
                    raise LinkError("there is no seat for another reader")
                self._ranks[rank] = pool.pop(0)
                assert self.segment is not None
                self.segment.name_rank(self._ranks[rank], rank)
            self._readers.expect(rank, pid)
            assert self.segment is not None
            return {"segment": self.segment.name, "epoch": self.segment.epoch, "rank": rank}

    def look(self) -> None:
        """What has become of the readers is told to the writer's link, if it is new."""
        if self._control is None:
            return  # it is being made, or cut
        state = self.state()
        if state is not None and (self._is_closed or self._nobody_can_come):
            self._drop({one[0]: one[3] for one in state["readers"] if one[1] == "died"})
        control = self._control
        if state is None or control is None or state["readers"] == self._said:
            return
        try:
            control.say(state)
            self._said = state["readers"]
        except LinkError:
            pass

    def state(self) -> dict[str, Any] | None:
        with self._lock:
            if self.segment is None or self.over:
                return None
            return {"op": "state", "readers": self._readers.states(self.segment, set(self._ranks))}

    def forsake(self) -> None:
        """No process here asks for this queue any more: if its readers have all left, the stream is given up."""
        if self._control is None:
            return
        state = self.state()
        if state is not None and self._nobody_can_come:
            self._drop({one[0]: one[3] for one in state["readers"] if one[1] == "placed"})
        if state is None or not all(one[1] in ("left", "evicted") for one in state["readers"]):
            return
        with self._lock:
            self._leaving = True
            control = self._control
        if control is not None:
            try:
                control.say(state)
                control.say({"op": "leave"})
            except LinkError:
                pass

    def let_go(self, wanted: bool) -> bool:
        """Of the ring of a stream that is over, unless somebody is just about to attach, who is to read what came."""
        assert self.segment is not None
        self._readers.states(self.segment, set(self._ranks))
        if not self._has_finished or (wanted and self._readers.are_awaited):
            return False
        assert self._end is not None
        self._end._close(0)
        return True

    def _drop(self, behind: dict[int, int]) -> None:
        """Nobody will come to read what is kept for these ranks, and who lives is not to wait for it."""
        for rank, messages in behind.items():
            if self._end is not None and self._end.evict(rank):
                self._readers.evicted(rank, "dead", messages)

    @property
    def bytes(self) -> tuple[int, int]:
        data = self._data
        return (0, 0) if data is None else (data.sent_bytes, data.received_bytes)

    def _open(self, rank: int, pid: int, deadline: Deadline) -> dict[str, Any]:
        """The stream's first connections, and its ring."""
        hello = {"stream": self._stream, "host": socket.gethostname(), "rank": rank, "pid": pid, "published": None}
        data = self._dialled(hello, deadline, control=False)
        try:
            self._welcome = welcome = receive(data, WELCOME, WELCOMED_WITHIN_S)
            placed: dict[str, Any] = welcome["placed"]
            self._make_ring(data.peer, welcome)
            self._connected(data, self._dialled({"stream": self._stream}, deadline, control=True))
            threading.Thread(target=self._run, args=(data,), name="ringcast-incoming", daemon=True).start()
        except BaseException as error:
            data.close()
            self._hang_up()
            if self._end is not None:
                self._end._relay_end(LINK_DIED, "it could not be joined")
                self._end._close(0)
            self._end = self.segment = None
            if isinstance(error, (KeyError, TypeError, ValueError)) and not isinstance(error, RingcastError):
                raise LinkError(
                    f"{data.peer} welcomes in a way that this release does not understand: {error!r}"
                ) from error
            raise
        return placed

    def _make_ring(self, peer: str, welcome: dict[str, Any]) -> None:
        homes = int(welcome["homes"])
        shape = [homes + len(self._local_ranks), int(welcome["max_chunk_bytes"]), int(welcome["max_chunks"])]
        if shape != self._shape:
            raise LinkError(f"{peer} has another queue than the handle says: {shape} and not {self._shape}")
        self.segment = segment = _core.Segment.create(
            name=segment_name(None), user_name=str(welcome["name"])[:127], release=__version__,
            n_reader=homes, ranks=[_core.NOBODY] * homes, max_chunk_bytes=shape[1], max_chunks=shape[2],
            max_bytes=0, max_leases=0, data_budget=int(welcome["data_budget"]),
            source=(str(welcome["host"])[:63], int(welcome["pid"])),
        )  # fmt: skip
        dead, slow, _, patience_ns = welcome["policy"]
        self._end = _core.End(
            segment, writer=True, rank=None, strategy=WaitSettings.of(None).strategy,
            policy=(dead, slow if slow == _EVICT else 0, 0, patience_ns), codec=codec("raw"),
            reporter=self._readers, report_interval_ns=60_000_000_000,
        )  # fmt: skip
        self._homes = list(range(homes))
        self._base = int(welcome["first"])
        self._expect(int(welcome["open"]))

    def _dialled(self, hello: dict[str, Any], deadline: Deadline, *, control: bool) -> Channel:
        channel = dial(self._address, self.epoch, self._key, self._encrypt, deadline, control=control)
        channel.send(HELLO, words(hello))
        return channel

    def _connected(self, data: Channel, control: Channel) -> None:
        with self._lock:
            self._data, self.cut_at, self._said = data, None, None
            if self.segment is not None:
                self.segment.note_reach(False)
            self._control = Control(
                control, on_ack=lambda _: None, on_word=self._hear, on_beat=self.state, on_cut=self._cut
            )
            self._control.start()

    def _ask_for_place(self, rank: int, pid: int, deadline: Deadline) -> dict[str, Any]:
        """With the lock."""
        self._asked += 1
        number = self._asked
        asked_of = None
        while number not in self._answers:
            if self.over or deadline.left <= 0:
                raise LinkError(
                    f"the link of the writer's machine has not placed this reader within {deadline.seconds} s"
                    if not self.over else "the stream from the writer's machine has ended"
                )  # fmt: skip
            control = self._control
            if control is not None and control is not asked_of:
                asked_of = control
                with suppress(LinkError):  # the next connection is asked, too
                    control.say({"op": "place", "id": number, "rank": rank, "pid": pid})
            self._answered.wait(min(_SLICE_S, deadline.left))
        answer = self._answers.pop(number)
        if "error" in answer:
            raise refusal(answer)
        return answer

    def _hear(self, word: dict[str, Any]) -> None:
        if word["op"] == "placed":
            with self._lock:
                self._version = max(self._version, int(word.get("version", 0)))
                self._answers[int(word["id"])] = word
                self._answered.notify_all()
        elif word["op"] == "state":
            with self._lock:
                if self._end is None or self.over or int(word["version"]) < self._version:
                    return
                self._version = int(word["version"])
                wishes = {int(rank): int(count) for rank, count in word["evict"]}
                # Who has been given a place here and does not know it yet has his home, too.
                self._expect(int(word["open"]) + sum(rank not in self._ranks for rank in wishes))
                for rank, count in wishes.items():
                    if count > self._wishes.get(rank, 0) and self._end.evict(rank):
                        self._readers.evicted(rank, "slow", 0)
                self._wishes.update(wishes)
                self._is_closed, self._nobody_can_come = bool(word["closed"]), bool(word["over"])
                for rank in [rank for rank in self._ranks if rank not in wishes]:  # it has come up elsewhere
                    self._end.evict(rank)
                    self._readers.forget(rank)
                    self._spare.append(self._ranks.pop(rank))
            if word["ready"] and self._ready is False:
                self._ready = True
                threading.Thread(target=self._confirm_ready, daemon=True).start()

    _ready = False
    _version = 0
    _has_finished = False
    _lost = ""
    _is_closed = _nobody_can_come = False

    def _confirm_ready(self) -> None:
        """On a thread of its own: a message may be waiting for room."""
        assert self._end is not None
        with suppress(QueueClosedError):
            self._end._relay_ready()

    def _expect(self, how_many: int) -> None:
        """With the lock: no more readers than so many are still to come."""
        assert self.segment is not None
        while len(self._homes) > how_many:
            home = self._homes.pop()
            self.segment.forgo_home(home)
            self._spare.append(home)

    def _run(self, data: Channel) -> None:
        why = LINK_DIED
        try:
            while True:
                try:
                    why = self._receive(data)
                    break
                except LinkError as error:
                    if self._leaving or self._failed:
                        break
                    with self._lock:
                        if self.cut_at is None:
                            self.cut_at = time.monotonic()
                            log.warning("the stream from %s is cut: %s", data.peer, error)
                        self._hang_up()
                again = self._redial()
                if again is None:
                    log.error("the stream from the writer's machine is lost: %s", self._lost)
                    break
                data = again
        except (CapacityError, MessageTooLargeError, CorruptError) as error:
            self._fail(str(error))
        except QueueClosedError:
            pass
        except Exception as error:
            log.exception("the stream from %s fails", data.peer)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            assert self._end is not None
            state = self.state()
            with self._lock:
                self.over = True
                self._end._relay_end(why, self._failed or self._lost)
                self._answered.notify_all()
                if why != LINK_DIED and self._control is not None:
                    # The other side hangs up once it has heard that.
                    try:
                        if state is not None:
                            self._control.say(state)
                        self._control.say({"op": "ended"})
                    except LinkError:
                        pass
                else:
                    self._hang_up()
            if why != LINK_DIED:
                data.wait(_HANGS_UP_WITHIN_S)
                with self._lock:
                    self._hang_up()
            self._has_finished = True

    def _fail(self, why: str) -> None:
        log.error("the stream for the readers here cannot go on: %s", why)
        with self._lock:
            self._failed = f"host {socket.gethostname()} cannot take its messages: {why}"
            control = self._control
        if control is not None:
            with suppress(LinkError):
                control.say({"op": "failed", "why": why})

    def _hang_up(self) -> None:
        for one in (self._data, self._control):
            if one is not None:
                one.close()
        self._data = self._control = None

    def _receive(self, data: Channel) -> int:
        """Publish what comes, until the end; why it is one. Raises LinkError when the connection ends."""
        assert self.segment is not None
        end = self._end
        assert end is not None
        most = max(1, int(self._welcome["max_chunks"]) // 4)
        acknowledged = self.segment.head
        while True:
            if self.segment.head != acknowledged and (
                self.segment.head - acknowledged >= most or not data.wait(_ACKNOWLEDGED_AFTER_S)
            ):
                acknowledged = self.segment.head
                self._acknowledge(acknowledged)
            kind, nbytes = data.next()
            if kind == BATCH:
                self._publish(data.read())
            elif kind == BEGIN and nbytes == BEGINNING.size:
                self._take_large(data, *BEGINNING.unpack(data.read()))
            elif kind == END and nbytes == 2:
                why, all_were_there = data.read()
                if all_were_there:
                    end._relay_ready()
                with self._lock:
                    self._ended = True
                self._acknowledge_quietly()
                return why
            else:
                raise LinkError(f"{data.peer} said {kind}, with {nbytes} bytes, which means nothing here")

    def _acknowledge(self, head: int) -> None:
        control = self._control
        if control is not None:
            control.acknowledge(self._base + head)

    def _publish(self, batch: memoryview) -> None:
        assert self.segment is not None
        assert self._end is not None
        before = self.segment.head
        done, all_done = 0, False
        while not all_done:
            try:
                done, all_done = self._end._relay(batch, done, _SLICE_S)
            except ReaderDiedError:  # which the readers' states tell
                done = self.segment.head - before
                self.look()
            if not all_done:
                self._acknowledge_quietly()

    def _take_large(self, data: Channel, length: int, encoding: int, framed: int) -> None:
        assert self._end is not None
        room: memoryview | None = None
        while room is None:
            try:
                room = self._end._relay_room(length, _SLICE_S)
            except ReaderDiedError:
                self.look()
            if room is None:
                self._acknowledge_quietly()
        at = 0
        while at < length:
            kind, nbytes = data.next()
            if kind != BODY or nbytes > length - at or nbytes == 0:
                raise LinkError(f"{data.peer} said {kind}, with {nbytes} bytes, in the middle of a message")
            data.read_into(room[at : at + nbytes])
            at += nbytes
        self._end._relay_commit(encoding, bool(framed))

    def _acknowledge_quietly(self) -> None:
        """What was published of a batch that still waits."""
        assert self.segment is not None
        with suppress(LinkError):  # the data connection will say so, too
            self._acknowledge(self.segment.head)

    def _cut(self, control: Control, silent: bool, why: str) -> None:
        with self._lock:
            if control is not self._control or self._ended:
                return
            assert self.segment is not None
            self.segment.note_reach(silent)
            if self.cut_at is None:
                self.cut_at = time.monotonic()
                if not self._leaving:
                    log.warning("the stream is cut: %s", why)
            self._hang_up()

    def _redial(self) -> Channel | None:
        """The next data connection. None: the other link is gone, or has been out of reach for too long."""
        assert self.cut_at is not None
        assert self.segment is not None
        refusals = tried = 0
        last = time.monotonic() + float(self._welcome["link_timeout"])
        while not self._leaving:
            time.sleep(REDIALS_S[min(tried, len(REDIALS_S) - 1)])  # nothing tells that a way is open again
            tried += 1
            left = last - time.monotonic()
            if left <= 0:
                self._lost = f"it was out of reach for {self._welcome['link_timeout']} s (link_timeout)"
                return None
            data = None
            try:
                hello = {"stream": self._stream, "published": self._base + self.segment.head}
                data = self._dialled(hello, Deadline(min(left, _DIAL_S)), control=False)
                receive(data, WELCOME, min(left, _DIAL_S))
                control = self._dialled({"stream": self._stream}, Deadline(min(left, _DIAL_S)), control=True)
            except DialError as error:
                if data is not None:
                    data.close()
                refusals = refusals + 1 if error.why in (Why.REFUSED, Why.UNKNOWN_QUEUE) else 0
                if refusals >= _REFUSALS:
                    self._lost = f"its link is gone: {error}"
                    return None
                continue
            except LostError as error:
                self._lost = f"it gave the stream up: {error}"
                return None
            except RingcastError:
                if data is not None:
                    data.close()
                continue
            self.reconnects += 1
            self._connected(data, control)
            return data
        return None

"""The calls of a group: sent through one ring, their answers read from one ring for each worker.

Whoever waits for an answer reads the rings, if nobody else does: it leads. It puts all answers where they belong, and
wakes those whose calls are complete; when it has its own it leaves, and wakes one who goes on. Nobody leads by duty, so
a call costs no thread. Who waits for room in the ring of calls takes answers meanwhile, because a worker whose answers
nobody reads takes no calls.

Everything here may be ended by an interruption between any two steps. So what is held is held by `with`, taken in one
native step, or looked for at the end; an answer stays in the inbox until it has been put in its place, putting it there
twice does no harm, and every wait looks again after a quarter of a second, whoever should have woken it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ringcast import _reports
from ringcast.errors import (
    BusyError,
    CallTimeoutError,
    ForkedError,
    QueueClosedError,
    QueueTimeoutError,
    RingcastError,
    WorkerDiedError,
)
from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._call import Call, move_first
from ringcast.workers._failures import Failure, note
from ringcast.workers._records import CANCEL, DONE, ITEM, RAISED, UNKNOWN
from ringcast.workers._rings import Rings
from ringcast.workers._stats import Answered

_SLICE_S = 0.25
_ROOM_S = 0.002
"""So long at a time room for a call is waited for, before answers are looked at again."""
_CASTS = 256
"""So many casts are remembered: more than workers take before they tell of one that they could not rebuild."""
_NONE = -1 << 62
"""The number of no call."""


class _Fork:
    """How many forks away this process is from who first imported this: cheaper to ask than which process it is."""

    lives = 0

    def happened(self) -> None:
        self.lives += 1


_fork = _Fork()
os.register_at_fork(after_in_child=_fork.happened)


class Calls:
    """What a group's threads share."""

    def __init__(
        self,
        ring: MessageQueue,
        ranks: Sequence[int],
        label: str,
        leaving: Callable[[int, RingcastError], None],
        wait: Wait,
    ) -> None:
        self.label = label
        self.under_way: dict[int, Call] = {}
        """By number; those that nobody waits for any more, too, until all ranks have answered."""
        self.completed: deque[Call] = deque()
        """Futures whose results are to be set by the thread that serves them."""
        self.rings: Rings = Rings(leaving, wait)
        self.answered: Answered = Answered(ranks)
        self.deaths: deque[tuple[int, WorkerDiedError]] = deque()
        self.dead: dict[int, str] = {}
        self.closed: str | None = None
        self.stacks: Callable[[Sequence[int]], Mapping[int, str]] = lambda _: {}
        """What these ranks are doing, as far as they can say so."""
        self.can_respawn = True
        self.own_thread: int | None = None
        """Which thread of this process is one of the group's workers, if one is."""
        self.on_stray: Callable[[], None] = lambda: None
        """Called when there is something to do that nobody waits for."""
        self.on_dropped: Callable[[], None] = lambda: None
        """Called by finalizers when there is."""
        self.on_watched: Callable[[], None] = lambda: None
        """Called when a future gets a callback."""
        self._ring = ring
        self._pid, self._lives = os.getpid(), _fork.lives
        self.every: tuple[int, ...] = tuple(ranks)
        self._sending: Any = threading.RLock()  # whose declaration knows not all that it has
        self._saying = threading.RLock()
        self._lead: Any = threading.RLock()
        self._followers: list[Call] = []
        self._casts: deque[Call] = deque(maxlen=_CASTS)
        self._unsaid: deque[tuple[int, tuple[int, ...]]] = deque()

    # Sending.

    def send(self, kind: int, call: Call, arguments: Any, options: dict[str, Any], answered: bool = True) -> None:
        """Sends the call, and has its answers put into it. Raises what `enqueue` raises; then nothing was sent."""
        waits = answered and call.future is None and call.items is None
        if self._sending._is_owned() or (waits and self._lead._is_owned()):
            raise self._within()
        ranks = None if call.ranks == self.every else call.ranks
        patience = 0.0
        while True:
            with self._sending:
                number = call.number = self._head()
                try:
                    if answered:
                        self.under_way[number] = call
                    if self.dead or self.closed is not None:  # looked at last: who dies now finds it under way
                        self._check(call.ranks)
                    self._ring.enqueue((kind, number, ranks, call.name, arguments, options), patience)
                    break
                except BaseException as error:
                    if self._head() == number:
                        self.under_way.pop(number, None)
                    if not isinstance(error, QueueTimeoutError):
                        raise
            patience = _ROOM_S
            left = call.left()
            if left is not None and left <= 0:
                raise self._late(call, sent=False)
            if self._leads():  # and takes no answers, before which there may be no room
                raise self._within()
            self.look()
        if not answered:
            self._casts.append(call)
        if self._unsaid:
            self.say_what_is_unsaid()

    def tell(self, kind: int, number: int, ranks: tuple[int, ...], about: Any = ()) -> bool:
        """A word about a call, if there is room."""
        if self._sending._is_owned():  # a signal came while a call is sent
            return False
        with self._sending:
            if self.closed is not None:
                return True
            return self._ring.try_enqueue((kind, self._head(), ranks, number, about, {}))

    def tell_surely(self, kind: int, call: Call, about: Any) -> None:
        """A word about a call that is under way, as soon as there is room."""
        while not call.done and not self.tell(kind, call.number, call.ranks, about):
            if not self.look():
                time.sleep(_ROOM_S)

    def forget(self, call: Call) -> None:
        """As `give_up`, for finalizers: takes no lock."""
        call.done = True
        self._unsaid.append((call.number, tuple(call.waiting)))
        self.on_dropped()

    def give_up(self, call: Call) -> None:
        """Nobody waits for it: it is not begun where it was not yet, and what is answered to it is dropped."""
        call.finish()
        call.results = {}  # another one, for somebody may be reading that
        ranks = tuple(call.waiting)
        if call.number not in self.under_way or not ranks:
            return
        self.on_stray()
        if not self.tell(CANCEL, call.number, ranks):
            self._unsaid.append((call.number, ranks))
        call.given_up = True

    def say_what_is_unsaid(self) -> None:
        """Cancellations for which there was no room."""
        with suppress(IndexError), self._saying:
            while self._unsaid:
                number, ranks = self._unsaid[0]
                if number in self.under_way and not self.tell(CANCEL, number, ranks):
                    return
                self._unsaid.popleft()

    # Waiting.

    def result_of(self, call: Call) -> Any:
        """Waits for all its answers, or for the first exception; raises that, or CallTimeoutError at its deadline."""
        try:
            if not self.wait(call, call.expires):
                raise self.late(call)
            value = call.outcome()
        except BaseException:
            if call.waiting:
                self.give_up(call)
            raise
        return value

    def wait(self, call: Call, until: float | None) -> bool:
        """Until a call is done, or has an item, whoever reads it; False when the time is over."""
        lead = self._lead
        if lead._is_owned() and not (call.done or call.items):
            raise self._within()
        follows = False
        try:
            while not (call.done or call.items):
                try:
                    if lead.acquire(False):
                        if follows:
                            self._follows_no_more(call)
                            follows = False
                        if not self._read(call, until):
                            return bool(call.done or call.items)
                        break
                finally:
                    if lead._is_owned():
                        lead.release()
                        if self._followers:
                            self._hand_on()
                if not follows:  # from here on who leads knows of it; it may have left before
                    if call.wake is None:
                        call.wake = threading.Event()
                    follows = True
                    self._followers.append(call)
                    continue
                seconds = _SLICE_S if until is None else min(_SLICE_S, until - time.monotonic())
                if seconds <= 0:
                    return bool(call.done or call.items)
                assert call.wake is not None
                call.wake.wait(seconds)
                call.wake.clear()
        finally:
            if lead._is_owned():  # an interruption came before it was released
                lead.release()
            if follows:
                self._follows_no_more(call)
        return True

    def _leads(self) -> bool:
        """Does this very thread? Then this is a signal's handler, a finalizer, or an answer that is being rebuilt."""
        return bool(self._lead._is_owned())

    def _within(self) -> BusyError:
        return BusyError(
            f"{self.label}: this thread is in the midst of another call of the group (this one comes from a signal's "
            "handler, from a finalizer, or from an object that is rebuilt), and can wait for no answer there; nothing "
            "was sent: submit or cast, or call from another thread"
        )

    def look(self) -> bool:
        """Takes what is there, if nobody leads. Was there nobody?"""
        return self._lead_in(self.rings.take_what_is_there)

    def serve(self, seconds: float) -> None:
        """Leads for somebody else, until there is news, or somebody wants to lead for himself."""
        if self._followers:
            seconds = min(seconds, _ROOM_S)
            time.sleep(seconds)  # and then a moment, for an interruption may have left one that waits no more
        if not self._lead_in(partial(self.rings.take, min(seconds, _SLICE_S))):
            time.sleep(min(seconds, _ROOM_S))

    def _lead_in(self, take: Callable[[], None]) -> bool:
        """If nobody leads."""
        lead = self._lead
        if lead._is_owned():
            return False
        try:
            try:
                if not lead.acquire(False):
                    return False
                take()
                self._dispatch()
                return True
            finally:
                if lead._is_owned():
                    lead.release()
                    self._hand_on()
        finally:
            if lead._is_owned():  # an interruption came before it was released
                lead.release()

    def _read(self, call: Call, until: float | None) -> bool:
        """Leads until then; False when the time is over."""
        while not (call.done or call.items):
            seconds = _SLICE_S
            if until is not None:
                seconds = min(seconds, until - time.monotonic())
                if seconds <= 0:
                    self.rings.take_what_is_there()
                    self._dispatch()
                    return False
            waiting = call.waiting
            ranks = call.ranks if len(waiting) == len(call.ranks) else tuple(waiting)
            self.rings.take(seconds, ranks, each=len(self.under_way) == 1 and call.items is None)
            self._dispatch()
        return True

    def _hand_on(self) -> None:
        for follower in list(self._followers):
            if follower.done:
                self._follows_no_more(follower)
            elif follower.wake is not None:
                follower.wake.set()
                return

    def _follows_no_more(self, call: Call) -> None:
        with suppress(ValueError):  # an interruption came before it did, or after
            self._followers.remove(call)

    # Answers. Only who leads is here.

    def _dispatch(self) -> None:
        inbox, under_way = self.rings.inbox, self.under_way
        while inbox:
            number, rank, kind, value, at = inbox[0]
            call = under_way.get(number)
            if kind == DONE and call is not None and not call.done:
                call.results[rank] = value
                call.times[rank] = at or time.monotonic()
                call.waiting.discard(rank)
                if not call.waiting:
                    if call.future is None:
                        call.finish()
                    else:
                        self._finish(call)
                    under_way.pop(number, None)
                    self.answered.note(call.asked_at, call.times)
                inbox.popleft()
            elif kind == ITEM:
                self._put_item(call, rank)
            elif number == UNKNOWN or type(number) is tuple:
                self._put_unknown(self._whose(rank) if number == UNKNOWN else number, rank, value)
                inbox.popleft()
            else:
                self._put(number, call, rank, kind, value)
                inbox.popleft()
            del value
        while self.deaths:
            rank, error = self.deaths[0]
            self.rings.drop(rank)
            if inbox:  # its last words
                self._dispatch()
                return
            for call in list(self.under_way.values()):
                self._put(call.number, call, rank, RAISED, error)
            self.deaths.popleft()

    def _whose(self, rank: int) -> tuple[Call, ...]:
        """What the first of the inbox, which cannot be rebuilt, was for: its rank's next answer, or an item of a stream
        that it has begun. For good, before it is put there: afterwards its next answer is another call's.

        Of several calls that this may have been for, each fails: one whose answer it was would wait for ever.
        """
        inbox = self.rings.inbox
        _, _, kind, error, at = inbox[0]
        streams, first = self._to_answer(rank)
        calls = (*streams, *(() if first is None else (first,)))
        if len(calls) > 1:
            told = ", or to ".join(call.told for call in calls)
            note(error, f"rank {rank} has sent it, it is not known to which of its calls: to {told}; all of these fail")
        inbox[0] = (calls, rank, kind, error, at)
        return calls

    def _put_unknown(self, calls: tuple[Call, ...], rank: int, error: BaseException) -> None:
        """As `_put`."""
        for call in calls:
            if call.items is None:
                self._put(call.number, call, rank, RAISED, error)
            else:
                call.fail(rank, error)
                self._finish(call)  # it has not ended there, and is cancelled

    def _put(self, number: int, call: Call | None, rank: int, kind: int, value: Any) -> None:
        """Any number of times, if an interruption comes before its end."""
        if call is None:
            if kind == RAISED:
                self._tell_of_cast(number, rank, value)
            return
        if rank in call.waiting:
            if kind == RAISED:
                call.fail(rank, value)
            call.waiting.discard(rank)
        if call.errors or not call.waiting:
            self._finish(call)
        if not call.waiting:
            self.under_way.pop(call.number, None)

    def _tell_of_cast(self, number: int, rank: int, value: Any) -> None:
        """Its worker prints what a cast raises; of one that it could not rebuild it knows no more than the number."""
        cast = next((call for call in self._casts if call.number == number and rank in call.ranks), None)
        if cast is not None and isinstance(value, Failure):
            _reports.cast_lost(self.label, rank, cast.told, f"{value.kind}: {value.text}")

    def _put_item(self, call: Call | None, rank: int) -> None:
        """The first of the inbox, an item of a stream: goes on at once, or it would come twice."""
        inbox = self.rings.inbox
        if call is None or call.items is None or call.done or rank not in call.waiting:
            inbox.popleft()
            return
        move_first(inbox, call.items)
        if call.wake is not None:
            call.wake.set()

    def first_of(self, rank: int) -> Call | None:
        """What it is doing, as far as is known here: what it has to answer first. Streams hold nothing up."""
        streams, first = self._to_answer(rank)
        return first or next(iter(streams), None)

    def _to_answer(self, rank: int) -> tuple[list[Call], Call | None]:
        """What it has not answered: its streams, of which it may send items at any time, and the first other call."""
        waiting = [call for call in list(self.under_way.values()) if rank in call.waiting]
        streams = [call for call in waiting if call.items is not None]
        return streams, next((call for call in waiting if call.items is None), None)

    def doing(self, rank: int) -> str:
        """In words, of one that has ended."""
        first = self.first_of(rank)
        return "and it had no call" if first is None else f"in {first.told}"

    def _finish(self, call: Call) -> None:
        """It has all its answers, or has failed. Any number of times."""
        call.finish()
        future = call.future
        if future is None:
            if call.items is not None and call.waiting and not call.given_up:
                self.give_up(call)
            return
        if future._is_over():
            return
        if call.waiting:
            self.give_up(call)
        if not future.complete_unless_watched():
            self.completed.append(call)
            self.on_stray()

    # Endings.

    def late(self, call: Call) -> CallTimeoutError:
        """The error of a call whose deadline has passed."""
        return self._late(call, sent=True)

    def _late(self, call: Call, *, sent: bool) -> CallTimeoutError:
        assert call.expires is not None
        took = f"within {call.expires - call.asked_at:.3f} s"
        if not sent:
            slow = ", ".join(map(str, sorted(self.under_way[min(self.under_way)].waiting))) if self.under_way else ""
            return CallTimeoutError(
                f"{self.label}: there was no room to send {call.name!r} {took}: earlier calls are not taken up"
                + (f" by rank {slow}" if slow else ""),
                call.ranks,
            )
        ranks = tuple(sorted(call.waiting))
        told = []
        for rank in ranks:
            first = self.first_of(rank)
            doing = "" if first is call or first is None else f" (it has not begun: {first.told} is before it)"
            told.append(f"rank {rank} has not answered{doing}")
        stacks = dict(self.stacks(ranks))
        shown = "".join(f"\nrank {rank}:\n{text}" for rank, text in stacks.items())
        return CallTimeoutError(f"{self.label}: {call.told}: {', '.join(told)} {took}{shown}", ranks, stacks)

    def fail_futures(self, error: BaseException) -> None:
        """Those under way, whose answers cannot be read."""
        for call in list(self.under_way.values()):
            if call.future is not None and not call.done:
                call.fail(min(call.waiting, default=-1), error)
                self._finish(call)

    def close(self, why: str) -> None:
        """No call is sent from here on, and those under way fail. Any number of times."""
        with self._sending:
            if self.closed is None:
                self.closed = why
            self._ring.shutdown()
        for call in list(self.under_way.values()):  # each time: the one before may have been interrupted
            if not call.done:
                call.fail(next(iter(call.ranks), 0), self.closed_error())
                call.waiting.clear()
                self._finish(call)

    def let_go(self) -> None:
        """After all workers have ended."""
        self._ring._tells_losses = False  # calls that were not read have failed, each by name
        with suppress(QueueTimeoutError):  # who is dead has not got all
            self._ring.close(0)
        with self._lead:  # who leads has nothing to wait for any more, and leaves
            self.rings.close()

    def closed_error(self) -> QueueClosedError:
        return QueueClosedError(f"{self.label} {self.closed}")

    def check_caller(self) -> None:
        if self._lives != _fork.lives:
            raise ForkedError(
                f"{self.label} belongs to process {self._pid}, which made it: no worker of it, and no process forked "
                "from that one, can call it"
            )
        if self.own_thread is not None and self.own_thread == threading.get_ident():
            raise BusyError(f"{self.label}: a call that its own workers run, as this one, must not call the group")

    def _check(self, ranks: tuple[int, ...]) -> None:
        if self.closed is not None:
            raise self.closed_error()
        if not self.dead:
            return
        for rank in ranks:
            if rank in self.dead:
                error = WorkerDiedError(
                    f"{self.label}: rank {rank} {self.dead[rank]}, before this call; nothing was sent: "
                    + (f"respawn({rank}), or " if self.can_respawn else "")
                    + "call others by ranks=..."
                )
                error.rank = rank
                raise error

    def _head(self) -> int:
        """The number of the next call: the place of its message in the ring."""
        memory = self._ring._segment
        return _NONE if memory is None else memory.head

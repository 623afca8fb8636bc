"""Every outcome of a ring of one chunk with flags, when the processor may reorder what nothing orders.

The chunk of `model/freeze_ring.hpp`, one writer, one reader, three messages, the second of which is too large for the
chunk: its bytes say so, and it comes through a socket. Memory is one for all, as on ARMv8; each side performs its loads
and stores in any order but for these: accesses to one location keep theirs, no store overtakes the branch before it or
the reader's loads, and what an `Order` adds. All states are visited, so an outcome that is not found cannot happen
under these rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

WRITTEN, READ, HEAD, TAIL = range(4)
MESSAGES = 3
LARGE = 1  # the number of the large message
NOTHING = -1


@dataclass(frozen=True)
class Order:
    """What is ordered beyond what the hardware orders by itself."""

    name: str
    writer_stores: bool  # one after the other, as they are written down
    reader_loads: bool  # the flags before the bytes


ORDERS = [
    Order("nothing", False, False),
    Order("the writer's stores", True, False),
    Order("the reader's loads", False, True),
    Order("both", True, True),
]


class State(NamedTuple):
    """`loads` are what the writer (first two) and the reader (all four) have loaded in this attempt, or None."""

    memory: tuple[int, ...] = (0, 0, NOTHING, NOTHING)
    message: int = 0
    writer_loads: tuple[int | None, ...] = (None, None)
    writer_stores: tuple[tuple[int, int], ...] = ()
    reader_loads: tuple[int | None, ...] = (None,) * 4
    reader_store: bool = False  # of the flag that says "read"
    at_socket: bool = False
    socket: tuple[int, ...] = ()
    got: tuple[str, ...] = ()


def put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def fill(loads: tuple[int | None, ...], place: int, value: int | None) -> tuple[int | None, ...]:
    return (*loads[:place], value, *loads[place + 1 :])


def writer_steps(s: State, order: Order) -> list[State]:
    steps = []
    for i, (place, value) in enumerate(s.writer_stores):
        earlier = s.writer_stores[:i]
        if not earlier or (not order.writer_stores and all(other != place for other, _ in earlier)):
            rest = (*earlier, *s.writer_stores[i + 1 :])
            steps.append(s._replace(memory=put(s.memory, place, value), writer_stores=rest))
    if s.message == MESSAGES:
        return steps
    pending = {place for place, _ in s.writer_stores}
    for place in (WRITTEN, READ):
        if s.writer_loads[place] is None and place not in pending:
            steps.append(s._replace(writer_loads=fill(s.writer_loads, place, s.memory[place])))
    if None not in s.writer_loads:
        again = s._replace(writer_loads=(None, None))
        if s.writer_loads == (1, 0):
            steps.append(again)
        else:
            m = s.message
            stores = ((WRITTEN, 0), (HEAD, m), (TAIL, m), (READ, 0), (WRITTEN, 1))
            socket = (*s.socket, m) if m == LARGE else s.socket
            steps.append(again._replace(message=m + 1, writer_stores=(*s.writer_stores, *stores), socket=socket))
    return steps


def reader_steps(s: State, order: Order) -> list[State]:
    steps = [s._replace(memory=put(s.memory, READ, 1), reader_store=False)] if s.reader_store else []
    if len(s.got) == MESSAGES:
        return steps
    if s.at_socket:
        if s.socket:
            got = (*s.got, str(s.socket[0]))
            steps.append(s._replace(at_socket=False, socket=s.socket[1:], got=got, reader_store=True))
        return steps
    loads = s.reader_loads
    for place in range(4):
        too_early = order.reader_loads and place in (HEAD, TAIL) and None in loads[:2]
        if loads[place] is None and not too_early and not (place == READ and s.reader_store):
            steps.append(s._replace(reader_loads=fill(loads, place, s.memory[place])))
    if None not in loads:
        again = s._replace(reader_loads=(None,) * 4)
        head, tail = loads[HEAD], loads[TAIL]
        if loads[:2] != (1, 0):
            steps.append(again)
        elif head == LARGE:
            steps.append(again._replace(at_socket=True))
        else:
            text = "torn" if head != tail else "nothing" if head == NOTHING else str(head)
            steps.append(again._replace(got=(*s.got, text), reader_store=True))
    return steps


def waits_for_ever(s: State) -> bool:
    """Nothing is under way any more, and neither side's condition is true: polling would go on, and change nothing."""
    if s.writer_stores or s.reader_store or (s.message == MESSAGES and len(s.got) == MESSAGES):
        return False
    writer_waits = s.message == MESSAGES or s.memory[:2] == (1, 0)
    reader_waits = len(s.got) == MESSAGES or (not s.socket if s.at_socket else s.memory[:2] != (1, 0))
    stale = any(loaded not in (None, seen) for loaded, seen in zip(s.reader_loads, s.memory, strict=True))
    stale = stale or any(loaded not in (None, seen) for loaded, seen in zip(s.writer_loads, s.memory, strict=False))
    return writer_waits and reader_waits and not stale


def describe(s: State) -> str | None:
    """What has come of a run that is over, or None."""
    if waits_for_ever(s):
        return "both sides wait for ever"
    if s.message < MESSAGES or len(s.got) < MESSAGES or s.writer_stores or s.reader_store:
        return None
    if s.got == ("0", "1", "2"):
        return "right"
    for fault in ("torn", "nothing"):
        if fault in s.got:
            return "a torn message" if fault == "torn" else "a message before anything was written"
    return "an old message again, and another lost"


def explore(order: Order) -> tuple[dict[str, tuple[str, ...]], int]:
    """Each outcome with what the reader got in one such run, and how many states there are."""
    seen = {State()}
    todo = [State()]
    outcomes: dict[str, tuple[str, ...]] = {}
    while todo:
        state = todo.pop()
        outcome = describe(state)
        if outcome is not None:
            outcomes.setdefault(outcome, state.got)
            continue
        for following in (*writer_steps(state, order), *reader_steps(state, order)):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return outcomes, len(seen)

"""A scenario, made of its seed: who takes part, who is hit where, who cleans up."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Action: TypeAlias = Literal["kill", "stop", "stop then kill", "delay", "yield", "exit"]
Mix: TypeAlias = Literal["small", "arrays", "mixed", "oversize"]
Reading: TypeAlias = Literal["dequeue", "many", "try", "iterate", "acquire"]
Cleanup: TypeAlias = Literal["create", "sweep"]
HowToEnd: TypeAlias = Literal["return", "sys.exit", "exception"]
Beside: TypeAlias = Literal["create", "attach", "sweep", "list", "large"]

CREATE_POINTS = ("create_opened", "create_locked", "create_reserved", "create_initialised", "create_linked")
REMOVAL_POINTS = ("removal_locked", "removal_unlinked")
PARK_POINTS = ("park_begin", "park_stored", "park_checked", "park_returned")
MEMORY_POINTS = ("data_reserve_begin", "data_reserved", "data_punched")
BLOCK_POINTS = (*MEMORY_POINTS, "block_placed", "block_unread", "block_free_begin")
SEND_POINTS = ("reserve_begin", "commit_begin", "publish_described", "publish_sequenced", "publish_headed")
WAKE_POINTS = ("announce_fenced", "announce_seat_begin", "wake_begin", "gate_seat_begin")
EVICT_POINTS = ("evict_begin", "evict_swapped")
WRITER_END_POINTS = ("ready_stored", "unlink_begin", "close_begin", "close_stored")
ATTACH_POINTS = ("attach_opened", "attach_locks_opened", "attach_mapped")
CLAIM_POINTS = ("claim_locked", "claim_begin", "claim_swapped", "claim_positioned", "claim_announced_begin")
READ_POINTS = ("read_described", "consume_begin", "consume_stored", "settle_fenced", "wake_begin")
MARK_POINTS = ("mark_begin", "mark_stored")
LEAVE_POINTS = ("leave_begin", "leave_swapped", "leave_released")

# Reached once, or nearly so, in the life of an end; the others with each message.
_RARE_GROUPS = (CREATE_POINTS, ATTACH_POINTS, CLAIM_POINTS, LEAVE_POINTS, REMOVAL_POINTS, WRITER_END_POINTS)
RARE_POINTS = frozenset(point for group in (*_RARE_GROUPS, EVICT_POINTS, MEMORY_POINTS) for point in group)
_WRITER_GROUPS = (CREATE_POINTS, BLOCK_POINTS, SEND_POINTS, SEND_POINTS, WAKE_POINTS, EVICT_POINTS, WRITER_END_POINTS)
_READER_GROUPS = (ATTACH_POINTS, CLAIM_POINTS, READ_POINTS, READ_POINTS, MARK_POINTS, LEAVE_POINTS, REMOVAL_POINTS)
WRITER_GROUPS = (*_WRITER_GROUPS, PARK_POINTS)
READER_GROUPS = (*_READER_GROUPS, PARK_POINTS)
ALL_POINTS = frozenset(point for group in (*WRITER_GROUPS, *READER_GROUPS) for point in group)


@dataclass(frozen=True)
class Fault:
    """What happens to a process, the nth time it comes to a point; `pause_s` is how long it stays stopped.

    An exit is the interpreter's, in the way of `ends`, while a daemon thread is at the point, where it is delayed, and
    others do what `beside` says.
    """

    point: str
    action: Action
    nth: int
    delay_us: int = 0
    pause_s: float = 0.0
    ends: HowToEnd = "return"
    beside: tuple[Beside, ...] = ()

    @property
    def deadly(self) -> bool:
        return "kill" in self.action


@dataclass(frozen=True)
class WriterPlan:
    messages: int
    batch: int  # messages in a call
    pause_every: int  # messages between two pauses, in which readers fall asleep; 0: none
    awaits_readers: bool
    on_death: Literal["evict", "stop", "automatic"]
    evictions: tuple[tuple[int, int], ...]  # (before which message, rank)
    closes: bool  # else it is left to the interpreter's exit
    lends: bool  # single messages are made where they will lie
    wait: str
    fault: Fault | None


@dataclass(frozen=True)
class ReaderPlan:
    rank: int
    reading: Reading
    joins_after: int  # messages whose sending has begun
    leaves_after: int | None  # messages received
    keeps: int  # views at a time
    closes: bool
    zero_copy: bool
    restarts: bool  # killed, it is started again
    wait: str
    fault: Fault | None


@dataclass(frozen=True)
class Scenario:
    seed: int
    named: bool
    depth: int
    mix: Mix
    tight: bool  # too little memory, and too few leases, to keep views as one likes
    hogged: bool  # /dev/shm is small, and somebody else fills it and frees it again; nobody is hit
    writer: WriterPlan
    readers: tuple[ReaderPlan, ...]
    looks_on: bool  # somebody lists the segments meanwhile
    nobody_survives: bool  # with a killed writer everybody is killed
    cleanup: Cleanup
    cleanup_fault: Fault | None


def _fault(rng: random.Random, groups: tuple[tuple[str, ...], ...], messages: int) -> Fault:
    point = rng.choice(rng.choice(groups))
    actions: tuple[Action, ...] = ("kill", "kill", "kill", "stop", "stop then kill", "delay", "yield")
    action = rng.choice(actions)
    often = 1 if point in RARE_POINTS else min(messages, int(rng.expovariate(1 / 15)) + 1)
    nth = often if rng.random() < 0.8 else rng.randint(1, 3)
    # Who is stopped while removing a name must not keep others from seeing that its owner is dead.
    pause_s = rng.choice((0.02, 4.0) if point in REMOVAL_POINTS else (0.002, 0.02, 0.15, 0.4))
    return Fault(point, action, nth, rng.choice((20, 200, 2000)), pause_s)


def _exit(rng: random.Random, groups: tuple[tuple[str, ...], ...], messages: int) -> Fault:
    point = rng.choice(rng.choice(groups))
    nth = 1 if point in RARE_POINTS else min(messages, int(rng.expovariate(1 / 8)) + 1)
    ends: tuple[HowToEnd, ...] = ("return", "sys.exit", "exception")
    beside: tuple[Beside, ...] = ("create", "attach", "sweep", "list", "large")
    others = tuple(rng.sample(beside, rng.choice((0, 0, 1, 2))))
    return Fault(point, "exit", nth, rng.choice((2_000, 20_000)), ends=rng.choice(ends), beside=others)


def plan(seed: int) -> Scenario:
    """The scenario of this seed."""
    rng = random.Random(seed)
    named = rng.random() < 0.5
    depth = rng.choice((2, 3, 4, 8, 16, 64))
    mix: Mix = rng.choice(("small", "arrays", "mixed", "mixed", "oversize"))
    tight = mix != "small" and rng.random() < 0.4
    count = rng.choice((1, 1, 2, 2, 3, 4))
    messages = rng.randint(1, 150 if mix == "small" else 60)
    hit = rng.choice(("writer", "writer", "reader", "reader", "several", "nobody"))
    victims = set()
    if hit == "reader":
        victims = {rng.randrange(count)}
    elif hit == "several":
        victims = {rank for rank in range(count) if rng.random() < 0.7}
    waits = ("adaptive", "busy", "park", "yield")

    writer = WriterPlan(
        messages=messages,
        batch=rng.choice((1, 1, 1, 3, 40)),
        pause_every=rng.choice((0, 0, 1, 5)),
        awaits_readers=rng.random() < 0.7,
        on_death=rng.choice(("evict", "evict", "automatic", "stop")),
        evictions=tuple(
            sorted((rng.randrange(messages), rng.randrange(count)) for _ in range(rng.choice((0, 0, 0, 1, 3))))
        ),
        closes=rng.random() < 0.8,
        lends=False,
        wait=rng.choice(waits),
        fault=_fault(rng, WRITER_GROUPS, messages) if hit in ("writer", "several") else None,
    )
    readings: tuple[Reading, ...] = ("dequeue", "dequeue", "many", "try", "iterate", "acquire")
    readers = []
    for rank in range(count):
        fault = _fault(rng, READER_GROUPS, messages) if rank in victims else None
        # The writer waits for those whom its handle promised its messages, as soon as it has no more room.
        latest = min(messages, 1 if tight else depth)
        joins = fault is not None and fault.point in (*ATTACH_POINTS, *CLAIM_POINTS)
        readers.append(
            ReaderPlan(
                rank=rank,
                reading=rng.choice(readings),
                joins_after=rng.randint(1, latest) if rng.random() < (0.6 if joins else 0.2) else 0,
                leaves_after=rng.randint(1, messages) if rng.random() < 0.15 else None,
                keeps=rng.randint(0, 8 if tight else 20),
                closes=rng.random() < 0.8,
                zero_copy=False,
                restarts=rng.random() < 0.5,
                wait=rng.choice(waits),
                fault=fault,
            )
        )
    cleanup_fault = None
    if rng.random() < 0.5:
        cleanup_fault = Fault(rng.choice((*REMOVAL_POINTS, *CREATE_POINTS)), "kill", 1)
    scenario = Scenario(
        seed=seed,
        named=named,
        depth=depth,
        mix=mix,
        tight=tight,
        hogged=False,
        writer=writer,
        readers=tuple(readers),
        looks_on=rng.random() < 0.2,
        nobody_survives=rng.random() < 0.25,
        cleanup=rng.choice(("create", "sweep")),
        cleanup_fault=cleanup_fault,
    )
    return _varied(scenario, random.Random(f"{seed}, varied"))


def _varied(scenario: Scenario, rng: random.Random) -> Scenario:
    """With loans and private mappings; some with an exit, or in a memory that is full at times."""
    writer = replace(scenario.writer, lends=rng.random() < 0.4)
    readers = [replace(reader, zero_copy=rng.random() < 0.3) for reader in scenario.readers]
    what = rng.random()
    if what < 0.15:
        writer = replace(writer, fault=_exit(rng, WRITER_GROUPS, writer.messages))
    elif what < 0.3:
        victim = rng.randrange(len(readers))
        readers[victim] = replace(readers[victim], fault=_exit(rng, READER_GROUPS, writer.messages))
    elif what < 0.35:
        writer = replace(writer, fault=None, evictions=(), messages=min(writer.messages, 20))
        readers = [replace(one, fault=None, leaves_after=None, joins_after=min(one.joins_after, 1)) for one in readers]
        scenario = replace(scenario, hogged=True, tight=True, mix="mixed")
    return replace(scenario, writer=writer, readers=tuple(readers))

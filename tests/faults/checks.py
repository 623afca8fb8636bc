"""The promises, and whether a scenario kept them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.actors import Actor, Life
from tests.faults.board import Board
from tests.faults.plan import ATTACH_POINTS, CLAIM_POINTS, CREATE_POINTS, WAKE_POINTS, Scenario
from tests.support import FORGIVEN_RESCUES

LONGEST_IGNORANCE_MS = 3000.0
"""How late survivors may learn of a death: the promise is 1 s, the rest is for a machine with more to do than CPUs."""


@dataclass
class Story:
    """A scenario that has been played, as its parent process saw it."""

    scenario: Scenario
    board: Board
    actors: list[Actor]
    latencies_ms: list[float]

    def was_hit(self, actor: Actor) -> bool:
        """Did its fault happen to it?"""
        fault = actor.fault
        if fault is None:
            return False
        if fault.action == "kill":
            return actor.was_killed and not actor.killed_by_us
        if fault.action in ("stop", "stop then kill"):
            return actor.was_stopped
        return actor.report is not None and actor.report.times_reached[fault.point] >= fault.nth

    @property
    def writer(self) -> Actor:
        return self.actors[0]

    @property
    def writer_was_killed(self) -> bool:
        return self.writer.was_killed

    def killed_before(self, actor: Actor) -> bool:
        """Is it the next process of a rank whose last one was killed?"""
        before = self.actors[: self.actors.index(actor)]
        return any(one.rank == actor.rank and one.was_killed for one in before)

    @property
    def may_leave(self) -> bool:
        """Could somebody end after a name was made and before its end was known to the exit's handler?"""
        exits = [a.fault for a in self.actors if a.fault is not None and a.fault.action == "exit"]
        return any(one.point in CREATE_POINTS or {"create", "large"} & {*one.beside} for one in exits)

    @property
    def has_survivor(self) -> bool:
        """Is there a reader that was still there when the writer had died, and has closed its end after that?

        One that was killed while it had the lock for removing the name may have kept others from removing it.
        """
        readers = [actor for actor in self.actors if actor.what == "reader"]
        for actor in readers:
            if actor.was_killed and (actor.killed_by_us or (actor.fault and actor.fault.point == "removal_locked")):
                return False
        return any(a.status == 0 and a.report is not None and a.report.end == "writer died" for a in readers)


def judge(story: Story) -> list[str]:
    """What went wrong; and adds how long survivors took to learn of deaths to the story's latencies."""
    problems = [problem for actor in story.actors for problem in _of_process(story, actor)]
    if problems:
        return problems
    seen: set[int] = set()
    for actor in story.actors:
        if actor.rank is None:
            continue
        is_first = actor.rank not in seen
        seen.add(actor.rank)
        if actor.report is None:
            continue
        for number, life in enumerate(actor.report.lives):
            problems += [
                f"rank {actor.rank}: {p}: {life}" for p in _of_life(story, actor, life, is_first and not number)
            ]
        if is_first and _had_to_attach(story, actor) and not actor.report.lives:
            problems.append(f"rank {actor.rank} was promised every message, but found nothing to attach to")
    return problems + list(_of_writer(story)) + list(_of_wake_ups(story))


def _of_process(story: Story, actor: Actor) -> Iterator[str]:
    who = f"{actor.what} {'' if actor.rank is None else actor.rank} (pid {actor.pid})"
    assert actor.status is not None
    if os.WIFSIGNALED(actor.status):
        expected = actor.killed_by_us or (actor.fault is not None and actor.fault.deadly)
        if not actor.was_killed or not expected:
            yield f"{who} died of signal {os.WTERMSIG(actor.status)}"
    elif os.WEXITSTATUS(actor.status) != actor.planned_code:
        yield f"{who} ended with exit code {os.WEXITSTATUS(actor.status)}"
    elif actor.report is None:
        yield f"{who} ended without a report"
    if actor.report is not None:
        yield from (f"{who}: {problem}" for problem in actor.report.problems)


def _is_promised_all(story: Story, actor: Actor) -> bool:
    return not story.board.evicted >> (actor.rank or 0) & 1


def _had_to_attach(story: Story, actor: Actor) -> bool:
    writer = story.scenario.writer
    closes = writer.closes and (writer.fault is None or writer.fault.action != "exit")
    undisturbed = actor.fault is None and not story.writer_was_killed and closes
    return _is_promised_all(story, actor) and undisturbed and story.scenario.readers[actor.rank or 0].joins_after == 0


def _of_life(story: Story, actor: Actor, life: Life, is_first: bool) -> Iterator[str]:
    board = story.board
    promised = is_first and _is_promised_all(story, actor)
    # What it had to begin with: at the latest with what was sent after it had attached, and with nothing from before.
    latest = 0 if promised else life.attempted_after
    earliest = 0 if promised else life.sent_before
    if is_first or story.killed_before(actor):
        earliest = 0  # it has the seat that was kept for its rank, though it may be evicted later
    if life.first is not None and not earliest <= life.first <= latest:
        yield f"its first message is {life.first}, not one of {earliest} to {latest}"
    if life.end in ("writer died", "closed"):
        if (latest if life.first is None else life.next) < board.sent:
            yield f"{board.sent} messages were sent, and it did not get all of them"
        if life.next > board.attempted:
            yield f"it got more than the {board.attempted} messages that were made"
    if life.end == "writer died":
        fault = story.writer.fault
        if fault is not None and fault.action == "exit":
            # Others that make queues may have come to the fault's point long before the writer did; whoever comes there
            # while a queue is made goes on, and may send, until the process has ended.
            at_once = "create" in fault.beside or "large" in fault.beside
            if fault.point in CREATE_POINTS or (at_once and board.attempted == 0):
                return  # the queue was there only after the exit's handler had run
        if not story.writer_was_killed:
            yield "the writer was not killed"
        elif not story.was_hit(actor):
            yield from _of_latency(story, "the writer's death", story.writer, life)
    if life.end == "evicted" and not board.evicted >> (actor.rank or 0) & 1:
        yield "nobody had evicted it"


def _of_latency(story: Story, what: str, dead: Actor, life: Life) -> Iterator[str]:
    late_ms = max(0, life.ended_ns - max(dead.ended_ns, life.received_ns, life.attached_ns)) / 1e6
    story.latencies_ms.append(late_ms)
    if late_ms > LONGEST_IGNORANCE_MS:
        yield f"it knew of {what} only after {late_ms:.0f} ms"


def _of_writer(story: Story) -> Iterator[str]:
    report = story.writer.report
    if report is None:
        return
    if report.end == "sent all" and story.board.sent != story.scenario.writer.messages:
        yield f"the writer sent {story.board.sent} of {story.scenario.writer.messages} messages"
    deaths = [a.ended_ns for a in story.actors if a.what == "reader" and (a.was_killed or _may_count_as_dead(a))]
    if report.deaths_ns and not deaths:
        yield "the writer was told of a reader's death, but none had died"
    if story.was_hit(story.writer):
        return
    for began, raised in report.deaths_ns:
        died = max((at for at in deaths if at <= raised), default=raised)
        late_ms = (raised - max(began, died)) / 1e6
        story.latencies_ms.append(late_ms)
        if late_ms > LONGEST_IGNORANCE_MS:
            yield f"the writer knew of a reader's death only after {late_ms:.0f} ms"


def _may_count_as_dead(actor: Actor) -> bool:
    """Was it ended by an exception, or could it get its seat after the exit's handler had run?"""
    fault = actor.fault
    if fault is None or fault.action != "exit":
        return False
    # Who takes a seat wakes the writer; another thread's reader may have come to the fault's point before; and who is
    # evicted attaches again.
    at_once = fault.point in (*ATTACH_POINTS, *CLAIM_POINTS, "wake_begin") or "large" in fault.beside
    again = actor.report is not None and any(life.end == "evicted" for life in actor.report.lives)
    return at_once or again or fault.ends == "exception"


def _of_wake_ups(story: Story) -> Iterator[str]:
    """Nobody whose waker was not killed, stopped or held up may have been woken by the time-out alone."""
    for actor in story.actors:
        fault = actor.fault
        held_up = fault is not None and (fault.point in WAKE_POINTS or fault.action == "exit") and story.was_hit(actor)
        if actor.was_killed or actor.was_stopped or held_up:
            return
    rescued = sum(actor.report.rescued_wakes for actor in story.actors if actor.report is not None)
    if rescued > FORGIVEN_RESCUES:
        yield f"{rescued} wake-ups were lost"

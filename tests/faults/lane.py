"""Runs scenarios, one after the other, and prints an Outcome of each as a line of JSON

This process has imported ringcast and never makes an end: the actors are forked from it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import struct
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import IO

from ringcast import Handle
from ringcast._names import PREFIX
from ringcast.instruments import list_queues
from tests import own_shm
from tests.faults import actors
from tests.faults.actors import Actor
from tests.faults.board import Board
from tests.faults.checks import Story, judge
from tests.faults.plan import Fault, ReaderPlan, Scenario, plan

SHM = Path("/dev/shm")
WATCHDOG_S = 30.0
CREATOR_PID_OFFSET = 128
_NAP_S = 0.002


@dataclass
class Outcome:
    """What the driver is told of a scenario."""

    seed: int
    problems: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)  # "point action"
    reached: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    cleaned_by: str = "nobody had to"
    lives: int = 0
    received: int = 0


class Lane:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, stderr: IO[bytes], stacks: IO[bytes]) -> None:
        self.scenario = scenario
        self.name = f"f{os.getpid()}-{scenario.seed % 100_000}" if scenario.named else None
        self.board = Board()
        self.stderr = stderr  # of all actors
        self.stacks = stacks  # of those that hang
        self.actors: list[Actor] = []
        self.problems: list[str] = []
        self.readers_started = False

    def start_writer(self) -> None:
        def act(link: actors.Link, report: actors.Report) -> None:
            actors.write(self.scenario, self.name, self.board, link, report)

        self._start("writer", None, self.scenario.writer.fault, act)

    def start_reader(self, reader: ReaderPlan, handle: Handle | None, fault: Fault | None) -> None:
        def act(link: actors.Link, report: actors.Report) -> None:
            actors.read(self.scenario, reader, self.name, handle, self.board, link, report)

        self._start("reader", reader.rank, fault, act)

    def start_cleaner(self, what: str, fault: Fault | None) -> None:
        def act(link: actors.Link, report: actors.Report) -> None:
            actors.clean(what, self.name, link, report)

        self._start("cleaner", None, fault, act)

    def start_hog(self) -> None:
        def act(link: actors.Link, report: actors.Report) -> None:
            actors.hog(self.board, link, report)

        self._start("hog", None, None, act)

    def _start(self, what: str, rank: int | None, fault: Fault | None, act: actors.Act) -> None:
        self.actors.append(actors.start(what, rank, fault, self.stderr.fileno(), self.stacks.fileno(), act))

    def start_readers(self, handle: Handle | None) -> None:
        self.handle = handle
        self.readers_started = True
        for reader in self.scenario.readers:
            self.start_reader(reader, handle, reader.fault)
        if self.scenario.hogged:
            self.start_hog()

    def run(self) -> None:
        """All actors, to their ends."""
        self.start_writer()
        if self.scenario.named:
            self.start_readers(None)
        self.await_all()

    def await_all(self) -> None:
        deadline = time.monotonic() + WATCHDOG_S
        while True:
            living = [actor for actor in self.actors if actor.status is None]
            if not living:
                return
            for actor in living:
                self._look_after(actor)
            if self.scenario.looks_on:
                list_queues()
            if time.monotonic() > deadline:
                self._report_hang()
                return
            listened = [actor for actor in living if actor.status is None]
            connection.wait([actor.link for actor in listened], _NAP_S)
            for actor in listened:
                self._listen(actor)

    def _listen(self, actor: Actor) -> None:
        try:
            while actor.link.poll(0):
                said = actor.link.recv()
                if isinstance(said, actors.Report):
                    actor.report = said
                elif not self.readers_started:
                    self.start_readers(said)
        except (EOFError, OSError):
            return

    def _look_after(self, actor: Actor) -> None:
        if actor.resume_ns is not None and time.monotonic_ns() >= actor.resume_ns:
            actor.resume_ns = None
            deadly = actor.fault is not None and actor.fault.deadly
            os.kill(actor.pid, signal.SIGKILL if deadly else signal.SIGCONT)
        pid, status = os.waitpid(actor.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            actor.was_stopped = True
            pause_s = actor.fault.pause_s if actor.fault is not None else 0
            actor.resume_ns = time.monotonic_ns() + int(pause_s * 1e9)
            return
        actor.status = status
        actor.ended_ns = time.monotonic_ns()
        self._listen(actor)
        actor.link.close()
        if actor.what == "writer":
            self.board.writer_over = 1
            if actor.was_killed and self.scenario.nobody_survives:
                for other in self.actors:
                    if other.status is None:
                        other.killed_by_us = True
                        os.kill(other.pid, signal.SIGKILL)
        elif actor.rank is not None:
            reader = self.scenario.readers[actor.rank]
            if actor.was_killed and reader.restarts and not actor.killed_by_us and actor.fault is not None:
                self.start_reader(reader, self.handle, None)
            else:
                self.board.gone |= 1 << actor.rank

    def _report_hang(self) -> None:
        living = [actor for actor in self.actors if actor.status is None]
        for actor in living:
            os.kill(actor.pid, signal.SIGUSR1)
        time.sleep(0.5)  # for their stacks; nothing can be waited for in a process that hangs
        board = {name: getattr(self.board, name) for name in ("attempted", "sent", "evicted", "gone", "writer_over")}
        text = [f"hang: after {WATCHDOG_S} s {len(living)} processes had not ended; {board}"]
        for actor in living:
            state = Path(f"/proc/{actor.pid}/stat").read_text().rpartition(")")[2].split()[0]
            text.append(f"  {actor.what} {actor.rank} (pid {actor.pid}, state {state})")
            os.kill(actor.pid, signal.SIGKILL)
            _, actor.status = os.waitpid(actor.pid, 0)
            actor.killed_by_us = True
            actor.link.close()
        self.stacks.seek(0)
        self.problems.append("\n".join(text) + "\n" + self.stacks.read().decode())

    def left(self) -> list[str]:
        """Segments whose creator is an actor of this scenario."""
        pids = {actor.pid for actor in self.actors}
        found = []
        for path in SHM.glob(PREFIX + "*"):
            with path.open("rb") as file:
                header = file.read(CREATOR_PID_OFFSET + 4)
            if struct.unpack_from("=I", header, CREATOR_PID_OFFSET)[0] in pids:
                found.append(path.name)
        return found


def conduct(seed: int) -> Outcome:
    """Runs the scenario of this seed and judges it."""
    scenario = plan(seed)
    small = own_shm.of_size("10m") if scenario.hogged else nullcontext()
    with small, tempfile.TemporaryFile() as stderr, tempfile.TemporaryFile() as stacks:
        return _conduct(Lane(scenario, stderr, stacks))


def _conduct(lane: Lane) -> Outcome:
    lane.run()
    outcome = Outcome(lane.scenario.seed)
    story = Story(lane.scenario, lane.board, lane.actors, outcome.latencies_ms)
    if not lane.problems:
        lane.problems += judge(story)
    outcome.cleaned_by = _clean_up(lane, story)
    lane.stderr.seek(0)
    printed = lane.stderr.read().decode()
    if printed:
        lane.problems.append(f"printed on stderr:\n{printed}")
    for actor in lane.actors:
        if actor.fault is not None and story.was_hit(actor):
            outcome.hits.append(f"{actor.fault.point} {actor.fault.action}")
        if actor.report is not None:
            for point, times in actor.report.times_reached.items():
                outcome.reached[point] = outcome.reached.get(point, 0) + times
            outcome.lives += len(actor.report.lives)
            outcome.received += sum(life.next - (life.first or 0) for life in actor.report.lives)
    outcome.problems = lane.problems
    return outcome


def _clean_up(lane: Lane, story: Story) -> str:
    """Checks that /dev/shm is as before, or that whoever has to can make it so. Returns who did."""
    scenario = lane.scenario
    left = lane.left()
    if not left:
        return "survivors" if story.writer_was_killed else "nobody had to"
    if story.may_leave:
        pass
    elif not story.writer_was_killed:
        lane.problems.append(f"nobody's writer was killed, but {left} is left in {SHM}")
    elif story.has_survivor:
        lane.problems.append(f"the last survivor has closed, but {left} is left in {SHM}")
    what = scenario.cleanup
    if scenario.cleanup_fault is not None:
        lane.start_cleaner(what, scenario.cleanup_fault)
        lane.await_all()
    lane.start_cleaner(what, None)
    lane.await_all()
    cleaner = lane.actors[-1]
    if cleaner.status != 0 or cleaner.report is None or cleaner.report.problems:
        lane.problems.append(f"the cleaner ({what}) failed: {cleaner}")
    left = lane.left()
    if left:
        lane.problems.append(f"{what} left {left} in {SHM}")
    for name in left:
        (SHM / name).unlink()
    return what


def main(first: int, count: int, step: int) -> None:
    """Runs `count` scenarios; `step` leads from seed to seed."""
    gc.freeze()  # what is here is every actor's: collecting it there would copy its pages
    for number in range(count):
        print(json.dumps(asdict(conduct(first + number * step))), flush=True)

"""A link's desk: an end that asks, or the link that answers, is killed or stopped at every step of it.

`python -m tests.faults desk` runs each fault point a few times. Two ends take places, ask, give questions up, and
leave, again and again, so that the link also ends and is started anew between. A third end, or the link, is hit.
Afterwards the others have come to their ends with right answers, and have been told of a link's death in time; while an
end is stopped others are served; the place of a dead one can be taken; and of links and desks nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ringcast import _core
from ringcast.errors import LinkDiedError, LinkError, QueueTimeoutError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _launch, _process
from ringcast.net.link._desk import Desk, new_job
from ringcast.net.link._launch import born, link_of
from tests import own_shm
from tests.faults import core
from tests.faults.plan import ATTACH_POINTS, CREATE_POINTS, REMOVAL_POINTS
from tests.faults.scenarios import PATIENCE_S, ROOT, Failed, end_all, until

ROUNDS = 5
KNOWN_WITHIN_S = 1.0 + 4.0
"""That a link has died; and this machine does other things besides."""
PAUSE_S = 0.4
LANES = 3
"""Scenarios at a time, each with a /dev/shm of its own."""

END_POINTS = (
    "desk_place_locked",
    "desk_place_taken",
    "desk_request_written",
    "desk_asked",
    "desk_ask_end_begin",
    "desk_leave_begin",
    "desk_left",
)
LINK_POINTS = (
    "desk_request_taken",
    "desk_reply_written",
    "desk_answered",
    "desk_closing",
    "desk_close_stored",
    "desk_unlinked",
)
TEXT_POINT = "desk_text_word"
POINTS = frozenset((*END_POINTS, *LINK_POINTS, TEXT_POINT))
FAULTS = (("kill", 1), ("stop", 2), ("stop then kill", 3))
RARE_FAULTS = (("kill", 1), ("stop", 1), ("stop then kill", 1))
"""Of what a process comes to once in its life."""
RARE_POINTS = (*CREATE_POINTS, *REMOVAL_POINTS, "desk_closing", "desk_close_stored", "desk_unlinked")
TEXT_FAULTS = (("kill", 1), ("kill", 60), ("stop", 200), ("stop then kill", 400))


class Plan(NamedTuple):
    """Who is hit where: the "link", the "end" that has this plan, or "nobody". Links leave their ids in the folder."""

    folder: str
    whose: str
    point: str
    action: str
    nth: int

    def arm(self) -> None:
        action = "stop" if self.action.startswith("stop") else self.action
        _core._arm_fault(self.point, action, self.nth)  # type: ignore[attr-defined]


# --- The processes.


class EchoingLink(_process.Link):
    """With answers that are as long as what was asked."""

    def __init__(self, desk: Desk, *arguments: Any) -> None:
        super().__init__(desk, *arguments)
        self.handlers["echo"] = lambda request: request.what["text"][::-1]


def be_link(job: str, plan: Plan) -> None:
    """In a process that was started as every link is; the first of a scenario is the one that is hit."""
    folder = Path(plan.folder)
    with contextlib.suppress(FileExistsError):
        (folder / "first").symlink_to(str(os.getpid()))
        if plan.whose == "link":
            plan.arm()
    (folder / f"link.{os.getpid()}").touch()
    _process.Link = EchoingLink  # type: ignore[assignment,misc]
    _process.LINGER_S, _process.LOOK_S = 0.1, 0.02
    born(job)
    (folder / f"ended.{os.getpid()}").touch()


def starts_links(plan: Plan) -> None:
    """Links that this process starts are such."""
    _launch._BOOT = f"""
import os, sys
if os.fork(): os._exit(0)
folder, job = sys.argv[1:]
sys.path[:0] = [{str(ROOT)!r}, folder]
os.environ[{core.VARIABLE!r}] = {os.environ[core.VARIABLE]!r}
from tests.faults import core
core.load()
from tests.faults.desk import Plan, be_link
be_link(job, Plan{tuple(plan)!r})
"""


def ask(job: str, plan: Plan, seed: int) -> None:
    """An end's life; says of each round how it has ended, and when."""
    chosen = random.Random(seed)
    starts_links(plan)
    if plan.whose == "end":
        plan.arm()
    done = 0
    while done < ROUNDS:
        try:
            with link_of(job, Deadline(PATIENCE_S)) as place:
                for _ in range(3):
                    text = str(chosen.random()) * chosen.choice((1, 40, 200))
                    within = chosen.choice((PATIENCE_S, PATIENCE_S, PATIENCE_S, 1e-4))
                    with contextlib.suppress(QueueTimeoutError) if within < 1 else contextlib.nullcontext():
                        assert place.ask({"op": "echo", "text": text}, Deadline(within)) == text[::-1], (
                            "another's answer"
                        )
            done += 1
            print("round", time.monotonic(), flush=True)
        except LinkDiedError:
            print("died", time.monotonic(), flush=True)
        except LinkError as error:
            print("not started", time.monotonic(), error, flush=True)
        time.sleep(chosen.choice((0.0, 0.0, 0.05, 0.25)))  # a link has ended after the last of them


# --- The scenarios.


class Fault(NamedTuple):
    """Of an end or a link, the nth time that it comes to a point."""

    whose: str
    point: str
    action: str
    nth: int


class Scenario:
    """One fault."""

    def __init__(self, whose: str, point: str, action: str, nth: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.plan = Plan(self.folder.name, whose, point, action, nth)
        self.job = new_job()
        self.hit = False
        self.processes: list[subprocess.Popen[bytes]] = []
        self.said: list[Path] = []

    def start(self, plan: Plan) -> subprocess.Popen[bytes]:
        number = len(self.processes)
        self.said.append(Path(self.folder.name) / f"said.{number}")
        command = [sys.executable, "-m", "tests.faults", "desk-actor", self.job, plan.folder, str(number), *plan[1:4]]
        with self.said[-1].open("wb") as said:
            process = subprocess.Popen([*command, str(plan.nth)], stdout=said, cwd=ROOT)
        self.processes.append(process)
        return process

    def run(self) -> None:
        of_link = self.plan.whose == "link"
        if not of_link:
            victim = self.start(self.plan)
            if self.plan.point in REMOVAL_POINTS:
                until(lambda: bool(self.rounds(0)), "a round")
                self.kill_links()
                until(lambda: victim.poll() is not None or _stopped(victim.pid), "an end of the victim")
        others = [self.start(self.plan if of_link else self.plan._replace(whose="nobody")) for _ in range(2)]
        died = self.hit_link() if of_link else self.hit_end(victim, others)
        for process in self.processes:
            try:
                process.wait(2 * PATIENCE_S)
            except subprocess.TimeoutExpired as error:
                raise Failed("an end does not come to its end") from error
        for process in others:
            if process.returncode != 0:
                raise Failed(f"an end that was not hit has ended with {process.returncode}")
        self.check_what_was_said(died)
        self.check_what_is_left()

    def rounds(self, number: int) -> int:
        return self.said[number].read_text().count("round")

    def kill_links(self) -> None:
        for path in Path(self.folder.name).glob("link.*"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.suffix[1:]), signal.SIGKILL)

    def hit_end(self, victim: subprocess.Popen[bytes], others: list[subprocess.Popen[bytes]]) -> float | None:
        until(lambda: victim.poll() is not None or _stopped(victim.pid), "an end of the victim", 2 * PATIENCE_S)
        if victim.poll() is None:
            self.hit = True
            if self.plan.point in REMOVAL_POINTS:  # nobody can have the name that it removes, and all are told so
                time.sleep(PAUSE_S)
            else:
                until(lambda: all(one.poll() is not None for one in others), "the others are served", 2 * PATIENCE_S)
            victim.send_signal(signal.SIGKILL if "kill" in self.plan.action else signal.SIGCONT)
            victim.wait(2 * PATIENCE_S)
        if "kill" in self.plan.action and victim.returncode == -signal.SIGKILL:
            self.hit = True
        elif victim.returncode != 0:
            raise Failed(f"the victim has ended with {victim.returncode}")
        return None

    def hit_link(self) -> float | None:
        """When it died."""
        folder = Path(self.folder.name)
        until((folder / "first").is_symlink, "a link")
        pid = int(os.readlink(folder / "first"))
        ended = folder / f"ended.{pid}"
        until(lambda: not _runs(pid) or _stopped(pid) or ended.exists(), "an end of the link", 2 * PATIENCE_S)
        if _stopped(pid):
            self.hit = True
            time.sleep(PAUSE_S)
            os.kill(pid, signal.SIGKILL if "kill" in self.plan.action else signal.SIGCONT)
            if "kill" not in self.plan.action:
                return None
            until(lambda: not _runs(pid), "its death")
        if ended.exists():
            return None
        self.hit = True
        return time.monotonic()

    def check_what_was_said(self, died: float | None) -> None:
        for path in self.said:
            for line in path.read_text().splitlines():
                what, _, rest = line.rpartition("started") if line.startswith("not") else line.partition(" ")
                if what == "round":
                    continue
                if self.plan.whose == "end" and self.plan.point not in REMOVAL_POINTS:
                    raise Failed(f"an end was hit, and another one says: {line}")
                if what == "died" and died is not None and float(rest) - died > KNOWN_WITHIN_S:
                    raise Failed(f"that the link has died is known after {float(rest) - died:.1f} s")

    def check_what_is_left(self) -> None:
        starts_links(self.plan._replace(whose="nobody"))
        with link_of(self.job, Deadline(PATIENCE_S)) as place:
            if place.number % _core.DESK_PLACES != 0:
                raise Failed("the place of one that has gone is not free")
            if place.ask({"op": "echo", "text": "abc"}, Deadline(PATIENCE_S)) != "cba":
                raise Failed("another's answer")
        links = [int(path.suffix[1:]) for path in Path(self.folder.name).glob("link.*")]
        until(lambda: not any(map(_runs, links)), "the end of all links")
        left = [path.name for path in Path("/dev/shm").iterdir()]
        if left:
            raise Failed(f"{left} is left in /dev/shm")

    def end(self) -> None:
        end_all(self.processes)  # type: ignore[arg-type]
        self.kill_links()
        self.folder.cleanup()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    return _state(pid) not in ("", "Z", "X")


def _stopped(pid: int) -> bool:
    return _state(pid) == "T"


def _enter() -> None:
    if (reason := own_shm.enter()) is not None:
        raise OSError(f"this needs a /dev/shm of its own: {reason}")


def _run(fault: Fault) -> tuple[bool, str]:
    """Was anybody hit; and what was wrong."""
    scenario = Scenario(*fault)
    problem = ""
    try:
        scenario.run()
    except (Failed, AssertionError) as error:
        said = [f"\n  {path.name}: {path.read_text()[-400:]!r}" for path in scenario.said]
        problem = f"{error}{''.join(said)}"
    finally:
        scenario.end()
        for path in Path("/dev/shm").iterdir():
            path.unlink()
    return scenario.hit, problem


def main(rounds: int, *only: str) -> int:
    """Each point, or these alone; 1 if anything was wrong."""
    # Of the processes of scenarios none is to import this.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    started = time.monotonic()
    faults = []
    of_ends = [*END_POINTS, *ATTACH_POINTS, *REMOVAL_POINTS, TEXT_POINT]
    of_links = [*LINK_POINTS, *CREATE_POINTS, TEXT_POINT]
    for whose, points in (("end", of_ends), ("link", of_links)):
        for point in points:
            kinds = TEXT_FAULTS if point == TEXT_POINT else RARE_FAULTS if point in RARE_POINTS else FAULTS
            faults += [
                Fault(whose, point, action, nth * factor) for factor in range(1, rounds + 1) for action, nth in kinds
            ]
    faults = [fault for fault in faults if not only or fault.point in only]
    hits = failures = 0
    with ProcessPoolExecutor(LANES, mp_context=get_context("fork"), initializer=_enter) as lanes:
        outcomes = zip(faults, lanes.map(_run, faults), strict=True)
        for (whose, point), group in groupby(outcomes, lambda outcome: outcome[0][:2]):
            was_hit = times = 0
            for fault, (hit, problem) in group:
                was_hit, times = was_hit + hit, times + 1
                if problem:
                    failures += 1
                    print(f"FAILED: {point} of the {whose}, {fault.action}, time {fault.nth}: {problem}")
            hits += was_hit
            print(f"  {whose:<5}{point:<24} hit {was_hit} of {times} times", flush=True)
    seconds = time.monotonic() - started
    print(f"{len(faults)} scenarios of a desk in {seconds:.0f} s: {hits} hits, {failures} failures")
    return 1 if failures else 0

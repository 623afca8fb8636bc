"""The processes of one measurement: a writer and its readers, started, pinned, watched and always cleaned up.

A crew is forked from a process that has no thread, no socket and no end of a queue, so nothing is inherited that a
process started by a user would not have. Each member runs one function and returns one picklable result. If a member
fails, dies or takes too long, all are ended and the reason is raised: a measurement gives a result of every member or
an error, and never hangs. Ctrl-C reaches the parent alone; members end with it, whatever ends it.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Barrier
from types import FrameType
from typing import Any

from ringcast.cli.lab.placement import Placement

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 2.0


class CrewError(RuntimeError):
    """A measurement that did not come to its end; the message says which member, and why."""


@dataclass(frozen=True)
class Member:
    """What a member of a crew is given: its place, a barrier for all, and pipes between the writer and each reader.

    `links` holds one pipe for each reader in the writer, and one, to the writer, in a reader.
    """

    index: int
    barrier: Barrier
    links: tuple[Connection, ...]
    timeout: float

    @property
    def rank(self) -> int:
        """The reader's rank; -1 in the writer."""
        return self.index - 1

    def meet(self) -> None:
        """Wait until every member of the crew is here."""
        self.barrier.wait(self.timeout)


Role = Callable[[Member], Any]


def run_crew(writer: Role, readers: Sequence[Role], placement: Placement, timeout: float) -> list[Any]:
    """Run a writer and readers to their ends and return their results, the writer's first.

    Raises `CrewError` if any of them fails, dies, or has not finished after `timeout` seconds.
    """
    context = multiprocessing.get_context("fork")
    roles = [writer, *readers]
    barrier = context.Barrier(len(roles))
    pipes = [context.Pipe() for _ in readers]
    outs: list[Connection] = []
    processes: list[ForkProcess] = []
    try:
        with interruptions_held():
            for index, role in enumerate(roles):
                links = tuple(ours for ours, _ in pipes) if index == 0 else (pipes[index - 1][1],)
                result_end, out = context.Pipe(duplex=False)
                member = Member(index, barrier, links, timeout)
                process = context.Process(target=_main, args=(role, member, placement, out, os.getpid()), daemon=True)
                process.start()
                out.close()
                outs.append(result_end)
                processes.append(process)
        return _collect(processes, outs, time.monotonic() + timeout)
    finally:
        with interruptions_held():
            _end(processes)
        for connection in (*outs, *(end for pair in pipes for end in pair)):
            connection.close()


def _main(role: Role, member: Member, placement: Placement, out: Connection, parent: int) -> None:
    """The life of one member."""
    die_with(parent)
    # The terminal's Ctrl-C goes to every process; the parent decides, and asks with SIGTERM, so that ends get closed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        placement.pin(member.index)
        out.send(("result", role(member)))
    except Exception as error:
        out.send(("error", f"{error!r}\n{traceback.format_exc()}"))
    finally:
        out.close()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    logging.disable(logging.WARNING)  # a measurement is broken off: what will not arrive is not worth a word
    sys.exit(1)


def die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even if that one is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _collect(processes: list[ForkProcess], outs: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(zip(outs, range(len(outs)), strict=True))
    while waiting:
        left = deadline - time.monotonic()
        ready = wait(list(waiting), max(0.0, left))
        if not ready:
            late = ", ".join(_called(index) for index in waiting.values())
            raise CrewError(f"not finished in time: {late}")
        for connection in ready:
            assert isinstance(connection, Connection)
            index = waiting.pop(connection)
            try:
                kind, value = connection.recv()
            except EOFError:
                raise CrewError(f"{_called(index)} {_death(processes[index])}") from None
            if kind == "error":
                raise CrewError(f"{_called(index)} (pid {processes[index].pid}) failed: {value}")
            results[index] = value
    return [results[index] for index in range(len(outs))]


def _end(processes: list[ForkProcess]) -> None:
    """End what still runs: a member that has given its result leaves by itself, others are asked, then killed."""
    finished = time.monotonic() + _GRACE_SECONDS
    if sys.exc_info()[0] is not None:
        finished = time.monotonic()
    for how in (None, "terminate", "kill"):
        for process in processes:
            if how is not None and process.is_alive():
                getattr(process, how)()
        for process in processes:
            process.join(max(0.0, finished - time.monotonic()))
        finished = time.monotonic() + _GRACE_SECONDS


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Ctrl-C and termination wait until the block is done, and processes started in it never see a Ctrl-C.

    For what must not be left half done: a process that has been forked but is not known yet, or is being ended. Outside
    the main thread, which alone gets signals, there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    held = {
        number: handler for number in numbers if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    # Handlers, because a signal that another thread takes is handled in this one, whatever this one blocks; and the
    # mask, because that is what the processes inherit.
    for number in held:
        signal.signal(number, lambda number, frame: arrived.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in held.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _death(process: ForkProcess) -> str:
    process.join(_GRACE_SECONDS)
    code = process.exitcode
    if code is not None and code < 0:
        return f"(pid {process.pid}) was killed by {signal.Signals(-code).name}"
    return f"(pid {process.pid}) ended with exit code {code}"


def _called(index: int) -> str:
    return "the writer" if index == 0 else f"reader {index - 1}"

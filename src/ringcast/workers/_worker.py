"""One worker as its group sees it: a process, the pipes to it, the ring of its answers, and how it ended.

Only the group's keeper starts and reaps it, from one thread, to which Ctrl-C does not come.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from multiprocessing import process as processes
from multiprocessing import resource_tracker
from typing import Any

from ringcast._registry import Registry
from ringcast.errors import WorkerDiedError
from ringcast.queue import MessageQueue
from ringcast.workers._birth import RANK_VARIABLE, Birth, Descriptor, begin
from ringcast.workers._memory import oom_kills

_STACKS_WITHIN_S = 0.3
_STACKS_PAUSE_S = 0.01
_MOST_STACKS = 1 << 16
_environment = threading.Lock()
"""os.environ is what a process that is started inherits; changed for one at a time."""


class Worker:
    """A process of a group, from before its start until it is reaped."""

    def __init__(self, context: Any, rank: int, prints: bool) -> None:
        self.rank = rank
        self.ring: MessageQueue | None = None
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.death: str | None = None
        """How it ended, once it has."""
        self.exitcode: int | None = None
        self.leaving_since: float | None = None
        """When it said by its ring that it serves no more."""
        self._context = context
        self._process: Any = None
        self._oom_kills = 0
        self._open = threading.RLock()  # held by who uses one of these, which the keeper may close meanwhile
        with ExitStack() as opened:  # and closed, if there are too few for all
            self.news, self._news = context.Pipe(duplex=False)
            life, self._life = _pipe(opened)
            self._asked, self._ask = _pipe(opened)
            os.set_blocking(self._asked, False)
            os.set_blocking(self._ask, False)
            self._stacks = _unnamed_file()
            opened.callback(os.close, self._stacks)
            streams = [_pipe(opened) for _ in range(2 if prints else 0)]
            opened.pop_all()
        self.outputs: tuple[int, ...] = tuple(ours for ours, _ in streams)
        self._theirs = [life, *(theirs for _, theirs in streams)]
        _living.add(self)

    @property
    def pid(self) -> int:
        """0: it could not be started."""
        return 0 if self._process is None else int(self._process.pid or 0)

    def start(self, template: Birth) -> None:
        """Raises what the system, or pickling, raises."""
        streams = None
        if len(self._theirs) > 1:
            streams = (Descriptor(self._theirs[1]), Descriptor(self._theirs[2]))
        birth = template._replace(
            rank=self.rank, news=self._news, life=Descriptor(self._theirs[0]), asked=Descriptor(self._asked),
            stacks=Descriptor(self._stacks), streams=streams,
        )  # fmt: skip
        process = self._context.Process(target=begin, args=(birth,), name=f"ringcast-worker-{self.rank}")
        self._oom_kills = oom_kills()
        mine = {**template.env, RANK_VARIABLE: str(self.rank)}
        if self._context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # which unblocks the signal where it has to start
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _environment:
                was = {name: os.environ.get(name) for name in mine}
                os.environ.update(mine)
                try:
                    process.start()
                finally:
                    for name, value in was.items():
                        if value is None:
                            os.environ.pop(name, None)
                        else:
                            os.environ[name] = value
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for descriptor in self._theirs:
                os.close(descriptor)
            self._theirs = []
            self._news.close()
        self._process = process

    def sentinel(self) -> int | None:
        """A descriptor that can be read once the process has ended; None where the system has none."""
        if self._process is None:
            return None
        try:
            return os.pidfd_open(self._process.pid)  # type: ignore[attr-defined,no-any-return,unused-ignore]
        except (AttributeError, OSError):
            return None

    def signal(self, number: int) -> None:
        """For the keeper alone: nobody else may have reaped the process, whose number is another's then."""
        if self._process is not None and not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def reap(self, surely_ended: bool) -> bool:
        """Has the process ended? Then says how."""
        if self.ended.is_set():
            return True
        code = None if self._process is None else self._process.exitcode
        if code is None and not surely_ended:
            return False
        self.exitcode = code
        self.death = self._how(code)
        self._release()
        self.ended.set()
        return True

    def died(self, doing: str) -> WorkerDiedError:
        """The error of a call that it will not answer."""
        error = WorkerDiedError(
            f"rank {self.rank} (host {socket.gethostname()}, pid {self.pid}) {self.death or 'serves no more'}, {doing}"
        )
        error.rank, error.pid, error.exitcode = self.rank, self.pid, self.exitcode
        return error

    def stacks(self) -> str:
        """What all its threads are doing, as they themselves write it down; what is known otherwise if they cannot."""
        try:
            with self._open:
                with suppress(BlockingIOError):
                    while os.read(self._asked, 4096):
                        pass
                os.ftruncate(self._stacks, 0)
                os.write(self._ask, b"?")
            until = time.monotonic() + _STACKS_WITHIN_S
            size = 0
            while time.monotonic() < until:
                time.sleep(_STACKS_PAUSE_S)
                with self._open:
                    now = os.fstat(self._stacks).st_size
                    if now and now == size:
                        return os.pread(self._stacks, _MOST_STACKS, 0).decode(errors="replace")
                size = now
        except OSError as error:
            return f"({self.death or f'cannot be asked: {error}'})"
        return f"(says nothing: {_state(self.pid)})"

    def _how(self, code: int | None) -> str:
        if self._process is None:
            return "could not be started"
        if code is None:
            return "has ended, and the system does not say how"
        when = "" if self.ready.is_set() else " before it was ready"
        if code >= 0:
            return f"ended with exit code {code}{when}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        kills = oom_kills() - self._oom_kills
        memory = (
            f" (its control group's memory ran out: {kills} killed for that since it started)"
            if -code == signal.SIGKILL and kills > 0
            else ""
        )
        return f"was ended by {name}{memory}{when}"

    def _release(self) -> None:
        """Of the pipes; those of its output are the echo's."""
        _living.discard(self)
        self.news.close()
        with self._open:
            descriptors = (self._life, self._asked, self._ask, self._stacks, *self._theirs)
            self._life = self._asked = self._ask = self._stacks = -1  # before their numbers may be others'
            self._theirs = []
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)


_living: Registry[Worker] = Registry()


def _forget_lives() -> None:
    """In a forked child: it must not keep alive those who live as long as its parent."""
    children: set[Any] = getattr(processes, "_children", set())
    for worker in _living.inherited():
        children.discard(worker._process)  # at its end multiprocessing would join it, which only a parent may
        with suppress(OSError):
            os.close(worker._life)
        _living.discard(worker)


os.register_at_fork(after_in_child=_forget_lives)


def _pipe(opened: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for descriptor in ends:
        opened.callback(os.close, descriptor)
    return ends


def _unnamed_file() -> int:
    make = getattr(os, "memfd_create", None)
    if make is not None:
        number: int = make("ringcast-stacks")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    import fcntl

    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_APPEND)
    return number


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "its process does not answer"
    states = {"T": "its process is stopped", "t": "a debugger holds it", "D": "it waits in the kernel"}
    return states.get(letter, "its process does not answer")

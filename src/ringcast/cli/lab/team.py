"""Worker processes for `demo` and `bench` that end with the command, whatever ends it, and are missed when they die.

Every wait for a worker also ends, with an error that names it, when a worker has died. Ctrl-C reaches the parent alone:
workers are born with SIGINT blocked, and leave on the parent's SIGTERM through their `finally` blocks.
"""

from __future__ import annotations

import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

from ringcast.cli.common import CommandError
from ringcast.errors import PeerError, QueueTimeoutError

# Spawned, not forked: a forked worker would share the parent's threads' locks, whatever state they were in.
CONTEXT: SpawnContext = get_context("spawn")

LOOK_SECONDS = 0.25  # how long to wait for a queue before looking whether all workers are still alive
LEAVE_SECONDS = 0.4  # what a worker gets to leave before it is killed

Work = Callable[..., None]
T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    """What a worker says before it gives up."""

    message: str


class Team:
    """Workers of rank 0, 1, ... that run `work(pipe, rank, *arguments[rank])`, each at one end of a pipe.

    As a context manager it ends them: they get a moment to leave by themselves, and none after an exception.
    """

    def __init__(self, work: Work, arguments: Sequence[tuple[Any, ...]]) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Connection[Any, Any]] = []
        with interruptions_held():
            for rank, own in enumerate(arguments):
                here, there = CONTEXT.Pipe()
                process = CONTEXT.Process(target=_run, args=(work, there, rank, *own), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
                self._pipes.append(here)

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, by rank."""
        return [process.pid for process in self._processes]

    def receive(self, rank: int) -> Any:
        """The next object that this worker has sent through its pipe."""
        while True:
            wait([self._pipes[rank], *(process.sentinel for process in self._processes)])
            if self._pipes[rank].poll():
                try:
                    received = self._pipes[rank].recv()
                except EOFError:
                    received = None
                if not isinstance(received, _Failure) and received is not None:
                    return received
                raise CommandError(self._obituary(rank, received))
            self.check()

    def receive_all(self) -> list[Any]:
        """The next object from each worker."""
        return [self.receive(rank) for rank in range(len(self))]

    def send_all(self, message: Any) -> None:
        """Send an object to each worker through its pipe."""
        try:
            for pipe in self._pipes:
                pipe.send(message)
        except BrokenPipeError:
            self.check()
            raise

    def check(self) -> None:
        """Raise an error that names the first worker that has ended, with its own words if it left any."""
        for rank, process in enumerate(self._processes):
            if process.exitcode is not None:
                raise CommandError(self._obituary(rank, None))

    def patiently(self, call: Callable[[float], T]) -> T:
        """`call` with a short timeout, again and again until it succeeds or a worker has died."""
        while True:
            try:
                return call(LOOK_SECONDS)
            except QueueTimeoutError:
                self.check()
            except PeerError as error:
                self.explain(error)

    def explain(self, error: PeerError) -> NoReturn:
        """Raise what `check` raises, or else `error`, which says that the other end of a queue is gone."""
        wait([process.sentinel for process in self._processes], LEAVE_SECONDS)  # its locks go before its process does
        self.check()
        raise error

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        with interruptions_held():
            for pipe in self._pipes:
                pipe.close()
            if kind is None:
                self._await_exit()
            for process in self._processes:
                process.terminate()
            self._await_exit()
            for process in self._processes:
                process.kill()
                process.join()

    def _await_exit(self) -> None:
        deadline = time.monotonic() + LEAVE_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))

    def _obituary(self, rank: int, last_words: _Failure | None) -> str:
        process, pipe = self._processes[rank], self._pipes[rank]
        try:
            while last_words is None and pipe.poll():
                received = pipe.recv()
                last_words = received if isinstance(received, _Failure) else None
        except (EOFError, OSError):
            pass  # it died without a word
        process.join(LEAVE_SECONDS)
        how = last_words.message if last_words else _describe_exit(process.exitcode)
        return f"worker {rank} (pid {process.pid}) failed: {how}"


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return "it closed its pipe" if code is None else f"it ended with exit code {code}"


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Ctrl-C and termination wait until the block is done, and processes started in it never see a Ctrl-C.

    For what multiprocessing does not finish when it is interrupted: a process half started, a semaphore made but not
    yet noted for removal. To be used in the main thread.
    """
    resource_tracker.ensure_running()  # it lifts a block of SIGINT when it starts, so it starts before
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


def patiently_for_parent(call: Callable[[float], T]) -> T:
    """In a worker: `call` with a short timeout, again and again until it succeeds or the parent has died."""
    while True:
        try:
            return call(LOOK_SECONDS)
        except (QueueTimeoutError, queue.Empty):
            parent = parent_process()
            if parent is not None and not parent.is_alive():
                raise CommandError("the parent has died") from None


def _run(work: Work, pipe: Connection[Any, Any], rank: int, *arguments: Any) -> None:
    """A worker's life: `work`, and last words in the pipe if it fails."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        work(pipe, rank, *arguments)
    except Exception as error:
        with suppress(OSError):  # the parent has gone first: that is why
            pipe.send(_Failure(f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)

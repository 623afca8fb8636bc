"""What the tests share: queues with their readers, real child processes, and waiting for what can be observed.

Nothing here sleeps in place of synchronisation: `eventually` polls a condition and fails after a deadline that only a
broken library reaches.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ringcast import MessageQueue
from ringcast.errors import QueueTimeoutError
from tests import own_shm

Link: TypeAlias = "Connection[Any, Any]"

SHM = own_shm.SHM
ROOT = Path(__file__).resolve().parent.parent
CREATOR_PID_OFFSET = 128
DEADLINE_S = 60.0
"""How long a test waits for something that has to happen; not a statement about speed."""
FORGIVEN_RESCUES = 2
"""Where processes outnumber CPUs, a waker may lose its own between its store and its wake-up for longer than a sleeper
sleeps before it looks again."""

started_pids: set[int] = set()
"""Every process that a test has started: what they left in /dev/shm is ours."""

_numbers = itertools.count()


def unique_name(stem: str = "t") -> str:
    """A queue name that no other test, and no test of another run, uses. At most 18 characters."""
    return f"{stem}{os.getpid()}-{next(_numbers)}"


def runs(pid: int) -> bool:
    """Has any thread of the process not ended?

    One that nobody has waited for stays, as a zombie. A zombie may have threads that still end, and the kernel closes a
    process's files, which frees its locks, with the last of them.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" or threads != [str(pid)]


def stop(pid: int) -> None:
    """SIGSTOP; returns when all threads of the process have stopped."""
    os.kill(pid, signal.SIGSTOP)
    await_stop(pid)


def await_stop(pid: int) -> None:
    """Threads that run when a process is stopped stop a moment later."""
    eventually(lambda: all(state in "TtZX" for state in _thread_states(pid)), f"the stop of process {pid}")


def _thread_states(pid: int) -> Iterator[str]:
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # a thread that has just ended
            yield stat.read_text().rpartition(")")[2].split()[0]


def eventually(condition: Callable[[], Any], what: str = "the condition", timeout: float = DEADLINE_S) -> Any:
    """The first true result of `condition`; fails if there is none in time."""
    deadline, pause = time.monotonic() + timeout, 0.001
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(pause)
        pause = min(1.25 * pause, 0.01)  # what takes long is looked at less often: others need the time


def until_asleep(call: Callable[[float], object], queue: MessageQueue) -> int:
    """Calls with a short time-out, again and again, until that end has slept; how often it has since it attached."""
    before = queue.stats()["parks"]

    def parks() -> int:
        with suppress(QueueTimeoutError):
            call(0.01)
        return queue.stats()["parks"]

    eventually(lambda: parks() > before, "a sleep")
    return queue.stats()["parks"]


@contextmanager
def broadcast(
    n_reader: int = 1, *, copy: bool | None = None, **options: Any
) -> Iterator[tuple[MessageQueue, list[MessageQueue]]]:
    """A writer and all its readers, in this process; closed at the end, whatever the test did to them."""
    writer = MessageQueue(n_reader, **options)
    handle = writer.export_handle()
    readers = [MessageQueue.create_from_handle(handle, rank, copy=copy) for rank in handle.local_reader_ranks]
    try:
        yield writer, readers
    finally:
        for end in (*readers, writer):
            end.close(0)


WAYS_TO_WRITE: dict[str, Callable[[MessageQueue, int], Any]] = {
    "acquire_write": lambda writer, nbytes: writer.acquire_write(nbytes=nbytes),
    "loan": lambda writer, nbytes: writer.loan(nbytes),
    "loan_array": lambda writer, nbytes: writer.loan_array(nbytes, "u1"),
}
"""The context managers of a message of so many bytes that is made in place."""


class Background:
    """A thread of the test; `result` gives what its function returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments, options), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            self._outcome = function(*arguments, **options)
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = DEADLINE_S) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the thread is still busy after {timeout} s"
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._outcome


class Process(Protocol):
    """What a Child needs of its process."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


class Child:
    """A real process that runs `function(link, *arguments)` of an importable module; `link` leads back here.

    Started as a fresh interpreter, as a user's worker would be. What the function raises, `receive` and `join` raise
    as an AssertionError with the child's traceback.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        ours, theirs = socket.socketpair()
        job = job_of(function, arguments).hex()
        entry = "from tests.support import child_main; child_main()"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", entry, str(theirs.fileno()), job],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})},
            cwd=ROOT,
        )
        theirs.close()
        self._talk(process, Connection(ours.detach()))
        started_pids.add(self.pid)

    def _talk(self, process: Process, link: Link) -> None:
        self._process = process
        self.link = link
        self.pid = process.pid

    def receive(self, timeout: float = DEADLINE_S) -> Any:
        assert self.link.poll(timeout), f"child {self.pid} said nothing for {timeout} s"
        try:
            message = self.link.recv()
        except EOFError:
            code = self._process.wait(DEADLINE_S)
            raise AssertionError(f"child {self.pid} ended with exit code {code} and said nothing") from None
        assert not isinstance(message, ChildFailure), f"child {self.pid} failed:\n{message.traceback}"
        return message

    def send(self, message: Any) -> None:
        self.link.send(message)

    def ask(self, message: Any = None) -> Any:
        self.send(message)
        return self.receive()

    def signal(self, number: int) -> None:
        """SIGSTOP: returns when it has stopped."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            self._await_stop()

    def kill(self) -> None:
        """SIGKILL; returns when the kernel has closed the child's files."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)

    def join(self, timeout: float = DEADLINE_S) -> int:
        """Its exit code; anything it still has to say has been received before."""
        code = self._process.wait(timeout)
        while self.link.poll(0):
            try:
                message = self.link.recv()
            except EOFError:
                break
            assert not isinstance(message, ChildFailure), f"child {self.pid} failed:\n{message.traceback}"
        return code

    def discard(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self.link.close()

    def _await_stop(self) -> None:
        await_stop(self.pid)


class ChildFailure:
    """Sent by a child instead of a message."""

    def __init__(self, text: str) -> None:
        self.traceback = text


def child_main() -> None:
    """The child's side of Child."""
    run_child(Connection(int(sys.argv[1])), bytes.fromhex(sys.argv[2]))


def job_of(function: Callable[..., None], arguments: tuple[Any, ...]) -> bytes:
    """A function of an importable module and its arguments, for `run_child` in another process."""
    return pickle.dumps((function.__module__, function.__qualname__, arguments))


def run_child(link: Link, job: bytes) -> None:
    module, name, arguments = pickle.loads(job)
    function: Any = import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    try:
        function(link, *arguments)
    except BaseException:
        with suppress(OSError):  # nobody listens any more
            link.send(ChildFailure(traceback.format_exc()))
        raise SystemExit(1) from None


def run_python(source: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script in a fresh interpreter, to look at its output and exit code."""
    env = {**os.environ, **options.pop("env", {})}
    command = [*options.pop("wrapper", ()), sys.executable, *options.pop("flags", ()), "-c", source, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    started_pids.add(process.pid)
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def segments() -> set[str]:
    """The names of all ringcast segments of this machine."""
    return {path.name for path in SHM.glob("ringcast_*")}


def creator_of(path: Path) -> int:
    """The process that made this segment, as its header says."""
    with path.open("rb") as file:
        header = file.read(CREATOR_PID_OFFSET + 4)
    if len(header) < CREATOR_PID_OFFSET + 4:
        raise ValueError(f"{path} is too short for a segment")
    return int.from_bytes(header[CREATOR_PID_OFFSET:], sys.byteorder)


@contextmanager
def mapped(name: str) -> Iterator[mmap.mmap]:
    """A segment's bytes, writable, to look at what the library keeps there or to damage it."""
    descriptor = os.open(SHM / name, os.O_RDWR)
    try:
        view = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    try:
        yield view
    finally:
        view.close()


def committed_bytes(name: str) -> int:
    """Memory that a segment takes, as the kernel counts it."""
    return os.stat(SHM / name).st_blocks * 512


def parked(end: MessageQueue, at_least: int = 1) -> bool:
    """Has a call on this end, of another thread, slept `at_least` times?"""
    return end.stats()["parks"] >= at_least

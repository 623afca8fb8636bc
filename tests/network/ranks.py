"""Real processes that are ranks of a group, cheap to start: forked from a server that has imported torch once.

A test's function runs in each of them as `function(link, rank, meet, *arguments)`; `meet` makes the stateless group, or
tells where it meets.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_context
from typing import Any

from ringcast import StatelessProcessGroup
from tests import own_shm
from tests.support import DEADLINE_S, ChildFailure, Link, await_stop, started_pids

PRELOADED = ["torch.distributed", "numpy", "ringcast.net._queues", "tests.network.ranks"]
TIMEOUT_S = 30.0


class Meet:
    """Where ranks meet; called, it makes the group there."""

    def __init__(
        self, rank: int, size: int, port: int, listening: socket.socket | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.rank, self.size, self.port, self.host = rank, size, port, host
        self._listening = listening

    def __call__(self, timeout: float = TIMEOUT_S, **options: Any) -> StatelessProcessGroup:
        options = {"host": self.host, "rank": self.rank, "world_size": self.size, **options}
        return StatelessProcessGroup.create(
            port=self.port, timeout=timeout, listen_socket=self._listening, **options
        )  # fmt: skip


class Rank:
    """A process."""

    def __init__(self, function: Callable[..., None], meet: Meet, arguments: tuple[Any, ...], options: Any) -> None:
        ours, theirs = get_context("forkserver").Pipe()
        self.link: Link = ours
        self._process = get_context("forkserver").Process(
            target=_main, args=(theirs, function, meet, arguments, options), daemon=True
        )  # fmt: skip
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        started_pids.add(self.pid)

    def receive(self, timeout: float = DEADLINE_S) -> Any:
        assert self.link.poll(timeout), f"process {self.pid} said nothing for {timeout} s"
        message = self.link.recv()
        assert not isinstance(message, ChildFailure), f"process {self.pid} failed:\n{message.traceback}"
        return message

    def signal(self, number: int) -> None:
        """SIGSTOP: returns when it has stopped."""
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            await_stop(self.pid)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.join()

    def join(self) -> None:
        self._process.join(DEADLINE_S)
        assert self._process.exitcode is not None

    def discard(self) -> None:
        """Ends it: in order, if it does."""
        self.link.close()
        if self._process.is_alive():
            with suppress(ProcessLookupError):  # it has just ended
                self.signal(signal.SIGCONT)
            self._process.join(5)
        if self._process.is_alive():
            self.kill()
        self._process.join()
        self._process.close()


class Starter:
    """Starts ranks that meet at one address of this machine."""

    def __init__(self) -> None:
        self.started: list[Rank] = []
        self._held: list[socket.socket] = []

    def __call__(self, size: int, function: Callable[..., None], *arguments: Any, **options: Any) -> list[Rank]:
        """All ranks of a group. `absent`: but those; `apart`: those have a /dev/shm of their own, of `shm` bytes;
        `env`: which environment which rank has; `shared_port`: nobody listens at the port yet."""
        if options.get("shared_port"):
            return self._ranks(size, None, self._reserved_port(), function, arguments, options)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            return self._ranks(size, listening, listening.getsockname()[1], function, arguments, options)

    def _ranks(
        self, size: int, listening: socket.socket | None, port: int, function: Callable[..., None],
        arguments: tuple[Any, ...], options: dict[str, Any],
    ) -> list[Rank]:  # fmt: skip
        self.port = port
        return [
            self.one(function, Meet(rank, size, port, listening if rank == 0 else None), *arguments, **options)
            for rank in range(size)
            if rank not in options.get("absent", ())
        ]

    def _reserved_port(self) -> int:
        """Of a socket that is bound and does not listen: who asks for this very port gets it, and nobody else does."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        port: int = held.getsockname()[1]
        return port

    def end(self) -> None:
        for rank in self.started:
            rank.discard()
        for held in self._held:
            held.close()

    def one(self, function: Callable[..., None], meet: Meet, *arguments: Any, **options: Any) -> Rank:
        self.started.append(Rank(function, meet, arguments, options))
        return self.started[-1]


@contextmanager
def server() -> Iterator[None]:
    """The process that ranks are forked from."""
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    try:
        yield
    finally:
        stopping: Any = forkserver
        stopping._forkserver._stop()


def _main(link: Link, function: Callable[..., None], meet: Meet, arguments: tuple[Any, ...], options: Any) -> None:
    if meet.rank in options.get("apart", ()):
        why_not = own_shm.enter(options.get("shm", "50%"))
        if why_not is not None:
            link.send(ChildFailure(why_not))
            return
    os.environ.update(options.get("env", {}).get(meet.rank, {}))
    try:
        function(link, meet, *arguments)
    except BaseException:
        link.send(ChildFailure(traceback.format_exc()))


def error_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, tuple[int, ...], str]:
    """What a call raises: its kind, its ranks, its text."""
    try:
        result = call(*arguments, **options)
    except Exception as error:
        return type(error).__name__, getattr(error, "ranks", ()), str(error)
    return "nothing", (), repr(result)

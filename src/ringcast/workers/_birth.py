"""What a worker's process gets at its birth, and what it does before it serves.

It hears nothing of Ctrl-C, which is for the group's own process to act upon. It ends when that one is gone, whatever it
is doing: a thread of Python's closes its ends, and a native one ends the process a moment later, also if some code
never lets go of the interpreter's lock. When the group asks, by a byte in a pipe, the system sends this process the
signal at which faulthandler writes what all threads are doing.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any, NamedTuple

from ringcast import _core
from ringcast.queue import Handle, MessageQueue
from ringcast.waiting import Wait
from ringcast.workers import _rank
from ringcast.workers._failures import packed
from ringcast.workers._serving import Server

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_GRACE_S = 0.7
RANK_VARIABLE = "RINGCAST_RANK"


class Descriptor:
    """A file descriptor, as it is given to a process that is being started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], Descriptor], tuple[Any]]:
        duplicate: Any = reduction.DupFd(self.number)
        return _received, (duplicate,)


def _received(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


class Birth(NamedTuple):
    """All that a worker's process is told."""

    rank: int
    made_of: bytes
    """What is pickled of (class, arguments, keyword arguments)."""
    calls: Handle
    news: Connection[Any, Any]
    """The worker's first words: ("ready", handle of its answers) or ("failed", Failure)."""
    life: Descriptor
    asked: Descriptor
    stacks: Descriptor
    streams: tuple[Descriptor, Descriptor] | None
    env: dict[str, str]
    wait: Wait
    allow_callables: bool
    max_bytes: int | None


def begin(birth: Birth) -> None:
    """The worker's process, from its beginning to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(birth.env)
    os.environ[RANK_VARIABLE] = str(birth.rank)
    _rank.become(birth.rank)
    for descriptor in (birth.life, birth.asked, birth.stacks):
        os.set_inheritable(descriptor.number, False)
    if birth.streams is not None:
        _print_into(*birth.streams)
    _core.kill_when_closed(birth.life.number, _GRACE_S)
    _write_stacks_when_asked(birth.asked.number, birth.stacks.number)
    calls = MessageQueue.create_from_handle(birth.calls, birth.rank, wait=birth.wait)
    ends = [calls]
    threading.Thread(target=_end_with_parent, args=(birth.life.number, ends), daemon=True).start()
    try:
        kind, arguments, options = pickle.loads(birth.made_of)
        target = kind(*arguments, **options)
        del kind, arguments, options
    except SystemExit:
        raise
    except BaseException as error:
        birth.news.send(("failed", packed(error)))
        raise SystemExit(1) from None  # what there is to say, the group says
    answers: MessageQueue[Any] = MessageQueue(
        1, max_chunks=RING_DEPTH, max_bytes=birth.max_bytes, wait=birth.wait
    )  # now, because what is killed while its object is made leaves nothing then
    ends.insert(0, answers)
    birth.news.send(("ready", answers.export_handle()))
    birth.news.close()
    server = Server(calls, answers, target, birth.rank, birth.allow_callables)
    del target
    server.serve()


RING_DEPTH = 64
"""How many messages of each ring may be unread."""


def _print_into(out: Descriptor, err: Descriptor) -> None:
    for number, descriptor, stream in ((1, out, sys.stdout), (2, err, sys.stderr)):
        os.dup2(descriptor.number, number)
        os.close(descriptor.number)
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)


def _end_with_parent(life: int, ends: list[MessageQueue]) -> None:
    """Its parent is gone: leaves nothing in shared memory, and is ended, if it is busy, by the native guard."""
    while os.read(life, 1):
        pass
    calls = ends[-1]._segment
    until = time.monotonic() + _GRACE_S / 2
    while calls is not None and calls.creator_alive and time.monotonic() < until:
        time.sleep(0.005)  # the pipe was closed, its locks are not yet: what is the dead's, the last to close removes
    for end in ends:
        end.shutdown()
    for end in ends:
        end.close(0)


def _write_stacks_when_asked(asked: int, stacks: int) -> None:
    number = getattr(signal, "SIGRTMAX", None)
    fcntl: Any = __import__("fcntl")
    if number is None or not hasattr(fcntl, "F_SETSIG"):  # a system that tells of pipes by no signal of one's choice
        threading.Thread(target=_answer_asked, args=(asked, stacks), daemon=True).start()
        return
    faulthandler.register(number - 2, file=stacks, all_threads=True)
    fcntl.fcntl(asked, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(asked, fcntl.F_SETSIG, number - 2)
    fcntl.fcntl(asked, fcntl.F_SETFL, fcntl.fcntl(asked, fcntl.F_GETFL) | os.O_ASYNC)


def _answer_asked(asked: int, stacks: int) -> None:
    while os.read(asked, 1):
        faulthandler.dump_traceback(file=stacks, all_threads=True)

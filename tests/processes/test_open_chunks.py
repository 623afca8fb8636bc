"""Open chunks of processes: real signals at any moment, and ends of programs whose threads have a chunk open."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from types import FrameType

import numpy as np  # noqa: F401 (before: NumPy does not survive an interrupt while it is imported)
import pytest

from ringcast import MessageQueue
from ringcast.errors import QueueClosedError
from tests.support import WAYS_TO_WRITE, Background, Child, Link


class Interrupts:
    """SIGALRM at random moments, each a KeyboardInterrupt, but only inside `run`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._wanted = False
        signal.signal(signal.SIGALRM, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._wanted:
            self._wanted = False
            raise KeyboardInterrupt

    def run(self, function: Callable[[], None]) -> None:
        """Until one comes."""
        try:
            self._wanted = True
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(1e-5, 1e-3))
            while True:
                function()
        except KeyboardInterrupt:
            pass


def _interrupted(link: Link, kind: str, nbytes: int) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

    def read() -> None:
        writer.enqueue(bytes(nbytes))
        with reader.acquire_read(timeout=60):
            pass

    def write() -> None:
        with WAYS_TO_WRITE[kind](writer, nbytes) as memory:
            memory[0] = 1
        del memory
        reader.dequeue(60)

    interrupts = Interrupts(nbytes)
    for n in range(300):
        interrupts.run(read if kind == "acquire_read" else write)
        while reader.try_dequeue() is not None:
            pass
        assert writer.try_enqueue(n)
        assert reader.dequeue(60) == n
    assert writer.stats()["memory"]["blocks"] == 0
    writer.close()
    with pytest.raises(QueueClosedError):
        reader.dequeue(60)
    link.send("done")


@pytest.mark.parametrize("nbytes", [100, 200_000])
@pytest.mark.parametrize("kind", ["acquire_read", *WAYS_TO_WRITE])
def test_ctrl_c_at_any_moment_around_a_chunk_leaves_both_ends_usable(
    kind: str, nbytes: int, start: Callable[..., Child]
) -> None:
    assert start(_interrupted, kind, nbytes).receive() == "done"


def _ends_with_open_chunks(link: Link, call: str, how: str) -> None:
    writer = MessageQueue(1)
    link.send(writer.export_handle())
    link.recv()
    writer.enqueue("last")
    opened = threading.Event()

    def keep_open() -> None:
        with WAYS_TO_WRITE[call](writer, 100_000):
            opened.set()
            threading.Event().wait()

    threading.Thread(target=keep_open, daemon=True).start()
    opened.wait()
    if how == "close":
        writer.close()
        link.send(writer.closed)
        link.recv()


@pytest.mark.parametrize("how", ["close", "exit"])
@pytest.mark.parametrize("call", WAYS_TO_WRITE)
def test_readers_hear_of_the_end_of_a_writer_whose_daemon_thread_has_a_chunk_open(
    call: str, how: str, start: Callable[..., Child]
) -> None:
    child = start(_ends_with_open_chunks, call, how)
    with MessageQueue.create_from_handle(child.receive(), 0) as reader:
        child.send("attached")
        received = Background(list, reader)
        if how == "close":
            assert child.receive() is True
        assert received.result() == ["last"]
        if how == "close":
            child.send("end")
    assert child.join() == 0

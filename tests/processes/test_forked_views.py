"""What a forked child inherits: arrays that its parent had received stay what they were while the child lives.

Each scenario runs in a process of its own with a single thread, as forking asks for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from tests.support import Child, Link, eventually

MIB = 1 << 20
VALUE = 7


class Family:
    """A writer and a reader of a queue in which every block is used again soon, and children of both."""

    def __init__(self, **options: Any) -> None:
        self.writer = MessageQueue(1, max_bytes=8 * MIB, max_chunk_bytes=MIB)
        self.reader = MessageQueue.create_from_handle(self.writer.export_handle(), 0, **options)
        self.children: list[tuple[int, int, int]] = []

    def receive(self, value: int = VALUE) -> Any:
        self.writer.enqueue(np.full(MIB // 2, value, np.uint8), timeout=30)
        return self.reader.dequeue(30)

    def fork(self, look: Callable[[], Any]) -> None:
        """A child that says what it sees when it is asked."""
        asked, ask = os.pipe()
        answer, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ask)
            os.read(asked, 1)
            try:
                os.write(say, repr(look()).encode())
            finally:
                os._exit(0)
        os.close(asked)
        os.close(say)
        self.children.append((pid, ask, answer))

    def ask(self) -> str:
        """The first child's answer; it has ended then."""
        pid, ask, answer = self.children.pop(0)
        os.write(ask, b"x")
        text = os.read(answer, 1000).decode()
        os.waitpid(pid, 0)
        os.close(ask)
        os.close(answer)
        return text

    def use_every_block(self) -> None:
        for n in range(60):
            assert (self.receive(100 + n % 100) == 100 + n % 100).all()

    def held(self) -> int:
        return sum(int(reader["leased_blocks"]) for reader in self.writer.stats()["readers"])


def values(array: Any) -> list[int]:
    return sorted(set(np.asarray(array).ravel().tolist()))


def _drops_what_a_child_views(link: Link, kind: str) -> None:
    family = Family(zero_copy=kind == "zero_copy")
    if kind == "acquire_read":
        family.writer.enqueue(bytes([VALUE]) * (MIB // 2))
        with family.reader.acquire_read(30) as view:
            array = np.frombuffer(view[:1000], np.uint8)
            family.fork(lambda: values(array))
            del view, array
    elif kind == "part of a message":
        family.writer.enqueue({"a": [np.full(MIB // 2, VALUE, np.uint8)], "b": "c"})
        message = family.reader.dequeue(30)
        family.fork(lambda: values(message["a"][0]))
        message.clear()
    else:
        array = family.receive()
        family.fork(lambda: values(array))
        del array
    assert family.held() == 1
    family.use_every_block()
    link.send(family.ask())
    eventually(lambda: family.held() == 0, "the child's end")
    kept = [family.receive(n) for n in range(3)]
    link.send([values(array) for array in kept])


@pytest.mark.parametrize("kind", ["an array", "part of a message", "zero_copy", "acquire_read"])
def test_a_child_s_view_stays_when_the_parent_lets_go(kind: str, start: Callable[..., Child]) -> None:
    child = start(_drops_what_a_child_views, kind)
    assert child.receive() == f"[{VALUE}]"
    assert child.receive() == [[0], [1], [2]]
    assert child.join() == 0


def _has_many_children(link: Link) -> None:
    family = Family()
    kept = []
    for n in range(18):  # some of them share what they see, and yet there are more than seats
        if n % 3 == 0:
            kept.append(family.receive(n))
        family.fork(lambda kept=list(kept): [values(array) for array in kept])  # type: ignore[misc]
    kept.clear()
    family.use_every_block()
    for n in range(18):
        link.send(family.ask() == repr([[i * 3] for i in range(n // 3 + 1)]))
    family.use_every_block()


def test_many_children_see_what_there_was_when_each_was_forked(start: Callable[..., Child]) -> None:
    child = start(_has_many_children)
    assert [child.receive() for _ in range(18)] == [True] * 18
    assert child.join() == 0


def _has_a_grandchild(link: Link) -> None:
    family = Family()
    array = family.receive()
    ready, tell_ready = os.pipe()
    asked, ask = os.pipe()
    answer, say = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.write(tell_ready, b"x")
            os.read(asked, 1)
            os.write(say, repr(values(array)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.read(ready, 1)
    del array
    family.use_every_block()
    os.write(ask, b"x")
    link.send(os.read(answer, 1000).decode())


def test_a_grandchild_keeps_the_view_when_the_child_has_ended(start: Callable[..., Child]) -> None:
    child = start(_has_a_grandchild)
    assert child.receive() == f"[{VALUE}]"
    assert child.join() == 0


def _is_a_reader_that_forks(link: Link, handle: Any) -> None:
    reader = MessageQueue.create_from_handle(handle, 0)
    array = reader.dequeue(60)
    asked = os.dup(link.fileno())
    if os.fork() == 0:
        link.send("forked")
        os.read(asked, 1)
        text = repr(values(array)).encode()
        os.write(asked, text)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_s_view_stays_when_the_parent_is_killed(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_bytes=8 * MIB, max_chunk_bytes=MIB, on_reader_death="evict") as writer:
        handle = writer.export_handle()
        child = start(_is_a_reader_that_forks, handle)
        writer.enqueue(np.full(MIB // 2, VALUE, np.uint8), timeout=60)
        assert child.receive() == "forked"
        child.join()
        with MessageQueue.create_from_handle(handle, 0, timeout=60) as reader:
            for n in range(60):
                writer.enqueue(np.full(MIB // 2, n, np.uint8), timeout=60)
                assert values(reader.dequeue(60)) == [n]
            os.write(child.link.fileno(), b"x")
            assert os.read(child.link.fileno(), 1000) == f"[{VALUE}]".encode()
            eventually(
                lambda: not sum(int(r["leased_blocks"]) for r in writer.stats()["readers"]), "the grandchild's end"
            )


def _starts_programs(link: Link) -> None:
    family = Family()
    array = family.receive()
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])
    del array
    eventually(lambda: family.held() == 0, "exec")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    link.send("held nothing")


def test_a_child_that_becomes_another_program_holds_nothing(start: Callable[..., Child]) -> None:
    child = start(_starts_programs)
    assert child.receive() == "held nothing"
    assert child.join() == 0


def _forks_again_and_again(link: Link) -> None:
    family = Family()
    family.use_every_block()
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for n in range(60):
        array = family.receive(n)
        family.fork(lambda array=array: values(array))  # type: ignore[misc]
        del array
        family.receive(200)
        assert family.ask() == f"[{n}]"
    assert family.held() == 0
    if sys.platform == "linux":
        link.send(len(os.listdir("/proc/self/fd")) - descriptors)
    family.use_every_block()


def test_forks_leave_nothing_behind(start: Callable[..., Child]) -> None:
    child = start(_forks_again_and_again)
    if sys.platform == "linux":
        assert child.receive() == 0
    assert child.join() == 0


def _changes_what_it_inherited(link: Link) -> None:
    family = Family(zero_copy=True)
    array = family.receive()

    def change() -> list[int]:
        array[:] = 99
        return values(array)

    family.fork(change)
    text = family.ask()
    link.send((text, values(array)))
    array[:] = 55
    array = None
    family.use_every_block()


def test_a_child_may_change_what_it_inherited_and_nobody_sees_it(start: Callable[..., Child]) -> None:
    child = start(_changes_what_it_inherited)
    assert child.receive() == ("[99]", [VALUE])
    assert child.join() == 0

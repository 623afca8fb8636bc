"""What a process has open: looked at while other threads, finalizers and forks change it, and ended when it ends."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import MessageQueue, _at_exit
from ringcast._registry import Registry
from ringcast.pool import PoolServer, _server
from tests.interrupts import Meanwhile
from tests.support import unique_name


class Thing:
    """Whoever compares or hashes things, does it by what they are."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("two things were compared")


def test_it_has_what_was_added_until_that_is_discarded_or_gone() -> None:
    registry: Registry[Thing] = Registry()
    one, two, three = Thing(), Thing(), Thing()
    for thing in (one, two, three, one):
        registry.add(thing)
    assert [*map(id, registry.own())] == [id(one), id(two), id(three)]
    assert two in registry
    registry.discard(two)
    registry.discard(two)
    assert two not in registry
    del one, thing
    gc.collect()
    assert [*map(id, registry.own())] == [id(three)]
    assert registry.inherited() == []


def test_it_keeps_what_is_to_be_kept() -> None:
    registry: Registry[Thing] = Registry(keep=True)
    registry.add(Thing())
    gc.collect()
    (kept,) = registry.own()
    gone = weakref.ref(kept)
    registry.discard(kept)
    del kept
    gc.collect()
    assert gone() is None


LOOKS: list[Callable[..., Any]] = [
    Registry.own, Registry.inherited, Registry._living, weakref.WeakSet.__iter__, weakref.WeakSet.copy
]  # fmt: skip


@pytest.mark.parametrize("keep", [False, True])
def test_another_thread_changes_it_at_any_instruction_of_a_look(keep: bool) -> None:
    for n in itertools.count():
        registry: Registry[Thing] = Registry(keep=keep)
        things = [Thing() for _ in range(3)]
        for thing in things:
            registry.add(thing)
        more = [Thing() for _ in range(64)]  # enough for a larger table

        def change(registry: Registry[Thing] = registry, things: Any = things, more: Any = more) -> None:
            for thing in more:
                registry.add(thing)
            registry.discard(things.pop())

        if not Meanwhile(LOOKS, n, change).run(registry.own):
            break
    assert n > 20


def test_a_forked_child_has_none_of_its_parents() -> None:
    registry: Registry[Thing] = Registry()
    parents, childs = Thing(), Thing()
    registry.add(parents)
    pid = os.fork()
    if pid == 0:
        registry.add(childs)
        right = [*map(id, registry.own())] == [id(childs)] and [*map(id, registry.inherited())] == [id(parents)]
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [*map(id, registry.own())] == [id(parents)]


def test_ends_are_made_while_the_exit_looks_at_all() -> None:
    made = []

    class End:
        """Where somebody asks whether it is open, another one is made."""

        @property
        def _segment(self) -> None:
            made.append(_end())

    one: Any = End()
    _at_exit.hold(one)
    assert isinstance(_at_exit._ends(), list)
    assert made
    for end in made:
        end.close(0)


def test_the_exit_asks_each_reader_once_for_each_thread_however_many_writers_there_are() -> None:
    asked = []

    class End:
        _segment = None

        def __init__(self, number: int, role: str) -> None:
            self.role, self.segment = role, str(number)

        def _is_waiting(self, ident: int) -> bool:
            asked.append((self.segment, ident))
            return self.segment == "7"

    ends: Any = [End(number, role) for number in range(100) for role in ("writer", "reader")]
    threads = [threading.Thread(target=print) for _ in range(3)]
    for number, thread in enumerate(threads):
        thread._ident = number  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_at_exit, "_ends", lambda: ends)
        reads = _at_exit._reads(threads)
        held_up = _at_exit._held_up(threads, reads)
    assert [(end.role, end.segment) for end in held_up] == [("writer", "7")]
    assert len(asked) == len(set(asked)) == 300


class _FirstOf:
    """A module that holds what is to be closed at exit, as in a process that has made none yet."""

    def __init__(self, module: Any, pid: str, hold: Callable[[Any], None], make: Callable[[], Any]) -> None:
        self.module, self.pid, self.hold, self.make = module, pid, hold, make


def _end() -> Any:
    return MessageQueue(1, max_chunk_bytes=64)


def _started() -> Any:
    return PoolServer(unique_name(), "64KiB").start()


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(_FirstOf(_at_exit, "_pid", _at_exit.hold, _end), id="ends"),
        pytest.param(_FirstOf(_server, "_registered_in", _server._hold, _started), id="pool servers"),
    ],
)
def test_two_threads_make_the_first_of_a_process(of: _FirstOf, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = of.make(), of.make()
    try:
        for n in itertools.count():
            for each in (one, other):
                of.module._open.discard(each)
            monkeypatch.setattr(of.module, of.pid, 0)
            happened = Meanwhile([of.hold], n, lambda: of.hold(other)).run(lambda: of.hold(one))
            assert one in of.module._open
            assert not happened or other in of.module._open
            assert getattr(of.module, of.pid) == os.getpid()
            if not happened:
                break
        assert n > 10
    finally:
        for each in (one, other):
            each.close()

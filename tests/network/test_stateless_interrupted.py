"""Messages between ranks, whoever gives up in the middle of one: none is lost, none comes twice, their order stays."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from ringcast import StatelessProcessGroup
from ringcast.errors import DecodeError, EncodeError, GroupError, GroupTimeoutError
from ringcast.net import _client, _leaving
from ringcast.net._client import PART_BYTES, Client
from ringcast.net._group import Group
from ringcast.net._numbers import Numbers
from tests.interrupts import Interrupt
from tests.support import DEADLINE_S, Background, eventually
from tests.workers.objects import Ends

pytest.importorskip("torch")

SENDS: list[Callable[..., Any]] = [
    StatelessProcessGroup.send_obj, Group.send, Client.put, Client._call, Numbers.take, Numbers.give_back
]  # fmt: skip
RECEIVES: list[Callable[..., Any]] = [
    Group.receive, Group._has_received, Group.wait, Client.take, Client._call, Numbers.take, Numbers.use
]  # fmt: skip


@pytest.fixture
def two() -> Iterator[tuple[StatelessProcessGroup, StatelessProcessGroup]]:
    """Two ranks, in one process."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        port = listening.getsockname()[1]

        def make(rank: int) -> StatelessProcessGroup:
            return StatelessProcessGroup.create(
                "127.0.0.1", port, rank, 2, timeout=DEADLINE_S, listen_socket=listening, trust_store=True
            )

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(make, range(2))
        for group in (first, second):
            stack.callback(group.close, 0)
        yield first, second


class Held:
    """The thread of a client is busy with something until the block is left."""

    def __init__(self, group: StatelessProcessGroup) -> None:
        self._client = group._group.client
        self._reached, self._go = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        def hold(_: object) -> None:
            self._reached.set()
            assert self._go.wait(DEADLINE_S)

        self._holding = Background(self._client._call, hold, _soon())
        assert self._reached.wait(DEADLINE_S)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._holding.result()


def _soon() -> Any:
    from ringcast.net._deadline import Deadline

    return Deadline(DEADLINE_S)


def received(group: StatelessProcessGroup, last: object) -> list[Any]:
    """All that comes, up to the last one."""
    found: list[Any] = []
    while not found or found[-1] != last:
        found.append(group.recv_obj(0, timeout=DEADLINE_S))
    return found


Two = tuple[StatelessProcessGroup, StatelessProcessGroup]


@pytest.mark.parametrize("size", [10, PART_BYTES + 10], ids=["whole", "in parts"])
def test_a_send_that_is_interrupted_at_any_instruction_costs_no_other_message(two: Two, size: int) -> None:
    first, second = two
    padding, sent = "x" * size, []
    for n in itertools.count():
        interrupted = Interrupt(SENDS, n).run(partial(first.send_obj, ["interrupted", n, padding], 1))
        first.send_obj(n, 1)
        found = received(second, n)
        assert found in ([n], [["interrupted", n, padding], n])
        sent.append(len(found))
        if not interrupted:
            break
    assert sent[0] == 1
    assert sent[-1] == 2
    assert n > 5


def test_a_send_that_is_given_up_while_it_is_under_way_costs_no_other_message(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    under_way, go_on = threading.Event(), threading.Event()
    use = Numbers.use

    def use_later(numbers: Numbers, holder: object) -> None:
        if threading.current_thread().name == "ringcast-store":
            under_way.set()
            assert go_on.wait(DEADLINE_S)
        use(numbers, holder)

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert under_way.wait(DEADLINE_S)
            return False

    monkeypatch.setattr(Numbers, "use", use_later)
    with monkeypatch.context() as late:
        late.setattr(_client, "_Answer", lambda: SimpleNamespace(there=Late(), value=None, error=None))
        with pytest.raises(GroupTimeoutError):
            first.send_obj("late", 1)
    another = Background(first.send_obj, "another", 1)
    eventually(lambda: len(first._group._sent[1]._holders) == 2, "the number of the next one")
    go_on.set()
    another.result()
    assert received(second, "another") == ["late", "another"]


def test_a_send_that_is_given_up_before_it_began_is_none(two: Two) -> None:
    first, second = two
    with Held(first), pytest.raises(GroupTimeoutError):
        first.send_obj("late", 1, timeout=0.0)
    first.send_obj("another", 1)
    assert received(second, "another") == ["another"]


def test_what_cannot_be_sent_costs_no_other_message(two: Two) -> None:
    first, second = two
    with pytest.raises(EncodeError):
        first.send_obj(threading.Lock(), 1)
    first.send_obj("another", 1)
    assert received(second, "another") == ["another"]


def test_several_threads_send_and_one_of_them_fails(two: Two) -> None:
    first, second = two

    class Odd:
        """Another thread sends, and then this cannot be."""

        def __reduce__(self) -> Any:
            Background(first.send_obj, "another", 1).result()
            raise ValueError

    with pytest.raises(EncodeError):
        first.send_obj(Odd(), 1)
    first.send_obj("it fills the gap", 1)
    first.send_obj("last", 1)
    assert received(second, "last") == ["it fills the gap", "another", "last"]


def test_a_receive_that_is_interrupted_at_any_instruction_leaves_the_message_or_has_had_it(two: Two) -> None:
    first, second = two
    for n in itertools.count():
        first.send_obj(n, 1)
        first.send_obj("next", 1)
        interrupted = Interrupt(RECEIVES, n).run(lambda: second.recv_obj(0))
        assert received(second, "next") in ([n, "next"], ["next"])
        if not interrupted:
            break
    assert n > 5


def test_a_message_that_has_come_is_returned_though_the_store_is_slow_then(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    take, stack = Client.take, ExitStack()

    def take_and_stall(client: Client, keys: Any, deadline: Any) -> list[bytes]:
        found = take(client, keys, deadline)
        if client is second._group.client and any("message" in key for key in keys):
            stack.enter_context(Held(second))
            deadline._end = 0.0
        return found

    first.send_obj("one", 1)
    first.send_obj("two", 1)
    with stack, monkeypatch.context() as slow:
        slow.setattr(Client, "take", take_and_stall)
        assert second.recv_obj(0) == "one"
    assert second.recv_obj(0) == "two"


def test_a_message_that_cannot_be_read_is_an_error_once(two: Two) -> None:
    first, second = two
    first.send_obj(Unreadable(), 1)
    first.send_obj("another", 1)
    with pytest.raises(DecodeError):
        second.recv_obj(0)
    assert second.recv_obj(0) == "another"


@pytest.mark.parametrize("kind", [SystemExit, MemoryError])
def test_a_message_that_ends_programs_is_an_error_once(two: Two, kind: type[BaseException]) -> None:
    first, second = two
    first.send_obj(Ends(kind), 1)
    first.send_obj("another", 1)
    if kind is MemoryError:
        with pytest.raises(MemoryError):
            second.recv_obj(0)
    with pytest.raises(DecodeError, match=f"{kind.__name__}.*consumed") as caught:
        second.recv_obj(0)
    assert type(caught.value.__cause__) is kind
    assert second.recv_obj(0) == "another"


class Unreadable:
    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ValueError


def test_no_thread_waits_for_longer_than_it_says_because_another_one_may(two: Two) -> None:
    first, _ = two
    with Held(first):
        barrier = Background(first.barrier, DEADLINE_S)
        eventually(first._group._lock.locked, "that it waits for the store")
        receiving = Background(first.recv_obj, 1, timeout=0.2)
        with pytest.raises(GroupTimeoutError, match=r"waited 0.2 s for another thread of this rank, which waits for"):
            receiving.result(DEADLINE_S / 4)
        assert barrier.running
    two[1].barrier()
    barrier.result()


def test_what_a_rank_has_sent_just_before_it_left_is_received_though_it_is_seen_to_have_left(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    check = Group._check_alive

    def check_late(group: Group, rank: int, *given: Any) -> None:
        if group is first._group and rank == 1 and second._group.client._stop.alive:
            second.send_obj("the last word", 0)
            second.close(0)
        check(group, rank, *given)

    monkeypatch.setattr(Group, "_check_alive", check_late)
    assert first.recv_obj(1) == "the last word"
    with pytest.raises(GroupError, match="has left the group"):
        first.recv_obj(1)


def test_a_handler_of_signals_closes_in_the_middle_of_a_close() -> None:
    for n in itertools.count():
        group = StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1)
        signal = Interrupt([StatelessProcessGroup.close, _leaving.Leaving.leave], n, group.close)
        signal.run(group.close)
        assert group._leaving not in _leaving._staying
        with pytest.raises(GroupError, match="closed"):
            group.barrier()
        if not signal.struck:
            break
    assert n > 5


def test_a_close_that_is_interrupted_is_one_or_leaves_it_to_the_next() -> None:
    for n in itertools.count():
        group = StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1)
        interrupted = Interrupt([StatelessProcessGroup.close, _leaving.Leaving.leave], n).run(group.close)
        group.close()
        assert group._leaving not in _leaving._staying
        with pytest.raises(GroupError, match="closed"):
            group.barrier()
        if not interrupted:
            break
    assert n > 5

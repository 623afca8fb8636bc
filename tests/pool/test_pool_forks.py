"""What forked children inherit: the bytes of their views stay, whatever their parent, the server and others do."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from ringcast.pool import Keys, PoolClient, PoolServer
from tests.pool import pools
from tests.pool.pools import CHUNK, RESERVED, Starter, content, figure, fill, retrieved, serving, some_keys, store
from tests.support import Link, eventually, unique_name

KEYS = some_keys(4, first=1)
pool = partial(pools.pool, policy="lru")  # what was not used for longest goes, however often it was used before


def press(client: PoolClient, first: int = 100, rounds: int = 8) -> None:
    """Stores more than the pool can hold: what may go goes, and its memory is written to."""
    for i in range(rounds):
        store(client, some_keys(8, first=first + i))


def view_of(client: PoolClient, keys: Keys, index: int) -> Any:
    with client.retrieve(keys) as found:
        return found.slots[index].array


class Forked:
    """A forked child that looks at its views when it is told to, and says whether they are what they were."""

    def __init__(self, views: list[tuple[Any, bytes]], grandchild: bool = False) -> None:
        self._answers, answers = os.pipe()
        questions, self._questions = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._questions)
                os.close(self._answers)
                if grandchild and os.fork() != 0:
                    os._exit(0)
                while os.read(questions, 1):
                    right = all(bytes(view) == bytes(content(key, len(view))) for view, key in views)
                    os.write(answers, b"1" if right else b"0")
            finally:
                os._exit(0)
        os.close(answers)
        os.close(questions)
        if grandchild:
            os.waitpid(self.pid, 0)

    def sees_its_bytes(self) -> bool:
        os.write(self._questions, b"?")
        return os.read(self._answers, 1) == b"1"

    def end(self) -> None:
        """Tells it to end, and returns when it has."""
        os.close(self._questions)
        assert os.read(self._answers, 1) == b""
        os.close(self._answers)


@contextmanager
def forked(*views: tuple[Any, bytes], grandchild: bool = False) -> Iterator[Forked]:
    child = Forked(list(views), grandchild)
    del views  # the parent has its own
    try:
        yield child
    finally:
        child.end()
        if not grandchild:
            os.waitpid(child.pid, 0)


def test_a_childs_views_stay_when_its_parent_gives_them_back() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        with forked((view, KEYS[3])) as child:
            del view
            assert client.held_pins == 0
            press(other)
            assert child.sees_its_bytes()
            assert other.lookup(KEYS).memory == 4
        press(other, first=200)
        assert other.lookup(KEYS).memory < 4, "what a child held outlives it"


def test_a_childs_views_stay_when_its_parents_client_is_closed() -> None:
    with pool(chunks=16, clients=2) as (server, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 0)
        with forked((view, KEYS[0])) as child:
            del view
            client.close()
            press(other)
            assert child.sees_its_bytes()
            assert [seat["forked"] for seat in server.stats()["clients"]].count(True) == 1
        eventually(lambda: not any(seat["forked"] for seat in server.stats()["clients"]), "its seat's return")


def test_a_grandchilds_views_stay_when_all_its_forebears_are_gone() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 1)
        with forked((view, KEYS[1]), grandchild=True) as child:
            del view
            press(other)
            assert child.sees_its_bytes()

        def gone() -> bool:
            press(other, rounds=3)
            return other.lookup(KEYS).memory < 2

        eventually(gone, "what nobody views to go")


def _forked_by_a_killed_parent(link: Link, name: str) -> None:
    """The parent is killed while its child, which answers over a pipe that this process keeps, reads on."""
    reads, writes = os.pipe()
    parent = os.fork()
    if parent == 0:
        client = PoolClient.connect(name, "parent", layout=CHUNK)
        store(client, KEYS)
        with forked((view_of(client, KEYS, 2), KEYS[2])) as child:
            if os.fork() == 0:  # who outlives the parent and asks the child
                os.close(reads)
                while link.recv():
                    link.send(child.sees_its_bytes())
                child.end()
                os._exit(0)
            os.write(writes, b"1")
            signal.pause()
    os.read(reads, 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    link.send("killed")
    signal.pause()


def test_a_childs_views_stay_when_its_parent_is_killed(start: Starter) -> None:
    with pool(chunks=16) as (server, [other]):
        parent = start(_forked_by_a_killed_parent, server.name)
        assert parent.receive() == "killed"
        eventually(
            lambda: not any(seat["worker_id"] == "parent" and not seat["forked"] for seat in server.stats()["clients"]),
            "the parent's seat's return",
        )
        press(other)
        parent.send(True)
        assert parent.receive() is True
        parent.send(False)


def test_a_killed_child_holds_nothing() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        child = Forked([(view, KEYS[3])])
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        assert client.held_pins == 1
        press(other)
        assert other.lookup(KEYS).memory == 4, "its parent's views are its parent's"
        del view
        press(other, first=200)
        assert other.lookup(KEYS).memory < 4


def test_children_of_the_same_views_share_a_seat_and_others_have_their_own() -> None:
    with pool(chunks=16, clients=2) as (server, [client, other]):
        store(client, KEYS)
        views = [view_of(client, KEYS, 3)]

        def forked_seats() -> int:
            return [seat["forked"] for seat in server.stats()["clients"]].count(True)

        with forked((views[0], KEYS[3])) as one, forked((views[0], KEYS[3])) as two:
            assert forked_seats() == 1
            more = some_keys(2, first=2)
            store(client, more)
            views.append(view_of(client, more, 1))
            with forked((views[0], KEYS[3]), (views[1], more[1])) as three:
                assert forked_seats() == 2
                views.clear()
                press(other)
                assert all(child.sees_its_bytes() for child in (one, two, three))
        # The first of those that share it may go.
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        with forked((view, KEYS[3])) as two:
            with forked((view, KEYS[3])):
                pass
            del view
            press(other, first=200)
            assert two.sees_its_bytes()


def test_where_no_seat_is_free_the_parent_keeps_what_a_child_views() -> None:
    with pool(chunks=16, clients=2, seats=2) as (_, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        with forked((view, KEYS[3])) as child:
            del view
            assert client.held_pins == 1
            client.close()
            del client
            press(other)
            assert child.sees_its_bytes()


def test_a_child_may_view_more_of_a_lease_that_it_inherits() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        with client.retrieve(KEYS) as found:
            slots = found.slots
            reads, writes = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(reads, 1)
                os._exit(0 if bytes(slots[3].array) == bytes(content(KEYS[3])) else 1)
        press(other)
        os.write(writes, b"1")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(reads)
        os.close(writes)


def test_what_a_child_could_write_to_is_nobody_elses_and_keeps_no_reservation() -> None:
    with pool(chunks=16, clients=2) as (server, [client, other]):
        lease = client.prepare_store(KEYS)
        arrays = [slot.array for slot in lease.slots]
        fill(lease)
        with forked(*zip(arrays, KEYS, strict=True)) as child:
            del lease, arrays  # given up without a word
            eventually(lambda: other.prepare_store(KEYS).statuses[0] is RESERVED, "the reservation's end")
            press(other)
            assert child.sees_its_bytes()
        eventually(lambda: figure(server, "limbo")() == 0, "the memory's return")


def test_the_views_of_a_child_hold_with_the_next_server(start: Starter) -> None:
    name = unique_name("p")
    server = start(serving, name, 16, False)
    server.receive()
    with PoolClient.connect(name, "parent", layout=CHUNK) as client, PoolClient.connect(name, layout=CHUNK) as other:
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        with forked((view, KEYS[3])) as child:
            del view
            os.kill(server.pid, signal.SIGKILL)
            os.waitpid(server.pid, 0)
            with PoolServer(name, 16 * CHUNK, entries=16, policy="lru") as next_server:
                assert next_server.adopted
                press(other)
                assert child.sees_its_bytes()
                client.close()
                press(other, first=200)
                assert child.sees_its_bytes()


def _look(view: Any, key: bytes, asked: Any, answers: Any) -> None:
    asked.wait()
    answers.put(bytes(view) == bytes(content(key)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_of_multiprocessing_that_are_forked_keep_their_views() -> None:
    context = multiprocessing.get_context("fork")
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        view = view_of(client, KEYS, 3)
        asked, answers = context.Event(), context.Queue()
        workers = [context.Process(target=_look, args=(view, KEYS[3], asked, answers)) for _ in range(3)]
        for worker in workers:
            worker.start()
        del view  # as worker.start has done with its arguments
        assert client.held_pins == 0
        press(other)
        asked.set()
        assert [answers.get() for _ in workers] == [True] * 3
        for worker in workers:
            worker.join()


def test_a_fork_between_two_clients_calls_harms_neither() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, KEYS)
        views = [view_of(one, KEYS, 3) for one in (client, other)]
        with forked((views[0], KEYS[3]), (views[1], KEYS[3])) as child:
            views.clear()
            press(other)
            assert child.sees_its_bytes()
            assert retrieved(client, KEYS) == 4

"""Selector: which of many ends can be read, in what order they are given, and what comes and goes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue, Selector
from ringcast.errors import (
    ArgumentError,
    BusyError,
    EndTimeoutError,
    ForkedError,
    QueueClosedError,
    QueueTimeoutError,
    ReaderEvictedError,
    RoleError,
)
from tests.asyncio_support import helpers
from tests.interrupts import Interrupt, Meanwhile
from tests.support import FORGIVEN_RESCUES, Background, eventually


@contextlib.contextmanager
def pairs(count: int, **options: Any) -> Iterator[tuple[list[MessageQueue], list[MessageQueue]]]:
    """So many queues: their writers, and a reader of each."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(MessageQueue(1, max_chunk_bytes=1 << 10, **options)) for _ in range(count)]
        readers = [
            stack.enter_context(MessageQueue.create_from_handle(writer.export_handle(), 0)) for writer in writers
        ]
        yield writers, readers


@contextlib.contextmanager
def selected(count: int, wait: str = "park", **options: Any) -> Iterator[tuple[list[MessageQueue], Selector[int]]]:
    """The same, registered by their numbers."""
    with pairs(count, **options) as (writers, readers), Selector[int](wait=wait) as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, number)
        yield writers, selector


def asleep(selector: Selector[Any], at_least: int = 1) -> bool:
    return selector._counters()["parks"] >= at_least


def keys(given: list[tuple[int, MessageQueue]]) -> list[int]:
    return [key for key, _ in given]


@pytest.mark.parametrize("count", [1, 2, 127, 128, 255, 300])
@pytest.mark.parametrize("wait", ["park", "adaptive"])
def test_a_message_for_any_of_many_ends_wakes_who_waits_for_all(count: int, wait: str) -> None:
    with selected(count, wait, max_chunks=2) as (writers, selector):
        assert selector.select(0) == []
        for number in {0, count // 2, count - 1}:
            parks = selector._counters()["parks"]
            waiting = Background(selector.select)
            eventually(lambda parks=parks: asleep(selector, parks + 1), "the sleep")  # type: ignore[misc]
            writers[number].enqueue(number)
            [(key, end)] = waiting.result()
            assert (key, end.dequeue(0)) == (number, number)
        assert selector.select(0) == []
        assert selector._counters()["rescued_wakes"] <= FORGIVEN_RESCUES


def test_an_end_is_given_until_it_has_been_read_empty() -> None:
    with selected(2) as (writers, selector):
        writers[1].enqueue_many(["one", "two"])
        for expected in ("one", "two"):
            [(key, end)] = selector.select()
            assert keys(selector.select(0)) == [key]
            assert end.dequeue(0) == expected
        assert selector.select(0) == []


def test_each_end_with_a_message_is_given_whatever_the_others_have_and_the_first_one_changes() -> None:
    with selected(4, max_chunks=64) as (writers, selector):
        for _ in range(32):
            writers[2].enqueue("a flood")
        for writer in writers:
            writer.enqueue("one")
        firsts = []
        for _ in range(8):
            given = keys(selector.select())
            assert sorted(given) == [0, 1, 2, 3]
            firsts.append(given[0])
        assert set(firsts) == {0, 1, 2, 3}


def test_who_is_woken_by_one_end_is_given_the_others_by_the_next_call_at_the_latest() -> None:
    senders = [5, 140, 260, 299]  # the caller's own group, and those of helpers
    with selected(300, max_chunks=2) as (writers, selector):
        for number in range(5):
            parks = selector._counters()["parks"]
            waiting = Background(selector.select)
            eventually(lambda parks=parks: asleep(selector, parks + 1), "the sleep")  # type: ignore[misc]
            for sender in senders:
                writers[sender].enqueue(number)
            first = keys(waiting.result())
            assert first
            assert set(first) <= set(senders)
            left = set(senders)
            while left:
                given = selector.select(60)
                assert {key for key, _ in given} == left
                key, end = given[number % len(given)]
                assert end.dequeue(0) == number
                left.remove(key)
            assert selector.select(0) == []


def test_time_outs_give_nothing() -> None:
    with selected(3) as (_, selector):
        assert selector.select(0.01) == []
        assert selector.select(0) == []
        with pytest.raises(ArgumentError, match="timeout"):
            selector.select(-1)


def test_without_any_end_there_is_nothing_to_wait_for() -> None:
    with Selector[int]() as selector:
        assert selector.select(0.01) == []
        with pytest.raises(ArgumentError, match="no end is registered"):
            selector.select()


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("whose", ["writer", "reader"])
def test_an_end_that_is_closed_while_it_is_waited_for_can_be_read_and_says_why(how: str, whose: str) -> None:
    with pairs(2) as (writers, readers), Selector[int](wait="park") as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, number)
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        getattr((writers if whose == "writer" else readers)[1], how)()
        [(key, end)] = waiting.result()
        assert key == 1
        with pytest.raises(QueueClosedError):
            end.dequeue(0)
        assert keys(selector.select(0)) == [1], "it stays so"
        assert selector.unregister(end) == 1
        writers[0].enqueue("the others go on")
        [(key, end)] = selector.select()
        assert (key, end.dequeue(0)) == (0, "the others go on")


def test_an_end_that_is_shut_down_within_a_call_of_another_thread_can_be_read_when_that_is_over() -> None:
    class Cancel:
        """Keeps the call that asks it, and the end's turn with that."""

        asked, answer = threading.Event(), threading.Event()

        def is_set(self) -> bool:
            self.asked.set()
            self.answer.wait(60)
            return False

    cancel = Cancel()
    with pairs(1) as (_, [reader]), Selector[int](wait="park") as selector:
        selector.register(reader, 0)
        taking = Background(reader.dequeue, cancel=cancel)
        assert cancel.asked.wait(60)
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        reader.shutdown()  # the seat is left by who has the turn
        parks = selector._counters()["parks"]
        eventually(lambda: asleep(selector, parks + 1), "the sleep goes on")
        assert waiting.running
        cancel.answer.set()
        assert keys(waiting.result()) == [0]
        with pytest.raises(QueueClosedError):
            taking.result()
        assert selector._counters()["rescued_wakes"] <= FORGIVEN_RESCUES


def test_an_evicted_reader_can_be_read_and_says_so() -> None:
    with selected(2) as (writers, selector):
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        writers[1].evict(0)
        [(_, end)] = waiting.result()
        with pytest.raises(ReaderEvictedError):
            end.dequeue(0)


def test_ends_come_and_go_while_another_thread_waits() -> None:
    with pairs(130) as (writers, readers), Selector[int](wait="park") as selector:
        selector.register(readers[0], 0)
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        for number in range(1, 130):
            selector.register(readers[number], number)
        for number in range(64):
            selector.unregister(readers[number])
            writers[number].enqueue("nobody waits for this")
        parks = selector._counters()["parks"]
        eventually(lambda: waiting.running and asleep(selector, parks), "the sleep goes on")
        writers[129].enqueue("the newest")
        assert keys(waiting.result()) == [129]
        assert readers[63].dequeue(0) == "nobody waits for this"
        selector.register(readers[62], 62)
        assert sorted(keys(selector.select())) == [62, 129]


def test_another_thread_may_park_on_an_end_that_is_waited_for() -> None:
    with selected(2, max_chunks=8) as (writers, selector):
        [reader] = [end for end, key in selector.ends.items() if key == 0]
        for n in range(200):
            taking, waiting = Background(reader.dequeue), Background(selector.select)
            writers[0].enqueue_many([n, "left"])
            assert taking.result() == n
            assert keys(waiting.result()) == [0]
            assert keys(selector.select(60)) == [0], "the second message is still there"
            assert reader.dequeue(0) == "left"
            assert selector.select(0) == []
        assert selector._counters()["rescued_wakes"] <= FORGIVEN_RESCUES


def test_one_thread_at_a_time_selects() -> None:
    with selected(2) as (writers, selector):
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        with pytest.raises(BusyError, match="another thread is selecting"):
            selector.select(0)
        writers[0].enqueue("end")
        waiting.result()


def test_an_end_has_one_selector() -> None:
    with pairs(1) as ([writer], [reader]), Selector[str]() as selector, Selector[str]() as other:
        selector.register(reader, "here")
        for one, where in ((selector, "this selector"), (other, "another selector")):
            with pytest.raises(BusyError, match=f"registered with {where}"):
                one.register(reader, "again")
        with pytest.raises(ArgumentError, match="is not registered"):
            other.unregister(reader)
        selector.unregister(reader)
        other.register(reader, "there")
        with pytest.raises(RoleError):
            selector.register(writer, "a writer")
        other.unregister(reader)
        reader.close()
        with pytest.raises(QueueClosedError):
            selector.register(reader, "closed")


def test_a_deadline_of_one_end_is_told_while_others_give_messages() -> None:
    with pairs(2, max_chunks=2) as (writers, readers), Selector[str](wait="park") as selector:
        selector.register(readers[0], "talks")
        selector.register(readers[1], "rank 3", deadline=0.2)
        stop = threading.Event()

        def talk() -> None:
            while not stop.is_set():
                writers[0].enqueue("talk", timeout=60)

        talking = Background(talk)

        def listen() -> None:
            while True:
                for _, end in selector.select(60):
                    end.dequeue(0)

        with pytest.raises(EndTimeoutError, match=r"nothing has come for 0\.200 s.*the writer") as caught:
            listen()
        assert (caught.value.key, caught.value.end) == ("rank 3", readers[1])
        assert isinstance(caught.value, QueueTimeoutError)
        stop.set()
        eventually(lambda: readers[0].try_dequeue() is None and not talking.running, "the end of the talk")
        talking.result()
        with pytest.raises(EndTimeoutError):  # once for each 0.2 s
            selector.select(60)
        writers[1].enqueue("after all")
        assert selector.select(60) == [("rank 3", readers[1])]


def test_closing_ends_a_wait_of_another_thread() -> None:
    with pairs(2) as (writers, readers):
        selector = Selector[int](wait="park")
        for number, reader in enumerate(readers):
            selector.register(reader, number)
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector), "the sleep")
        selector.close()
        with pytest.raises(QueueClosedError, match="selector"):
            waiting.result()
        selector.close()
        assert selector.ends == {}
        writers[0].enqueue("the ends stay open")
        assert readers[0].dequeue() == "the ends stay open"
        with Selector[int]() as other:
            other.register(readers[0], 0)  # as free as before
        for call in (lambda: selector.select(0), lambda: selector.register(readers[0], 0), selector.fileno):
            with pytest.raises(QueueClosedError, match=r"selector of queue .*: it has been closed"):
                call()


def test_an_end_that_is_closed_lets_go_of_its_memory_when_it_is_unregistered() -> None:
    with pairs(2) as (_, readers), Selector[int](wait="park") as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, number)
        closed = readers.pop()
        name = closed.segment
        closed.close()

        def is_mapped() -> bool:
            with open("/proc/self/maps") as maps:
                return maps.read().count(name) > 1  # the writer's here is one

        selector.unregister(closed)
        selector.select(0.01)
        eventually(lambda: not is_mapped(), "the memory's end")


def test_a_selector_that_is_dropped_is_collected_with_its_threads_and_lets_go_of_the_ends() -> None:
    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task")) - before

    with pairs(130) as (writers, readers):
        eventually(lambda: not helpers(), "the end of the thread that waited for tasks of tests before this one")
        before = set(os.listdir("/proc/self/task"))  # of which some may be about to end
        selector = Selector[Any](wait="park")
        for reader in readers:
            selector.register(reader, selector)  # a circle
        selector.fileno()
        selector.select(0.01)
        assert len(threads()) == 2  # for the words that are too many, and for the descriptor
        gone = weakref.ref(selector)
        del selector
        gc.collect()
        assert gone() is None
        eventually(lambda: not threads(), "the threads' end")
        with Selector[int]() as other:
            other.register(readers[0], 0)
            writers[0].enqueue("for the next selector")
            assert keys(other.select(60)) == [0]


def test_the_descriptor_is_readable_while_an_end_is() -> None:
    with selected(3) as (writers, selector), contextlib.closing(select.epoll()) as epoll:
        epoll.register(selector.fileno(), select.EPOLLIN)
        for number in (0, 2, 1):
            assert epoll.poll(0) == []
            writers[number].enqueue_many(["one", "two"])
            for _ in range(2):
                assert epoll.poll(60) == [(selector.fileno(), select.EPOLLIN)]
                [(key, end)] = selector.select(0)
                assert key == number
                end.dequeue(0)
            assert selector.select(0) == []


def test_waiting_by_the_descriptor_and_by_select_go_together() -> None:
    with selected(2) as (writers, selector):
        selector.fileno()
        for n in range(50):
            parks = selector._counters()["parks"]
            waiting = Background(selector.select)
            eventually(lambda parks=parks: asleep(selector, parks + 1), "the sleep")  # type: ignore[misc]
            writers[n % 2].enqueue(n)
            [(key, end)] = waiting.result()
            assert (key, end.dequeue(0)) == (n % 2, n)


def test_in_an_event_loop() -> None:
    with selected(3) as (writers, selector):

        async def main() -> None:
            for number in (2, 0):
                waiting = asyncio.create_task(selector.aselect())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                writers[number].enqueue(number)
                [(key, end)] = await waiting
                assert (key, end.dequeue(0)) == (number, number)
            assert await selector.aselect(0.01) == []
            cancelled = asyncio.create_task(selector.aselect())
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            writers[1].enqueue("nothing was taken")
            [(key, end)] = await selector.aselect(60)
            assert (key, end.dequeue(0)) == (1, "nothing was taken")

        asyncio.run(main())


def test_a_task_that_selects_is_told_of_a_close_and_of_deadlines() -> None:
    with selected(1) as (_, selector), pairs(1) as (_, [late]):

        async def main(change: Callable[[], object]) -> None:
            waiting = asyncio.create_task(selector.aselect())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            change()
            await asyncio.wait_for(waiting, 30)

        with pytest.raises(EndTimeoutError) as caught:
            asyncio.run(main(lambda: selector.register(late, 7, deadline=0.01)))
        assert caught.value.end is late
        selector.unregister(late)
        with pytest.raises(QueueClosedError):
            asyncio.run(main(selector.close))


def test_a_thread_that_selects_is_told_of_deadlines() -> None:
    with selected(1) as (_, selector), pairs(1) as (_, [late]):
        parks = selector._counters()["parks"]
        waiting = Background(selector.select)
        eventually(lambda: asleep(selector, parks + 1), "the sleep")
        selector.register(late, 7, deadline=0.01)
        with pytest.raises(EndTimeoutError):
            waiting.result(30)


def test_one_task_selects_at_a_time() -> None:
    with selected(1) as ([writer], selector):

        async def main() -> None:
            first = asyncio.create_task(selector.aselect())
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="another task is selecting"):
                await selector.aselect()
            writer.enqueue("it is told of")
            [(_, end)] = await asyncio.wait_for(first, 30)
            assert end.dequeue(0) == "it is told of"

        asyncio.run(main())
    with Selector[int]() as empty, pytest.raises(ArgumentError, match="no end is registered"):
        asyncio.run(empty.aselect())


def test_a_forked_child_makes_one_of_its_own() -> None:
    with selected(2) as (writers, selector):
        writers[0].enqueue("the parent's")
        pid = os.fork()
        if pid == 0:
            try:
                selector.select(0)
            except ForkedError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        [(_, end)] = selector.select()
        assert end.dequeue(0) == "the parent's"


def _register_and_unregister(selector: Selector[Any], comes: MessageQueue, goes: MessageQueue) -> None:
    selector.register(comes, "comes", deadline=60.0)
    if goes in selector.ends:
        selector.unregister(goes)


def test_ends_come_and_go_at_any_instruction_of_another_thread_s_look() -> None:
    looks = [Selector.select, Selector._look_at_deadlines, Selector.close, Selector.ends.fget]  # type: ignore[attr-defined]
    with pairs(3) as (_, (stays, goes, comes)):
        for n in itertools.count():
            selector: Selector[str] = Selector()
            selector.register(stays, "stays", deadline=60.0)
            selector.register(goes, "goes", deadline=60.0)
            # Nothing has come from these two for so long.
            for one in selector._deadlines.values():
                one.due = 0.0

            def look(selector: Selector[str] = selector) -> None:
                with contextlib.suppress(EndTimeoutError):
                    selector.select(0.0001)
                assert stays in selector.ends
                selector.close()

            def change(selector: Selector[str] = selector) -> None:
                with contextlib.suppress(QueueClosedError):
                    _register_and_unregister(selector, comes, goes)

            happened = Meanwhile(looks, n, change).run(look)
            assert selector.ends == {}
            if not happened:
                break
    assert n > 100


def test_whatever_an_interruption_leaves_of_a_registration_can_be_undone() -> None:
    with pairs(1) as (_, (reader,)):
        for n in itertools.count():
            selector: Selector[str] = Selector()

            def register(selector: Selector[str] = selector) -> None:
                selector.register(reader, "key", deadline=60.0)
                selector.unregister(reader)

            interrupted = Interrupt([Selector.register, Selector.unregister, Selector._let_go], n).run(register)
            if reader in selector.ends:
                assert selector.unregister(reader) == "key"
            with Selector[str]() as other:
                other.register(reader, "another")
            if not interrupted:
                break
    assert n > 5


def test_a_close_that_was_interrupted_is_finished_by_the_next() -> None:
    for n in itertools.count():
        with pairs(2) as (_, readers):
            selector = Selector[int]()
            for number, reader in enumerate(readers):
                selector.register(reader, number)
            selector._own.append(readers[0])
            interrupted = Interrupt([Selector.close, Selector._let_go], n).run(selector.close)
            selector.close()
            assert readers[0].closed
            with Selector[str]() as other:
                other.register(readers[1], "another")
            if not interrupted:
                break
    assert n > 5


NO_ENDS: list[Any] = [None, True, 3, 1.5, "camera", b"", [], {}, object(), np.arange(3), MessageQueue, lambda: None]


@pytest.mark.parametrize("value", NO_ENDS)
def test_what_is_no_end_is_refused_in_words_that_name_the_argument(value: Any) -> None:
    with selected(1) as (writers, selector):
        calls: dict[str, Callable[[], Any]] = {
            "end": lambda: selector.register(value, 1),
            "end ": lambda: selector.unregister(value),
            "queue": lambda: Selector.of(value, [writers[0].export_handle()]),
        }
        if not isinstance(value, list):
            calls["handles"] = lambda: Selector.of(writers[0], value)
        for argument, call in calls.items():
            with pytest.raises(ArgumentError, match=f"{argument.strip()} must be|handle must be") as caught:
                call()
            assert "incompatible function" not in str(caught.value)
        assert len(selector.ends) == 1
        writers[0].enqueue("works on")
        assert keys(selector.select(timeout=10)) == [0]


def test_one_handle_is_no_list_of_them() -> None:
    with pairs(1) as ([writer], _), pytest.raises(ArgumentError, match="handles must be a list of handles"):
        Selector.of(writer, writer.export_handle())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["1", -1, float("nan"), True, [], np.arange(3)], ids=repr)
def test_what_is_no_time_is_refused(value: Any) -> None:
    with selected(1) as (_, selector):
        for call in (selector.select, lambda it: asyncio.run(selector.aselect(it))):
            with pytest.raises(ArgumentError, match="timeout must be"):
                call(value)

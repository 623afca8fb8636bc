"""Creators that are really killed, sweeps that really race: what is dead goes, what is alive stays."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ringcast import MessageQueue, ShmRingBuffer
from ringcast._names import segment_name
from ringcast.errors import SegmentExistsError, WriterDiedError
from ringcast.instruments import sweep
from tests.processes.test_memory import in_small_memory, needs_namespace
from tests.support import SHM, Background, Child, Link, creator_of, eventually, parked, segments, unique_name

REMOVAL_LOCK = 1 << 34
F_OFD_SETLK = 37
EPOCH_OFFSET = 24


@contextmanager
def removing(path: Path) -> Iterator[None]:
    """Another process has begun to remove this name, and is stopped before it does so."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, REMOVAL_LOCK, 1, 0))
        yield
    finally:
        os.close(descriptor)


def fates(names: list[str], dry_run: bool = False) -> dict[str, str]:
    return {one.segment: one.fate for one in sweep(dry_run) if one.segment in names}


def _make_all_kinds(link: Link, stem: str) -> None:
    named = MessageQueue(1, name=stem)
    unnamed = MessageQueue(2)
    ring = ShmRingBuffer(1, 1000, 4)
    unnamed.enqueue(b"x" * 1_000_000)
    link.send([named.segment, unnamed.segment, ring.name])
    link.recv()


def test_what_a_killed_process_left_is_gone_after_the_next_queue_of_whatever_name_is_made(
    start: Callable[..., Child],
) -> None:
    child = start(_make_all_kinds, unique_name())
    names = child.receive()
    assert fates(names) == dict.fromkeys(names, "alive")
    child.signal(signal.SIGSTOP)
    assert fates(names) == dict.fromkeys(names, "alive")
    child.kill()
    assert fates(names, dry_run=True) == dict.fromkeys(names, "dead")
    MessageQueue(1, name=unique_name()).close(0)
    assert not any((SHM / name).exists() for name in names)


def _make_and_be_killed(link: Link, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    for number in range(rounds):
        has_queues, tells = os.pipe()
        pid = os.fork()
        if pid == 0:
            while True:
                queues = [MessageQueue(1, name=f"{unique_name('h')}{number}"), MessageQueue(1)]
                if number == 0:  # this one is killed while it has queues, the others when chance will have it
                    os.write(tells, b"!")
                    signal.pause()
                for queue in queues:
                    queue.evict(0)
                    queue.close(0)
        if number == 0:
            os.read(has_queues, 1)
        signal.sigtimedwait([], chance.random() * 0.01)  # the moment of the kill is the test's chance
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(has_queues)
        os.close(tells)
        link.send((pid, number == 0))
        if number == 0:
            link.recv()  # the next one's queue would sweep, too
    link.send(None)


def test_creators_killed_at_any_moment_leave_nothing_that_a_sweep_does_not_find(start: Callable[..., Child]) -> None:
    seed = random.randrange(1 << 32)
    child = start(_make_and_be_killed, seed, 150)
    while (killed := child.receive()) is not None:
        pid, had_queues = killed
        mine = [one for one in sweep() if one.writer_pid == pid]
        if had_queues:
            assert [one.fate for one in mine] == ["removed"] * 2, (seed, mine)
            child.send("go on")
        # The next one's queues may be about to sweep, and be killed before they do.
        assert {one.fate for one in mine} <= {"removed", "removing"}, (seed, mine)
        eventually(lambda pid=pid: sweep() is not None and not _left_by(pid), f"a clean folder, with seed {seed}")  # type: ignore[misc]


def _left_by(pid: int) -> list[str]:
    left = []
    for one in segments():
        with suppress(FileNotFoundError, ValueError):  # it was removed, or is not ready, in this moment
            if creator_of(SHM / one) == pid:
                left.append(one)
    return left


def _write(link: Link, name: str, messages: int) -> None:
    writer = MessageQueue(1, name=name, max_chunks=64)
    writer.wait_until_ready(60)
    for n in range(messages):
        writer.enqueue((n, b"x" * (n * 700)))
    link.send(writer.segment)
    link.recv()


def test_a_reader_of_a_swept_queue_still_gets_all_that_was_sent_and_then_the_error(start: Callable[..., Child]) -> None:
    name = unique_name()
    writer = start(_write, name, 50)
    with MessageQueue.attach(name, timeout=60) as reader:
        reader.wait_until_ready(60)
        real_name = writer.receive()
        writer.kill()
        assert fates([real_name]) == {real_name: "removed"}
        assert not (SHM / real_name).exists()
        for n in range(50):
            assert reader.dequeue(10) == (n, b"x" * (n * 700))
        with pytest.raises(WriterDiedError):
            reader.dequeue(10)


def test_a_waiting_reader_learns_of_its_writer_s_death_while_a_stopped_process_removes_the_name(
    start: Callable[..., Child],
) -> None:
    name = unique_name()
    writer = start(_write, name, 0)
    with MessageQueue.attach(name, timeout=60) as reader:
        reader.wait_until_ready(60)
        path = SHM / writer.receive()
        waiting = Background(reader.dequeue)
        eventually(lambda: parked(reader), "the reader's sleep")
        with removing(path):
            writer.kill()
            with pytest.raises(WriterDiedError):
                waiting.result(timeout=10)
            reader.close()
            assert path.exists(), "the right to remove it was another's"
    assert fates([path.name]) == {path.name: "removed"}


def _hold(link: Link, name: str) -> None:
    queue = MessageQueue(1, name=name)
    link.send(queue.segment)
    link.recv()


def test_a_process_stopped_while_it_removes_a_name_holds_up_only_this_name_and_not_for_ever(
    start: Callable[..., Child],
) -> None:
    name, other = unique_name(), unique_name()
    dead = start(_hold, name)
    path = SHM / dead.receive()
    dead.kill()
    with removing(path):
        assert fates([path.name]) == {path.name: "removing"}
        MessageQueue(1, name=other).close(0)
        with pytest.raises(SegmentExistsError, match=rf"its owner, process {dead.pid}, is dead, and a process that"):
            MessageQueue(1, name=name)
        waiting = Background(MessageQueue, 1, name=name)
        assert path.exists()
    queue = waiting.result()
    assert queue.segment == path.name
    queue.close(0)


def _small_queue(name: str) -> MessageQueue:
    return MessageQueue(1, name=name, max_bytes=1 << 17, max_chunk_bytes=4096, max_chunks=2)


def _sweep_for_ever(link: Link) -> None:
    removed = 0
    while not link.poll(0):
        removed += sum(one.fate == "removed" for one in sweep())
    link.send(removed)


@pytest.mark.parametrize("sweepers", [1, 3])
def test_a_restarted_queue_is_never_removed_by_sweeps_that_race_with_its_start(
    sweepers: int, start: Callable[..., Child]
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    name = unique_name()
    path = SHM / segment_name(name)
    with _small_queue(name) as queue:
        content = path.read_bytes()[:4096]
    children = [start(_sweep_for_ever) for _ in range(sweepers)]
    planted = SHM / f"planted-{name}"
    stopped = False
    for round_number in range(1500):
        planted.write_bytes(content)  # a dead segment, whose name appears at once, as one whose creator was killed
        planted.rename(path)
        if chance.random() < 0.2:
            children[0].signal(signal.SIGCONT if stopped else signal.SIGSTOP)
            stopped = not stopped
        if round_number % 50 == 49:  # who is first is chance in most rounds, but here a sweep is
            children[0].signal(signal.SIGCONT)
            stopped = False
            eventually(lambda: not path.exists(), "a sweep that is first")
        refusal = ""
        try:
            queue = _small_queue(name)
        except SegmentExistsError as error:
            refusal = str(error)
        if refusal:  # a sweep was stopped while it removed this very name
            assert stopped, (seed, round_number, refusal)
            assert "is dead" in refusal, (seed, round_number, refusal)
            children[0].signal(signal.SIGCONT)
            stopped = False
            queue = _small_queue(name)
        for _ in range(chance.randrange(4)):
            sweep(dry_run=True)  # as long as several sweeps take
        with open(path, "rb") as file:  # the name is there, and leads to the living queue
            epoch = int.from_bytes(file.read(EPOCH_OFFSET + 8)[EPOCH_OFFSET:], "little")
        assert epoch == queue.stats()["epoch"], (seed, round_number)
        queue.close(0)
        assert not path.exists(), (seed, round_number)
    children[0].signal(signal.SIGCONT)
    assert sum(child.ask("end") for child in children) >= 1500 // 50


@needs_namespace
def test_memory_that_the_dead_filled_is_there_for_the_next_queue() -> None:
    in_small_memory("""
if (pid := os.fork()) == 0:
    queue = MessageQueue(1)
    try:
        while True:
            queue.try_enqueue(bytes(1 << 18)) or os.kill(os.getpid(), 9)
    except CapacityError:
        os.kill(os.getpid(), 9)
os.waitpid(pid, 0)
with MessageQueue(1) as queue:
    queue.enqueue(bytes(6 << 20), timeout=5)
    queue.evict(0)
print("done")
""")


def test_many_sweeps_at_once_remove_everything(start: Callable[..., Child]) -> None:
    names = [unique_name("m") for _ in range(60)]
    with _small_queue(names[0]) as queue:
        content = (SHM / queue.segment).read_bytes()[:4096]
    children = [start(_sweep_for_ever) for _ in range(3)]
    paths = [SHM / segment_name(name) for name in names]
    for path in paths:
        planted = SHM / f"planted-{path.name}"
        planted.write_bytes(content)
        planted.rename(path)
    eventually(lambda: not any(path.exists() for path in paths), "removal of all")
    for child in children:
        child.ask("end")

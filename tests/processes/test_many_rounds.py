"""Descriptors, mappings and names per queue are constant, and after any number of queues as before the first."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ringcast import MessageQueue
from tests.support import Child, Link, segments, unique_name

ROUNDS = 2500
MAPPINGS_PER_END = 2
"""The control part and the data part; a reader has both once more, copy-on-write."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    return sum("/dev/shm" in line for line in Path("/proc/self/maps").read_text().splitlines())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def use_private_memory() -> None:
    """The first use opens the page map, once for the process."""
    with (
        MessageQueue(1) as writer,
        MessageQueue.create_from_handle(writer.export_handle(), 0, zero_copy=True) as reader,
    ):
        writer.enqueue(np.zeros(100_000))
        reader.dequeue(10)


def test_an_open_end_has_one_descriptor_and_as_many_mappings_however_much_it_sends() -> None:
    use_private_memory()
    fds, maps = descriptors(), mappings()
    writer = MessageQueue(2, name=unique_name())
    assert (descriptors() - fds, mappings() - maps) == (1, MAPPINGS_PER_END)
    handle = writer.export_handle()
    plain = MessageQueue.create_from_handle(handle, 0)
    assert (descriptors() - fds, mappings() - maps) == (2, 2 * MAPPINGS_PER_END + 1)
    private = MessageQueue.create_from_handle(handle, 1, zero_copy=True)
    assert (descriptors() - fds, mappings() - maps) == (3, 3 * MAPPINGS_PER_END + 2)
    views = []
    for n in range(50):
        writer.enqueue(np.full(100_000, n), timeout=10)
        views += [plain.dequeue(10), private.dequeue(10)]
    assert (descriptors() - fds, mappings() - maps) == (3, 3 * MAPPINGS_PER_END + 2)
    for end in (plain, private, writer):
        end.close()
    assert descriptors() - fds <= 2, "only ends with views alive keep a descriptor, for their seat's lock"
    views.clear()
    assert (descriptors(), mappings()) == (fds, maps)


def _one_round(number: int) -> None:
    with MessageQueue(1, max_chunks=4) as writer:
        handle = writer.export_handle()
        with MessageQueue.create_from_handle(handle, 0, zero_copy=number % 10 == 0) as reader:
            writer.enqueue(b"small")
            assert reader.dequeue(10) == b"small"
            if number % 3 == 0:
                writer.enqueue(np.full(10_000, number))
                view = reader.dequeue(10)
                reader.close()
                assert int(view[-1]) == number


def _rounds(link: Link) -> None:
    for number in range(300):
        _one_round(number)
    gc.collect()
    before = descriptors(), mappings(), segments()
    resident = resident_bytes()
    for number in range(ROUNDS):
        _one_round(number)
    gc.collect()
    assert (descriptors(), mappings(), segments()) == before
    grown = resident_bytes() - resident
    assert grown < 1 << 20, f"{ROUNDS} queues left {grown} bytes"
    link.send(grown)


def test_after_thousands_of_queues_everything_is_as_before(start: Callable[..., Child]) -> None:
    assert isinstance(start(_rounds).receive(timeout=300), int)

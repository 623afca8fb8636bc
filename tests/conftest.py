"""Every test leaves no segment, no child process and no thread behind; `start` runs functions in real processes."""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tests.support import SHM, Child, segments, started_pids

CREATOR_PID_OFFSET = 128

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and every program that a test starts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_ours(name: str) -> bool:
    """Was it left by this process or one that a test started? Other programs of this machine may use ringcast, too.

    A process that a child of ours started is not known here; where the machine is the tests' own (CI), every segment
    whose creator is dead counts. The living ones of others never do.
    """
    try:
        with open(SHM / name, "rb") as file:
            header = file.read(CREATOR_PID_OFFSET + 4)
    except OSError:
        return False
    if len(header) < CREATOR_PID_OFFSET + 4:
        return f"{os.getpid()}-" in name  # made by a test, damaged on purpose
    (creator,) = struct.unpack_from("=I", header, CREATOR_PID_OFFSET)
    if creator == os.getpid() or creator in started_pids:
        return True
    return bool(os.environ.get("CI")) and not Path(f"/proc/{creator}").exists()


def _children() -> set[int]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == os.getpid():
            found.add(int(status.parent.name))
    tracker: Any = resource_tracker
    return found - {tracker._resource_tracker._pid}


def pytest_collection_finish() -> None:
    """What was loaded before the first test is not looked at again by the collection after each: that takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    segments_before = segments()
    children_before = _children()
    yield
    gc.collect()
    active_children()  # reaps those of multiprocessing that have ended
    assert _children() - children_before == set(), "child processes are left"
    left = {name for name in segments() - segments_before if _is_ours(name)}
    for name in left:  # so that one test's leak is one failure
        (SHM / name).unlink(missing_ok=True)
    assert left == set(), "segments are left in /dev/shm"


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts a Child, and kills it at the end of the test if it still runs."""
    children: list[Child] = []

    def start_child(function: Callable[..., None], *arguments: Any, **options: Any) -> Child:
        children.append(Child(function, *arguments, **options))
        return children[-1]

    yield start_child
    for child in children:
        child.discard()


def pytest_report_header() -> str:
    import ringcast

    return f"ringcast {ringcast.__version__} from {Path(ringcast.__file__).parent}, {sys.implementation.cache_tag}"

"""Ctrl-C at any moment of a command's life: it ends at once, and nothing of it is left.

RINGCAST_CTRL_C sets how many moments are tried for each command; the worst time to end is printed (`pytest -s`).
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from ringcast.errors import PeerError, SegmentNotFoundError
from ringcast.instruments import list_queues
from tests.support import SHM, Background, eventually, started_pids, unique_name

MOMENTS = int(os.environ.get("RINGCAST_CTRL_C", "8"))
MARK = "RINGCAST_TEST_MARK"
# Well above the second that is promised, for machines that are busy with other things; well below what it would take if
# nothing ended it.
AT_ONCE_S = 20.0
INTERRUPTED = (130, -signal.SIGINT)  # the second: before Python had begun to handle it


def _semaphores() -> set[str]:
    return {one for one in os.listdir(SHM) if one.startswith("sem.mp-")}


def _processes_with(mark: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{MARK}={mark}".encode() in file.read():
                    found.append(pid)
        except OSError:
            continue  # it has ended
    return found


def _interrupt(arguments: list[str], moment_s: float, group: bool, **streams: Any) -> float:
    """The seconds from Ctrl-C to the end of the command and all of its processes."""
    mark = secrets.token_hex(8)
    semaphores = _semaphores()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-m", "ringcast", *arguments],
        env={**os.environ, MARK: mark},
        start_new_session=True,
        **(pipes | streams),
    ) as process:
        started_pids.add(process.pid)
        time.sleep(moment_s)  # the moment is what is tested; nothing is synchronised by it
        interrupt = partial(os.killpg if group else os.kill, process.pid, signal.SIGINT)
        begun = _has_an_end(process.pid)
        begin = time.monotonic()
        interrupt()
        try:
            _, err = process.communicate(timeout=AT_ONCE_S)
        except subprocess.TimeoutExpired:
            # While it imports, before the command's first line, Python can lose an interruption; a person tries again.
            assert not begun, f"not interrupted after {moment_s} s"
            begin = time.monotonic()
            interrupt()
            _, err = process.communicate(timeout=AT_ONCE_S)
        eventually(lambda: not _processes_with(mark), "an end of all processes of the command")
        took = time.monotonic() - begin
    eventually(lambda: _semaphores() <= semaphores, "an end of the standard library's semaphores")
    assert [info for info in list_queues().queues if info["writer"]["pid"] == process.pid] == []
    # Or it calls that a failure to start.
    failed = process.returncode == 1 and any(said in err for said in (b"KeyboardInterrupt", b"Fatal Python error"))
    told = f"exit code {process.returncode} after {moment_s} s: {err.decode()}"
    assert process.returncode in INTERRUPTED or (failed and not begun), told
    return took


def _has_an_end(pid: int) -> bool:
    """Whether the process writes or reads a queue, so is past its imports."""
    queues = list_queues().queues
    return any(pid in (info["writer"]["pid"], *(reader["pid"] for reader in info["readers"])) for info in queues)


def _demo(moment_s: float, group: bool) -> float:
    return _interrupt(["demo", "--workers", "2", "--files", "12", "--rounds", "1000000"], moment_s, group)


def _drain(name: str, attach_s: float) -> None:
    with suppress(SegmentNotFoundError), MessageQueue.attach(name, timeout=attach_s) as reader:
        with suppress(PeerError):  # interrupted so early that it could not close its queue
            for _ in reader:
                pass


def _pub(moment_s: float, group: bool) -> float:
    name = unique_name("pub")
    with open("/dev/zero", "rb") as endless:
        draining = Background(_drain, name, moment_s)
        try:
            return _interrupt(["pub", name], moment_s, group, stdin=endless)
        finally:
            draining.result()


def _sub(moment_s: float, group: bool) -> float:
    with MessageQueue(1, name=unique_name("sub"), max_chunks=64) as writer:
        assert writer.name is not None
        for n in range(32):
            writer.enqueue(b"%d\n" % n)
        return _interrupt(["sub", writer.name], moment_s, group)


@pytest.mark.parametrize(("command", "life_s"), [(_demo, 3.0), (_pub, 0.6), (_sub, 0.6)])
def test_ctrl_c_at_any_moment_ends_it_and_leaves_nothing(
    command: Callable[[float, bool], float], life_s: float
) -> None:
    seed = secrets.randbits(32)
    print(f"\n{command.__name__}: seed {seed}")
    moments = random.Random(seed)
    worst = 0.0
    for n in range(MOMENTS):
        moment_s = moments.uniform(0, life_s)
        took = command(moment_s, n % 2 == 1)
        assert took < AT_ONCE_S, f"interrupted after {moment_s} s (seed {seed})"
        worst = max(worst, took)
    print(f"{command.__name__}: {MOMENTS} moments, ended within {worst:.3f} s")

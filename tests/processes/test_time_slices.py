"""The scheduler's time slices: of all threads of a process, of those they start, of processes started from then on."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import set_time_slice
from ringcast.errors import ArgumentError
from ringcast.vllm import _switch
from ringcast.vllm._queue import MessageQueue as EnginesQueue
from tests.support import Child, Link, run_python

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}.get(platform.machine(), 0)
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
SHORT_S, SHORT_NS = 0.0002, 200_000


def slice_of(thread: int) -> int:
    """Nanoseconds, as the kernel says; 0 where it has no such slices."""
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SCHED_GETATTR, thread, buffer, _ATTRIBUTES.size, 0) != 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return int(_ATTRIBUTES.unpack(buffer.raw)[5])


needs_slices = pytest.mark.skipif(
    sys.platform != "linux" or not _SCHED_GETATTR or slice_of(0) == 0, reason="time slices need Linux 6.12"
)


def _slices_of_every_thread(link: Link) -> None:
    go, told = threading.Event(), threading.Event()
    later: list[int] = []

    def starts_another() -> None:
        go.wait()
        another = threading.Thread(target=lambda: later.append(slice_of(0)))
        another.start()
        another.join()
        told.set()

    early = threading.Thread(target=starts_another)
    early.start()
    system_s = slice_of(0)
    assert early.native_id is not None
    assert set_time_slice(SHORT_S)
    threads = [slice_of(0), slice_of(early.native_id)]
    go.set()
    told.wait()
    started = subprocess.run(
        [sys.executable, "-c", "from tests.processes.test_time_slices import slice_of; print(slice_of(0))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set_time_slice(None)
    link.send((system_s, [*threads, *later, int(started.stdout)], [slice_of(0)]))


@needs_slices
def test_all_threads_and_what_they_start_have_the_slice_until_it_is_taken_back(start: Callable[..., Child]) -> None:
    system_s, short, after = start(_slices_of_every_thread).receive()
    assert short == [SHORT_NS] * 4
    assert system_s > SHORT_NS
    assert after == [system_s]


def _idle_and_nice(link: Link) -> None:
    done = threading.Event()
    idle = threading.Thread(target=done.wait)
    idle.start()
    assert idle.native_id is not None
    os.sched_setscheduler(idle.native_id, os.SCHED_IDLE, os.sched_param(0))
    before = os.nice(0)
    os.nice(3)
    assert set_time_slice(SHORT_S)
    link.send((os.sched_getscheduler(idle.native_id) == os.SCHED_IDLE, os.nice(0) - before, slice_of(0)))
    done.set()


@needs_slices
def test_a_thread_s_policy_and_niceness_stay(start: Callable[..., Child]) -> None:
    assert start(_idle_and_nice).receive() == (True, 3, SHORT_NS)


def test_where_there_are_none_it_says_so_and_changes_nothing() -> None:
    if sys.platform == "linux" and _SCHED_GETATTR and slice_of(0) != 0:
        pytest.skip("this system has them")
    assert set_time_slice(SHORT_S) is False
    assert set_time_slice(None) is False


@pytest.mark.parametrize("wrong", [0, -1, 0.00009, 0.11, 3, float("nan"), float("inf"), True, "0.001", b"1", [0.001]])
def test_what_is_no_slice_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"slice|seconds"):
        set_time_slice(wrong)


def _an_engine_s_end(link: Link, setting: str) -> None:
    os.environ["RINGCAST_VLLM_SLICE"] = setting
    before = slice_of(0)
    with EnginesQueue(1, 1):
        pass
    link.send((before, slice_of(0)))


@needs_slices
@pytest.mark.parametrize(("setting", "slice_ns"), [("", 100_000), ("0.002", 2_000_000), ("0", None)])
def test_an_engine_s_process_has_short_slices_unless_its_environment_says_otherwise(
    setting: str, slice_ns: int | None, start: Callable[..., Child]
) -> None:
    before, after = start(_an_engine_s_end, setting).receive()
    assert after == (slice_ns or before)


def test_a_process_that_only_registers_the_plugin_keeps_its_slices() -> None:
    assert _switch.time_slice() > 0
    script = (
        "from tests.processes.test_time_slices import slice_of, _SCHED_GETATTR\n"
        "from ringcast.vllm import register\n"
        "before = slice_of(0) if _SCHED_GETATTR else 0\n"
        "register()\n"
        "assert before == (slice_of(0) if _SCHED_GETATTR else 0)\n"
    )
    run_python(script)

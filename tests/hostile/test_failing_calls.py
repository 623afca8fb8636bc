"""Every system call that the native core makes fails once, and from then on, with each errno that it may have.

What the user sees is a typed error, or success where the failure is harmless; nothing stays open, mapped or named; and
the same operation works as soon as the calls do.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringcast import _core
from ringcast.errors import RingcastError, SystemCallError
from tests.hostile.scenarios import SCENARIOS, Scenario
from tests.hostile.shim import Shim
from tests.support import Child, Link, segments

ERRORS = {
    "open": (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EINTR),
    "mmap": (errno.ENOMEM, errno.EAGAIN),
    "munmap": (errno.ENOMEM,),
    "close": (errno.EIO, errno.EINTR),
    "ftruncate": (errno.ENOSPC, errno.EFBIG, errno.EINTR),
    "fallocate": (errno.ENOSPC, errno.ENOMEM, errno.EIO, errno.EINTR),
    "fcntl": (errno.ENOLCK, errno.EINTR),
    "linkat": (errno.EACCES, errno.ENOSPC, errno.ENOMEM),
    "unlink": (errno.EACCES, errno.EBUSY),
    "fchmod": (errno.EPERM,),
    "fstat": (errno.ENOMEM, errno.EIO),
    "lstat": (errno.EACCES, errno.ENOMEM),
    "stat": (errno.EACCES,),
    "statvfs": (errno.EACCES,),
    "mprotect": (errno.ENOMEM,),
    "madvise": (errno.EINVAL, errno.ENOMEM),
    "ioctl": (errno.ENOTTY, errno.EINTR),  # as before Linux 6.7
    "pread": (errno.EIO, errno.EINTR),
    "getrandom": (errno.ENOSYS,),
    "sched_getaffinity": (errno.EINVAL,),
    "getrusage": (errno.EPERM,),  # as a sandbox may say
    "opendir": (errno.EMFILE, errno.EACCES),
    "syscall": (errno.EINTR, errno.EAGAIN),  # the futex
}
EVER = 1 << 30
MOST_CALLS = {"create_under_a_living_queue_s_name": 2}
"""Some scenarios do the same again and again: how many calls of each function are made to fail, if not 12."""
LEAVES_NAMES = ("unlink", "lstat")
"""Without these no name can be removed: it stays until the next queue of that name."""


def resources() -> tuple[int, list[str], set[str]]:
    """Open descriptors, mappings of shared memory and names."""
    gc.collect()
    maps = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return len(os.listdir("/proc/self/fd")), sorted(m for m in maps if "/dev/shm" in m), segments()


def attempt(
    scenario: Scenario, shim: Shim, function: str, call: int, repeats: int, error: int
) -> tuple[dict[str, int], Exception | None]:
    """Runs the scenario with those calls failing; what calls its operation made, and the error it ended with."""
    operation = next(scenario)
    raised = None
    shim.arm(function, call, repeats, error)
    try:
        operation()
    except Exception as caught:
        raised = caught.with_traceback(None)
    finally:
        counts = shim.counts(ERRORS)
        shim.arm("", 0, 0, 0)
    del operation
    with contextlib.suppress(StopIteration):
        scenario.send(raised)
    return counts, raised


def _fail_each_call(link: Link, name: str) -> None:
    shim = Shim()
    scenario = SCENARIOS[name]
    attempt(scenario(), shim, "", 0, 0, 0)  # what is imported and cached at first use
    gc.freeze()  # the rest is looked through hundreds of times
    before = resources()
    counts, _ = attempt(scenario(), shim, "", 0, 0, 0)
    assert resources() == before
    seen: dict[str, int] = {}
    for function, calls in counts.items():
        for call in range(1, min(calls, MOST_CALLS.get(name, 12)) + 1):
            for error in ERRORS[function]:
                for repeats in (0, 5 if error == errno.EINTR else EVER)[: 1 if call > 2 else 2]:
                    what = f"{name}: {function} call {call} (+{repeats}) failing with {errno.errorcode[error]}"
                    try:
                        _, raised = attempt(scenario(), shim, function, call, repeats, error)
                    except Exception as failure:
                        raise AssertionError(what) from failure
                    assert raised is None or isinstance(raised, RingcastError), f"{what}: {raised!r}"
                    if isinstance(raised, SystemCallError):
                        assert raised.errno == error, f"{what}: {raised!r}"
                        if function in ("open", "mmap", "fstat"):
                            assert "segment 'ringcast_" in str(raised), f"{what}: {raised!r}"
                    after = resources()
                    if function not in LEAVES_NAMES:
                        assert after == before, f"{what}: {raised!r}"
                    assert after[:2] == before[:2], f"{what}: {raised!r}"
                    for left in after[2] - before[2]:
                        os.unlink(f"/dev/shm/{left}")
                    seen[type(raised).__name__] = seen.get(type(raised).__name__, 0) + 1
    link.send((counts, seen))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_failing_call_is_a_typed_error_and_leaves_nothing_half_open(
    name: str, shim: str, start: Callable[..., Child]
) -> None:
    child = start(_fail_each_call, name, env={"LD_PRELOAD": shim})
    counts, seen = child.receive()
    assert child.join() == 0
    print(name, {function: calls for function, calls in counts.items() if calls}, seen)


def test_the_core_makes_no_call_that_the_shim_does_not_know() -> None:
    """Else new code would go untested."""
    if shutil.which("nm") is None or not sys.platform.startswith("linux"):
        assert not os.environ.get("CI"), "CI needs nm"
        pytest.skip("needs nm, and the names of Linux's C library")
    made = subprocess.run(["nm", "-D", "-u", str(_core.__file__)], capture_output=True, text=True, check=True)
    names = {line.split()[-1].partition("@")[0] for line in made.stdout.splitlines()}
    files = {"openat", "open64", "creat", "dup", "dup2", "dup3", "read", "write", "pwrite", "shm_open", "shm_unlink"}
    files |= {"posix_fallocate", "truncate", "link", "rename", "unlinkat", "fstatat", "mremap", "msync"}
    assert names & files == set()

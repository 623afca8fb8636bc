"""Limits, mounts and sandboxes that stand in the way of shared memory: the error says which one, and what to do."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.support import ROOT, run_python

TRY = """
from ringcast import MessageQueue
from ringcast.errors import RingcastError
from ringcast.instruments import sweep
def attempt(call):
    try:
        call()
    except RingcastError as error:
        return f"{type(error).__name__}({error.errno}): {error}"
    return "works"
print(attempt(lambda: MessageQueue(1, name="odd").close(0)))
print(attempt(lambda: MessageQueue.attach("odd", timeout=0)))
print(attempt(sweep))
"""
"""Making, attaching and sweeping: one line each."""

NOBODY = 65534
needs_mounts = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root, to mount file systems in a namespace of its own",
)


def attempts(setup: str, *command: str, source: str = TRY) -> list[str]:
    wrapper = ("unshare", "-m", "sh", "-c", f'set -e; {setup}; exec "$@"', "sh", *command)
    result = run_python(source, wrapper=wrapper, env={"PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result
    return result.stdout.splitlines()


@needs_mounts
@pytest.mark.parametrize(
    ("setup", "part"),
    [
        ("mount -t tmpfs none /dev", "there is no /dev/shm: make the directory and mount"),
        ("mount -t tmpfs none /dev; echo > /dev/shm", "/dev/shm is not a directory: remove it"),
    ],
)
def test_a_place_that_is_missing_is_named_with_the_mount_that_makes_it(setup: str, part: str) -> None:
    for line in attempts(setup):
        assert line.startswith("SystemCallError("), line
        assert part in line, line
        assert "mount -t tmpfs -o mode=1777 tmpfs /dev/shm" in line, line


@needs_mounts
def test_a_read_only_place_is_named_with_the_remount() -> None:
    made, _, swept = attempts("mount -t tmpfs -o ro none /dev/shm")
    assert "mount -o remount,rw /dev/shm" in made, made
    assert swept == "works"
    leave = "from ringcast import MessageQueue; import os; queue = MessageQueue(1, name='odd'); os._exit(0)"
    _, attached, _ = attempts(
        f'mount -t tmpfs none /dev/shm; {sys.executable} -c "{leave}"; mount -o remount,ro /dev/shm'
    )
    assert "mount -o remount,rw /dev/shm" in attached, attached


@needs_mounts
@pytest.mark.parametrize(
    ("setup", "parts"),
    [
        ("mount -t ramfs none /dev/shm", ("has to be a tmpfs", "ramfs", "mount -t tmpfs")),
        ("mount -t tmpfs none /dev/shm; mount -t tmpfs none /proc", ("needs /proc", "mount -t proc proc /proc")),
        ("mount -t tmpfs -o nr_inodes=1 none /dev/shm", ("no inode left", "nr_inodes")),
    ],
)
def test_a_place_of_another_kind_is_named_with_the_remedy(setup: str, parts: tuple[str, ...]) -> None:
    made = attempts(setup)[0]
    assert made.startswith("SystemCallError("), made
    assert all(part in made for part in parts), made


@needs_mounts
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_place_that_others_may_not_write_to_is_named_with_the_mode_it_needs() -> None:
    made = attempts("mount -t tmpfs -o mode=755 none /dev/shm", "setpriv", f"--reuid={NOBODY}", "--clear-groups")[0]
    assert f"uid {NOBODY} may not make files in /dev/shm" in made, made
    assert "mode=1777" in made, made


LIMITED = """
import resource, signal, sys
from ringcast import MessageQueue
from ringcast.errors import SystemCallError
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, programs that embed it may not
limit = getattr(resource, "RLIMIT_" + sys.argv[1])
resource.setrlimit(limit, (int(sys.argv[2]), resource.getrlimit(limit)[1]))
ends = []
try:
    for _ in range(100):
        queue = MessageQueue(1)
        ends += [queue, MessageQueue.create_from_handle(queue.export_handle(), 0)]
except SystemCallError as error:
    print(error)
else:
    print("no error")
if ends:
    ends[0].enqueue("still works")
    assert ends[1].dequeue(5) == "still works"
resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)
small = MessageQueue(1, max_bytes=1 << 20)
"""


@pytest.mark.parametrize(
    ("limit", "value", "parts"),
    [
        ("AS", 400 << 20, ("limited to 400.0 MiB (RLIMIT_AS)", "ulimit -v", "max_bytes")),
        ("AS", 6000 << 20, ("limited to 6000.0 MiB (RLIMIT_AS)", "ulimit -v", "max_bytes")),
        ("FSIZE", 1 << 20, ("limited to 1.0 MiB (RLIMIT_FSIZE)", "ulimit -f", "max_bytes")),
        ("NOFILE", 40, ("40 open files (RLIMIT_NOFILE)", "ulimit -n", "each end of a queue keeps one")),
    ],
)
def test_a_limit_of_the_process_is_named_with_how_to_raise_it_and_what_was_made_before_works(
    limit: str, value: int, parts: tuple[str, ...]
) -> None:
    result = run_python(LIMITED, limit, str(value))
    assert (result.returncode, result.stderr) == (0, ""), result
    assert all(part in result.stdout for part in parts), result.stdout


def test_a_small_queue_works_where_the_default_does_not() -> None:
    source = LIMITED.replace("MessageQueue(1)", "MessageQueue(1, max_bytes=8 << 20)").replace("range(100)", "range(2)")
    for limit in ("AS", "FSIZE"):
        result = run_python(source, limit, str(400 << 20))
        assert (result.returncode, result.stdout, result.stderr) == (0, "no error\n", ""), result


TIER = """
import os, sys
from ringcast.errors import TierError
from ringcast.pool.tiers import FileTier
try:
    FileTier(sys.argv[1] if sys.argv[1:] else "/mnt/folder/tier", "8MiB", "64KiB", direct=False).close()
    print("works")
except TierError as error:
    print(error)
"""


@needs_mounts
@pytest.mark.parametrize(
    ("setup", "parts"),
    [
        (
            "mount -t tmpfs -o size=2M none /mnt; mkdir /mnt/folder",
            ("No space left", "/mnt/folder has 2.0 MiB left", "smaller size"),
        ),
        (
            "mount -t tmpfs none /mnt; mkdir /mnt/folder; mount -o remount,ro /mnt",
            ("mounted read-only", "remount,rw", "another path"),
        ),
        ("mount -t tmpfs none /mnt", ("there is no folder /mnt/folder", "make it")),
        (
            "mount -t tmpfs none /mnt; mkdir /mnt/folder; ln -s /gone/tier /mnt/folder/tier",
            ("a link to what is not there", "another path"),
        ),
        ("mount -t tmpfs none /mnt; mkdir /mnt/folder; ln -s tier /mnt/folder/tier", ("leads nowhere", "another path")),
        ("mount -t tmpfs none /mnt; echo > /mnt/folder", ("/mnt/folder is not a folder", "another path")),
        ("mount -t tmpfs none /mnt; mkdir -p /mnt/folder/tier", ("it is a folder", "the path of a file in it")),
    ],
)
def test_a_tier_s_place_is_named_with_the_remedy(setup: str, parts: tuple[str, ...]) -> None:
    [made] = attempts(setup, source=TIER)
    assert made.startswith("tier file '/mnt/folder/tier': "), made
    for part in parts:
        assert part in made, made

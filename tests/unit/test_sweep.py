"""What a sweep takes for dead, alive or not its own, one name at a time."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringcast import MessageQueue, ShmRingBuffer, _core
from ringcast._names import PREFIX, segment_name, suffix
from ringcast.errors import SystemCallError
from ringcast.instruments import SweptSegment, sweep
from tests.support import SHM, run_python, segments, unique_name

LAYOUT_VERSION_OFFSET = 8
HEADER_BYTES = 304


def swept(name: str, dry_run: bool = False) -> SweptSegment | None:
    """What a sweep says of one segment."""
    found = [one for one in sweep(dry_run) if one.segment == name]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture(scope="module")
def content() -> bytes:
    """A queue's bytes. In a file that is made of them nobody holds a lock: what a dead process leaves."""
    with MessageQueue(1, name=unique_name(), max_chunk_bytes=4096, max_chunks=2, max_bytes=1 << 17) as queue:
        return (SHM / queue.segment).read_bytes()


@pytest.fixture
def leave(content: bytes) -> Iterator[Callable[..., Path]]:
    """Leaves a segment of this user, with other bytes at an offset, and removes it at the end."""
    left: list[Path] = []

    def make(offset: int = 0, patch: bytes = b"", mode: int = 0o600, size: int | None = None) -> Path:
        path = SHM / segment_name(unique_name("s"))
        left.append(path)
        path.touch(0o600)
        path.write_bytes((content[:offset] + patch + content[offset + len(patch) :])[:size])
        path.chmod(mode)
        return path

    yield make
    for path in left:
        path.unlink(missing_ok=True)


def test_a_dead_segment_is_removed_and_told_of(leave: Callable[..., Path]) -> None:
    path = leave()
    size = path.stat().st_blocks * 512
    found = swept(path.name)
    assert found is not None
    assert (found.fate, found.reason, found.writer_pid, found.memory_bytes) == ("removed", "", os.getpid(), size)
    assert found.dead
    assert found.name is not None
    assert not path.exists()
    assert swept(path.name) is None


def test_a_dry_run_only_tells(leave: Callable[..., Path]) -> None:
    path = leave()
    for _ in range(2):
        found = swept(path.name, dry_run=True)
        assert found is not None
        assert (found.fate, found.dead) == ("dead", True)
    assert path.exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_living_are_left_alone(dry_run: bool) -> None:
    ring = ShmRingBuffer(1, 1000, 4)
    with MessageQueue(1) as unnamed, MessageQueue(1, name=unique_name()) as named:
        for name, user_name in ((unnamed.segment, None), (named.segment, named.name), (ring.name, None)):
            found = swept(name, dry_run)
            assert found is not None
            assert (found.name, found.fate, found.writer_pid, found.dead) == (user_name, "alive", os.getpid(), False)
            assert name in segments()
        reader = MessageQueue.create_from_handle(unnamed.export_handle(), 0)
        unnamed.enqueue("still here")
        assert reader.dequeue(10) == "still here"
        reader.close()
    ring.close()


def test_another_layout_s_dead_segment_is_removed_without_believing_its_fields(leave: Callable[..., Path]) -> None:
    path = leave(LAYOUT_VERSION_OFFSET, b"\xff\xff\0\0")
    found = swept(path.name)
    assert found is not None
    assert (found.fate, found.writer_pid, found.name) == ("removed", 0, None)
    assert not path.exists()


def test_what_is_not_ringcast_s_is_left_alone_with_the_reason(leave: Callable[..., Path]) -> None:
    stays = {
        leave(0, b"\0"): "magic number",
        leave(size=HEADER_BYTES - 1): f"it has only {HEADER_BYTES - 1} bytes",
        leave(size=0): "it has only 0 bytes",
    }
    for path, reason in stays.items():
        found = swept(path.name)
        assert found is not None
        assert (found.fate, found.dead) == ("skipped", False)
        assert reason in found.reason
        assert path.exists()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_what_is_not_a_file_is_left_alone_with_the_reason(kind: str, leave: Callable[..., Path]) -> None:
    path = SHM / segment_name(unique_name("k"))
    target = leave()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    try:
        found = swept(path.name, dry_run=True)
        assert found is not None
        assert found.fate == "skipped"
        assert found.reason
        swept(path.name)
        assert path.is_symlink() or path.exists()
    finally:
        path.rmdir() if kind == "directory" else path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_the_segment_of_another_user_is_left_alone_whatever_its_name_says(leave: Callable[..., Path]) -> None:
    path = leave()
    os.chown(path, 12345, -1)
    found = swept(path.name)
    assert found is not None
    assert (found.fate, found.reason) == ("skipped", "it belongs to uid 12345")
    assert path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_s_sweep_sees_no_names_of_others_and_goes_on_where_it_may_not_look(
    leave: Callable[..., Path], content: bytes
) -> None:
    path = leave()
    script = """
import os, sys
from pathlib import Path
from ringcast._names import segment_name
from ringcast.instruments import sweep
os.setuid(12345)
content = bytes.fromhex(sys.argv[1])[:4096]
closed, dead = (Path("/dev/shm", segment_name(f"{sys.argv[2]}{n}")) for n in "ab")
for path in (closed, dead):
    path.write_bytes(content)
closed.chmod(0)
found = {one.segment: one for one in sweep()}
assert set(found) == {closed.name, dead.name}, found
assert found[closed.name].fate == "skipped" and "may not be opened by uid 12345" in found[closed.name].reason, found
assert found[dead.name].fate == "removed" and not dead.exists(), found
closed.unlink()
"""
    done = run_python(script, content[:4096].hex(), unique_name("u"))
    assert (done.returncode, done.stderr) == (0, "")
    assert path.exists()


@contextmanager
def no_more_files() -> Iterator[None]:
    """No file can be opened in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_descriptor_to_look_with_a_sweep_is_a_typed_error(leave: Callable[..., Path]) -> None:
    path = leave()
    with no_more_files(), pytest.raises(SystemCallError, match="listing /dev/shm"):
        sweep()
    assert path.exists()


def test_making_a_queue_sweeps(leave: Callable[..., Path]) -> None:
    for make in (lambda: MessageQueue(1), lambda: MessageQueue(1, name=unique_name()), lambda: ShmRingBuffer(1, 9, 2)):
        dead, junk = leave(), leave(0, b"\0")
        made = make()
        assert not dead.exists()
        assert junk.exists()
        made.close()


def test_a_sweep_that_fails_does_not_keep_a_queue_from_being_made() -> None:
    script = """
import ringcast._core as core
from ringcast import MessageQueue
from ringcast.errors import SystemCallError
def fail(prefix, suffix, dry_run, others_only):
    raise SystemCallError("no")
core.sweep = fail
with MessageQueue(1) as queue:
    queue.evict(0)
"""
    done = run_python(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_no_text_disturbs_nobody(leave: Callable[..., Path]) -> None:
    odd = os.fsencode(SHM) + b"/ringcast_\xff" + os.fsencode(segment_name("x"))[-2:]
    os.close(os.open(odd, os.O_CREAT, 0o600))
    try:
        path = leave()
        sweep()
        assert not path.exists()
        assert os.path.exists(odd)
    finally:
        os.unlink(odd)


def test_a_new_queue_s_sweep_asks_the_kernel_about_other_processes_segments_only(leave: Callable[..., Path]) -> None:
    def told_of(names: set[str]) -> set[str]:
        return names & {found[0] for found in _core.sweep(PREFIX, suffix(), dry_run=True, others_only=True)}

    def others_in_a_child(names: set[str]) -> bool:
        pid = os.fork()
        if pid == 0:
            os._exit(told_of(names) == names)  # not its own
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

    name = unique_name()
    with MessageQueue(1, name=name) as queue:
        dead = leave().name
        MessageQueue.attach(name)
        assert swept(queue.segment, dry_run=True) is not None
        assert told_of({dead, queue.segment}) == {dead}
        assert others_in_a_child({dead, queue.segment})
    (SHM / dead).rename(SHM / queue.segment)  # somebody else's, by the name of one that was closed
    try:
        assert told_of({queue.segment}) == {queue.segment}
    finally:
        (SHM / queue.segment).unlink()

"""`ringcast clean`, `doctor` and what `ls` says of the dead, run as their users run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from tests.processes.test_memory import needs_namespace
from tests.support import SHM, Child, Link, run_python, unique_name

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"

IN_SHM_OF_ITS_OWN = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm"], check=True)
from ringcast import MessageQueue
def ringcast(*arguments):
    done = subprocess.run([sys.executable, "-m", "ringcast", *arguments], capture_output=True, text=True)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout
def leave(name):
    if (pid := os.fork()) == 0:
        queue = MessageQueue(1, name=name)
        queue.enqueue(bytes(1 << 20))
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    return pid
"""


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command that writes no error."""
    done = run_python(RINGCAST, *arguments)
    assert done.stderr == ""
    return done.returncode, done.stdout


def in_shm_of_its_own(script: str) -> None:
    done = run_python(IN_SHM_OF_ITS_OWN + script + "\nprint('done')", wrapper=("unshare", "-m"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done.stderr


def _hold(link: Link, name: str) -> None:
    queue = MessageQueue(1, name=name)
    link.send(queue.segment)
    link.recv()


def row(output: str, segment: str) -> str:
    """The line about one segment, single spaces between its columns."""
    (line,) = [one for one in output.splitlines() if segment in one.split()]
    return " ".join(line.split())


def test_clean_removes_the_dead_and_leaves_the_living(start: Callable[..., Child]) -> None:
    name = unique_name("cl")
    child = start(_hold, name)
    segment = child.receive()
    with MessageQueue(1, name=unique_name("cl")) as living:
        code, out = run("clean")
        assert code == 0
        assert segment not in out
        child.kill()
        code, out = run("ls", "--all")
        assert row(out, segment).startswith(f"{name} 0 of 1 0 {child.pid} (dead) ")
        assert "ringcast clean" in out
        code, out = run("clean", "--dry-run")
        assert code == 0
        assert row(out, segment).startswith(f"{name} {segment} {child.pid} (dead) ")
        assert row(out, segment).endswith(" KiB would be removed")
        assert "Would remove " in out
        assert (SHM / segment).exists()
        code, out = run("clean")
        assert code == 0
        assert row(out, segment).endswith(" KiB removed")
        assert not (SHM / segment).exists()
        assert living.segment not in out
        assert (SHM / living.segment).exists()


@needs_namespace
def test_clean_counts_what_it_removes_and_says_when_there_is_nothing() -> None:
    in_shm_of_its_own("""
assert ringcast("clean") == (0, "Nothing to remove.\\n")
assert ringcast("ls", "--all") == (0, "No queues here.\\n")
with MessageQueue(1, name="alive"):
    assert ringcast("clean") == (0, "Nothing to remove. 1 queue in use left alone.\\n")
    pids = [leave("first")]
    code, out = ringcast("clean", "--dry-run")
    assert code == 0 and out.endswith("\\nWould remove 1 queue, 1.1 MiB. 1 queue in use left alone.\\n"), out
    code, out = ringcast("clean")
    assert code == 0 and out.endswith("\\nRemoved 1 queue, 1.1 MiB. 1 queue in use left alone.\\n"), out
    assert f"{pids[0]} (dead)" in out, out
    assert len(os.listdir("/dev/shm")) == 1
assert os.listdir("/dev/shm") == []
""")


@needs_namespace
def test_clean_names_what_it_leaves_alone_and_why() -> None:
    in_shm_of_its_own("""
from ringcast._names import segment_name
junk = "/dev/shm/" + segment_name("junk")
open(junk, "w").write("no queue")
code, out = ringcast("clean")
assert code == 0 and out.endswith("\\nNothing to remove.\\n"), out
assert "left alone: it has only 8 bytes" in out, out
assert os.path.exists(junk)
""")


@needs_namespace
def test_doctor_warns_of_a_small_dev_shm_and_of_the_dead_and_changes_nothing() -> None:
    in_shm_of_its_own("""
leave("dead")
before = os.listdir("/dev/shm")
code, out = ringcast("doctor")
lines = [" ".join(line.split()) for line in out.splitlines()]
assert code == 0, out
assert any(line.startswith("warning shared memory /dev/shm has 64 MiB, 63 MiB of them free") for line in lines), out
assert any(line.startswith("-> ") and "--shm-size" in line and "--ipc=host" in line for line in lines), out
assert any(line.startswith("warning leftovers 1 queue of dead processes, 1.1 MiB") for line in lines), out
assert any(line.startswith("-> ringcast clean") for line in lines), out
assert any(line.startswith("ok queue ") for line in lines), out
assert lines[-1].endswith(" warnings."), out
assert os.listdir("/dev/shm") == before
""")


@needs_namespace
def test_doctor_s_exit_code_is_1_where_no_queue_can_be_made() -> None:
    in_shm_of_its_own("""
with open("/dev/shm/hog", "wb", buffering=0) as hog:
    try:
        while hog.write(bytes(1 << 16)):
            pass
    except OSError:
        pass
code, out = ringcast("doctor")
lines = [" ".join(line.split()) for line in out.splitlines()]
assert code == 1, out
assert any(line.startswith("problem shared memory") and "there is no room for a queue" in line for line in lines), out
assert any(line.startswith("problem queue a queue cannot be made: making queue segment") for line in lines), out
assert "problems" in lines[-1], out
assert os.listdir("/dev/shm") == ["hog"]
subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
code, out = ringcast("doctor")
assert code == 1 and "/dev/shm is not writable" in out, out
""")


@needs_namespace
def test_doctor_tells_a_dev_shm_on_a_disk_from_a_tmpfs() -> None:
    script = 'mount --bind /var/tmp /dev/shm; exec "$@"'
    command = ("unshare", "-m", "sh", "-c", script, "--", sys.executable, "-m", "ringcast", "doctor")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(line.startswith("warning shared memory") and "written to a disk" in line for line in lines), done

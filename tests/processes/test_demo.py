"""`ringcast demo` and `ringcast bench`, from end to end on a part of the input, and when something fails."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("numpy")

from ringcast.cli import app
from ringcast.cli.common import CommandError
from ringcast.cli.lab import demo_run
from ringcast.cli.lab.demo_corpus import Shares, count_tokens, standard_library
from ringcast.cli.lab.demo_run import Counted, Demo
from ringcast.cli.lab.team import Team
from ringcast.instruments import list_queues
from tests.support import DEADLINE_S, SHM, eventually

SMALL = ("--files", "12", "--rounds", "2", "--paced", "10")
ENDLESS = ("--files", "12", "--rounds", "10000000")
MARK = "RINGCAST_TEST_MARK"  # an environment variable by which a command's worker processes are found


def leftovers() -> set[str]:
    """Nameless queues of processes that have ended, and semaphores of the standard library."""
    found = list_queues().queues
    abandoned = {info["segment"] for info in found if info["name"] is None and not info["writer"]["alive"]}
    return abandoned | ({one for one in os.listdir(SHM) if one.startswith("sem.mp-")} if SHM.is_dir() else set())


def processes_with(mark: str) -> list[int]:
    """The processes that inherited the mark, where the system lets us look."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # gone, or not ours
    return found


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK, mark)
    return mark


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Afterwards shared memory holds what it held before."""
    before = leftovers()
    yield
    eventually(lambda: leftovers() <= before, f"a {SHM} without {leftovers() - before}")


def ringcast(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ringcast", *arguments]


def finished(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(ringcast(*arguments), capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_counts_right_and_compares() -> None:
    done = subprocess.run(
        ringcast("demo", "--workers", "3", *SMALL), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 source files" in done.stdout
    assert re.search(r"^ringcast +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^multiprocessing.Queue +\d", done.stdout, re.MULTILINE)
    tokens = re.search(r"one process: ([\d,]+) tokens", done.stdout)
    assert tokens is not None
    assert done.stdout.splitlines()[-1].startswith(f"OK: 3 workers counted {tokens[1]} tokens in 12 files")


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_can_leave_the_comparison_out() -> None:
    done = finished("demo", "--workers", "1", "--no-compare", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "OK: 1 worker counted" in done.stdout
    assert "multiprocessing" not in done.stdout


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("line", ["12 source files", "one process:", "2 workers:"])
def test_ctrl_c_ends_the_demo_with_130_and_leaves_nothing(mark: str, line: str) -> None:
    with subprocess.Popen(
        ringcast("demo", "--workers", "2", *ENDLESS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert any(one.startswith(line) for one in demo.stdout)  # reads until this line
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=DEADLINE_S)
    assert (demo.returncode, err) == (130, "")
    if Path("/proc").is_dir():
        eventually(lambda: not processes_with(mark), "an end of all processes of the demo")


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_to_the_whole_process_group_reaches_the_parent_alone(mark: str) -> None:
    with subprocess.Popen(
        ringcast("demo", "--workers", "2", *ENDLESS),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert any(one.startswith("one process:") for one in demo.stdout)  # its workers start now
        os.killpg(demo.pid, signal.SIGINT)
        _, err = demo.communicate(timeout=DEADLINE_S)
    assert (demo.returncode, err) == (130, "")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("via", [0, 1])
def test_a_killed_worker_is_named_and_nothing_hangs(via: int) -> None:
    with Demo(standard_library(12), 2, compare=True) as demo:
        os.kill(demo.team.pids[1], signal.SIGKILL)
        with pytest.raises(CommandError, match=r"worker 1 \(pid \d+\) failed: it was killed by SIGKILL"):
            demo.broadcast(demo.senders[via], 10_000_000, lambda steps: None)


@pytest.mark.usefixtures("nothing_left")
def test_a_worker_killed_while_it_counts_is_named() -> None:
    with Demo(standard_library(), 2, compare=False) as demo:
        targets = demo.team.pids[:1]

        def kill_at_the_first_answer(steps: int) -> None:
            while targets:
                os.kill(targets.pop(), signal.SIGKILL)

        with pytest.raises(CommandError, match=r"worker 0 \(pid \d+\) failed: it was killed by SIGKILL"):
            demo.count(kill_at_the_first_answer)


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_fails_when_the_counts_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    def miscount(files: Any, advance: Any) -> Counted:
        return Counted({file.path: count_tokens(file.data) + (file is files[-1]) for file in files}, 1.0)

    monkeypatch.setattr(demo_run, "count_alone", miscount)
    assert app.run(["demo", "--workers", "2", "--no-compare", *SMALL]) == 1
    out, err = capsys.readouterr()
    assert "OK" not in out
    assert "WRONG" in err


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """A command that runs in this process sets how signals end it."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def _raise_error(pipe: Any, rank: int) -> None:
    raise ValueError(f"no luck with {rank}")


def _leave_at_once(pipe: Any, rank: int) -> None:
    """A worker that has nothing to do."""


def _wait_for_ever(pipe: Any, rank: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it does not leave when it is asked to, either
    pipe.send("here")
    while True:
        signal.pause()


def test_a_worker_says_why_it_fails() -> None:
    with pytest.raises(CommandError, match=r"worker \d \(pid \d+\) failed: ValueError: no luck"):
        with Team(_raise_error, [(), ()]) as team:
            team.receive_all()


def test_a_worker_that_leaves_early_is_missed() -> None:
    with pytest.raises(CommandError, match=r"worker 0 \(pid \d+\) failed: it ended with exit code 0"):
        with Team(_leave_at_once, [()]) as team:
            team.receive(0)


def test_a_worker_that_does_not_leave_is_killed(mark: str) -> None:
    with Team(_wait_for_ever, [()]) as team:
        assert team.receive(0) == "here"
        (pid,) = team.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_every_worker_comes_to_the_same_shares_and_they_are_even() -> None:
    sizes = [len(file.data) for file in standard_library()]
    shares = Shares(4)
    loads = [0] * 4
    for size in sizes:
        loads[shares.owner(size)] += size
    assert sum(loads) == sum(sizes)
    assert max(loads) - min(loads) <= max(sizes)


def test_what_is_no_python_counts_as_far_as_it_goes() -> None:
    assert count_tokens(b"x = 1\n") == 6  # encoding, name, operator, number, new line, end
    assert count_tokens(b"x = (") == count_tokens(b"x = (")
    assert count_tokens(b"\xff\xfe\n") == 0


@pytest.mark.usefixtures("nothing_left")
def test_bench_measures_both() -> None:
    done = subprocess.run(
        ringcast("bench", "--seconds", "0.05"), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"messages/s +[12] +[\d,]+ +[\d,]+ +[\d.]+", done.stdout)) == 2

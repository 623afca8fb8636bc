"""`ringcast demo`, from end to end on a part of the input, and when something fails."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from ringcast.cli import app
from ringcast.cli.lab.demo_corpus import standard_library
from ringcast.cli.lab.ringcast_queue import Ringcast
from ringcast.instruments import list_queues
from tests.support import DEADLINE_S, SHM, eventually

SMALL = ("--files", "12", "--rounds", "1")
ENDLESS = ("--files", "12", "--rounds", "10000")
MARK = "RINGCAST_TEST_MARK"  # an environment variable by which a command's processes are found
BUSY = re.compile(r"ringcast: warning: the machine was busy: .*\n")


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


def complaints(done: subprocess.CompletedProcess[str]) -> str:
    """What it says on the standard error, but for the machine, which other tests may keep busy."""
    return BUSY.sub("", done.stderr)


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_leads_with_the_broadcast_and_compares() -> None:
    done = finished("demo", "--workers", "3", *SMALL)
    assert (done.returncode, complaints(done)) == (0, "")
    first, _, head, ours, theirs, words, *_, last = done.stdout.splitlines()
    assert re.fullmatch(r"12 source files of Python [\d.]+\S*, [\d.]+ MB, broadcast to 3 workers", first)
    assert head.split() == ["files/s", "MB/s", "to", "each", "CPU", "a", "file"]
    assert re.fullmatch(r"ringcast( +[\d.,]+ \S+){3}", ours)
    assert re.fullmatch(r"multiprocessing.Queue( +[\d.,]+ \S+){3}", theirs)
    assert re.fullmatch(r"ringcast is( +([\d.,]+x (faster|slower|less|more)|same)){3}", words)
    assert re.fullmatch(r"OK: each of 3 workers received [\d,]+ files, each byte for byte as it was sent.", last)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("nothing_left")
def test_the_demo_can_leave_the_comparison_out() -> None:
    done = finished("demo", "--workers", "1", "--no-compare", *SMALL)
    assert (done.returncode, complaints(done)) == (0, "")
    assert "OK: 1 worker received" in done.stdout
    assert "multiprocessing" not in done.stdout


def test_the_demo_needs_no_package_but_the_command_line_s() -> None:
    entry = (
        "import sys; sys.modules.update(dict.fromkeys(('numpy', 'torch', 'matplotlib', 'msgspec')))\n"
        f"from ringcast.cli import main; sys.exit(main(['demo', *{list(SMALL)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", entry], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, complaints(done)) == (0, "")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("how", ["to the parent", "to all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_demo_and_leaves_nothing(mark: str, number: signal.Signals, how: str) -> None:
    with subprocess.Popen(
        ringcast("demo", "--workers", "2", *ENDLESS),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert "12 source files" in demo.stdout.readline()
        eventually(lambda: len(processes_with(mark)) == 4 or not Path("/proc").is_dir(), "a writer and two workers")
        (os.killpg if how == "to all" else os.kill)(demo.pid, number)
        _, err = demo.communicate(timeout=DEADLINE_S)
    assert (demo.returncode, err) == (130 if number == signal.SIGINT else 128 + number, "")
    if Path("/proc").is_dir():
        eventually(lambda: not processes_with(mark), "an end of all processes of the demo")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """A command that runs in this process sets how signals end it."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("nothing_left", "restored_signals")
def test_the_demo_fails_when_a_file_arrives_that_was_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    altered = standard_library(12)[5]

    def altering(self: Ringcast, queue: MessageQueue) -> Callable[[Any], object]:
        warm = False

        def send(message: Any) -> None:
            nonlocal warm
            warm = warm or not message["path"]  # the mark at the end of the warm-up
            whole = not warm or message["path"] != altered.path
            queue.enqueue(message if whole else message | {"source": message["source"][:-1] + b"!"})

        return send

    monkeypatch.setattr(Ringcast, "send_with", altering)
    assert app.run(["demo", "--workers", "2", "--no-compare", *SMALL]) == 1
    out, err = capsys.readouterr()
    assert "OK" not in out
    assert re.search(r"ringcast: through ringcast: CrewError: reader [01] \(pid \d+\) failed: CheckError", err)


def test_the_corpus_is_the_standard_library_without_its_tests() -> None:
    files = standard_library()
    paths = [file.path for file in files]
    assert paths == sorted(paths)
    assert {"os.py", os.path.join("json", "decoder.py")} <= set(paths)
    assert not any(path.startswith(("test" + os.sep, "site-packages")) for path in paths)
    assert standard_library(3) == files[:3]

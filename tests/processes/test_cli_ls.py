"""`ringcast ls` as a person sees it, at real pseudo-terminals, and as a program reads it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from tests.support import DEADLINE_S, Child, Link, run_python, started_pids, unique_name

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A command at a terminal of so many columns."""

    def __init__(self, columns: int, *arguments: str) -> None:
        self._screen, line = pty.openpty()
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringcast", *arguments], stdin=line, stdout=line, stderr=line,
            env={**env, "TERM": "xterm", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(line)
        started_pids.add(self.process.pid)
        self.text = ""

    def read_until(self, what: str) -> None:
        while what not in self.text:
            assert self._read(), f"{what!r} is not in {self.text!r}"

    def finish(self) -> int:
        while self._read():
            pass
        return self.process.wait(DEADLINE_S)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text).splitlines()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def _read(self) -> bool:
        try:
            piece = os.read(self._screen, 65536).decode(errors="replace")
        except OSError:  # nobody has the terminal open any more
            return False
        self.text += piece
        return bool(piece)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    begun: list[Terminal] = []

    def start(columns: int, *arguments: str) -> Terminal:
        begun.append(Terminal(columns, *arguments))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def _hold(link: Link, name: str) -> None:
    queue = MessageQueue(1, name=name)
    link.send(queue.segment)
    link.recv()


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_shows_what_one_looks_for(terminal: Callable[..., Terminal], columns: int) -> None:
    name = unique_name("ls")
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name, 1), MessageQueue(1) as nameless:
        writer.enqueue_many([b"x"] * 7)
        screen = terminal(columns, "ls")
        assert screen.finish() == 0
        lines = screen.lines
        (row,) = [line.split() for line in lines if line.startswith(name)]
        assert row[:6] == [name, "1", "of", "2", "7", str(os.getpid())]
        assert writer.segment not in screen.text
        assert any(line.startswith(nameless.segment[:12]) for line in lines)
        assert max(map(len, lines)) <= columns


def test_a_long_name_is_shortened_before_any_number(terminal: Callable[..., Terminal]) -> None:
    name = unique_name("ls") + "-" + "n" * 60
    with MessageQueue(1, name=name), MessageQueue.attach(name):
        screen = terminal(60, "ls")
        assert screen.finish() == 0
        (line,) = [line for line in screen.lines if "\N{HORIZONTAL ELLIPSIS}" in line]
        assert line.split()[1:] == ["1", "of", "1", "0", str(os.getpid())]


def test_a_writer_that_is_stopped_or_dead_is_marked(start: Callable[..., Child]) -> None:
    name = unique_name("ls")
    child = start(_hold, name)
    child.receive()
    child.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert f"{child.pid} (stopped)" in run_python(RINGCAST, "ls", name).stdout
    child.kill()
    assert f"{child.pid} (dead)" in run_python(RINGCAST, "ls", "--all").stdout
    assert run_python(RINGCAST, "clean").returncode == 0


def test_one_queue_shows_each_of_its_readers() -> None:
    name = unique_name("ls")
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name, 1):
        writer.enqueue_many([b"x"] * 3)
        done = run_python(RINGCAST, "ls", name)
        rows = [line.split() for line in done.stdout.splitlines()]
        assert done.returncode == 0
        assert ["1", str(os.getpid()), "active", "3", "0", "0", "B", "0", "0", "running"] in rows
        assert ["writer", str(os.getpid())] in rows
        assert json.loads(run_python(RINGCAST, "ls", name, "--json").stdout)["name"] == name


def test_a_queue_that_is_not_there_is_1_and_one_line_with_the_nearest_name() -> None:
    name = unique_name("lsqueue")
    with MessageQueue(1, name=name):
        done = run_python(RINGCAST, "ls", name[:-1] + "x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("ringcast: there is no queue ")
    assert f"Did you mean '{name}'?" in done.stderr


def test_watch_redraws_until_ctrl_c_and_gives_the_cursor_back(terminal: Callable[..., Terminal]) -> None:
    name = unique_name("ls")
    with MessageQueue(1, name=name), MessageQueue.attach(name):
        screen = terminal(80, "ls", "--watch")
        screen.read_until("RATE")  # there is one from the second look on
        screen.process.send_signal(signal.SIGINT)
        assert screen.finish() == 130
    assert screen.text.rindex(SHOW_CURSOR) > screen.text.rindex(HIDE_CURSOR)
    assert "Traceback" not in screen.text


def test_watch_and_json_do_not_go_together() -> None:
    done = run_python(RINGCAST, "ls", "--watch", "--json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("ringcast: --json and --watch do not go together")


def test_pub_at_a_terminal_says_what_it_waits_for(terminal: Callable[..., Terminal]) -> None:
    name = unique_name("ls")
    screen = terminal(80, "pub", name, "--readers", "2")
    screen.read_until(f"waiting for 2 readers: ringcast sub {name}")
    with MessageQueue.attach(name, 1, timeout=DEADLINE_S):
        screen.read_until("still missing: rank 0")
        with MessageQueue.attach(name, 0, timeout=DEADLINE_S):
            screen.read_until("type lines, Ctrl-D ends")
            screen.process.send_signal(signal.SIGINT)
            assert screen.finish() == 130


def test_a_shell_completes_the_names_of_queues() -> None:
    name = unique_name("ls")
    assert "_RINGCAST_COMPLETE=bash_complete" in run_python(RINGCAST, "completion", "bash").stdout
    with MessageQueue(1, name=name):
        for command in ("ls", "sub"):
            asked = {"_RINGCAST_COMPLETE": "bash_complete", "COMP_WORDS": f"ringcast {command} {name[:-1]}"}
            done = run_python(RINGCAST, env={**asked, "COMP_CWORD": "2"})
            assert f"plain,{name}" in done.stdout.splitlines()

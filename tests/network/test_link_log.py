"""The log of link processes: what is in it, where it goes, and what can become of its file."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ringcast import MessageQueue
from ringcast.cli.app import cli
from ringcast.errors import LinkError, RingcastError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _launch, _log
from ringcast.net.link._desk import new_job
from ringcast.net.link._keys import key_of
from ringcast.net.link._launch import link_of
from ringcast.net.link._log import MOST_ALIKE, LinkLog, LogFile
from tests.network.linked import Writer
from tests.network.machines import visited
from tests.network.proxy import Proxy
from tests.support import DEADLINE_S, ROOT, eventually, run_python, runs

VARIABLE = "RINGCAST_LINK_LOG"
HEAD = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (INFO|WARNING|ERROR|CRITICAL) "
    r"job=([a-z0-9]+) pid=(\d+) stream=([0-9a-f]{16}|-) host=(\S+) (.+)"
)


@contextmanager
def queue_of_a_job_of_its_own(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[tuple[MessageQueue, str]]:
    """A queue that a link, which starts now, takes elsewhere; and its job. Afterwards that link has ended."""
    job = new_job()
    monkeypatch.setattr("ringcast.net.link._ends._job", job)
    queue: MessageQueue = MessageQueue(1, 0, connect_ip="127.0.0.1", **options)
    queue.export_handle()
    with link_of(job, Deadline(DEADLINE_S)) as place:
        pid = place.link_pid
    try:
        yield queue, job
    finally:
        with suppress(RingcastError):
            queue.close(0)
        eventually(lambda: not runs(pid), "the end of the link")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "links.log"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def address_of(queue: MessageQueue) -> tuple[str, int]:
    ip, _, port = str(queue.export_handle().remote_address).removeprefix("tcp://").rpartition(":")
    return ip, int(port)


def bother(address: tuple[str, int], count: int) -> None:
    for _ in range(count):
        with socket.create_connection(address) as stranger, suppress(ConnectionError):
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(200))
            stranger.recv(100)


def test_a_stream_s_life_is_in_the_log_and_no_secret(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "5ecre7" * 8
    monkeypatch.setenv("RINGCAST_SECRET", secret)
    with queue_of_a_job_of_its_own(monkeypatch) as (queue, job):
        with MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
            # Before that it would be said to be 1 message behind.
            eventually(lambda: [row["state"] for row in queue.stats()["readers"]] == ["active"], "the reader's row")
            queue.enqueue("one")
            assert reader.dequeue(timeout=DEADLINE_S) == "one"
            pid = queue.stats()["links"][0]["pid"]
    assert file.stat().st_mode & 0o777 == 0o600
    found = [HEAD.fullmatch(line) for line in file.read_text().splitlines()]
    assert all(found), file.read_text()
    lines = [line for line in found if line is not None]
    assert {(line[2], int(line[3])) for line in lines} == {(job, pid)}
    assert "is up" in lines[0][6]
    assert lines[-1][6] == f"no end is left: the link of job '{job}' ends"
    streams = [line for line in lines if line[4] != "-"]
    assert {(line[4], line[5]) for line in streams} == {(streams[0][4], socket.gethostname())}
    said = [line[6] for line in streams]
    for part in (
        f"rank 0 (pid {os.getpid()}) has its place there",
        f"rank 0 (pid {os.getpid()}) has its place here",
        f"rank 0 (pid {os.getpid()}) is attached there, 0 messages behind",
    ):
        assert part in said, said
    for pattern in ("begins, over 127", "begins, from 127", "ends: .*; 1 messages"):
        assert [one for one in said if re.match(pattern, one)], (pattern, said)
    assert secret not in file.read_text()


def test_what_a_fault_leaves_in_the_log_has_a_traceback_and_not_the_key(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "import ringcast.net.link._service as s; s.Service.write = lambda *_: 1 / 0\n"
    monkeypatch.setattr(_launch, "_BOOT", _launch._BOOT.replace("born(job)", fault + "born(job)"))
    keys: list[bytes] = []

    def noted(*given: Any) -> bytes:
        keys.append(key_of(*given))
        return keys[-1]

    monkeypatch.setattr("ringcast.net.link._keys.key_of", noted)
    monkeypatch.setattr("ringcast.net.link._ends._job", new_job())
    with pytest.raises(LinkError, match="ZeroDivisionError"):
        MessageQueue(1, 0, connect_ip="127.0.0.1").export_handle()
    eventually(lambda: "ends" in file.read_text(), "the end of the link")
    said = file.read_text()
    assert "\n    Traceback (most recent call last)" in said
    assert "\n    ZeroDivisionError: division by zero" in said
    assert keys[0].hex() not in said


def test_a_thread_s_fault_is_in_the_log(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = "import ringcast.net.link._listener as l; l.Listener._next_deadline = lambda self: 1 / 0\n"
    monkeypatch.setattr(_launch, "_BOOT", _launch._BOOT.replace("born(job)", fault + "born(job)"))
    with queue_of_a_job_of_its_own(monkeypatch):
        eventually(lambda: "ZeroDivisionError" in file.read_text(), "the fault in the log")
        assert "the thread ringcast-listener has ended by a fault" in file.read_text()


@pytest.mark.usefixtures("machine_server")
def test_cuts_returns_and_losses_are_in_the_log_with_the_peer_s_host(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]

    def lines(file: Path, what: str, host: str) -> list[str]:
        heads = [HEAD.fullmatch(line) for line in file.read_text().splitlines()]
        return [head[1] for head in heads if head is not None and head[5] == host and re.match(what, head[6])]

    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1, env={VARIABLE: str(files[0])})
        proxy = Proxy(c, writer.address)
        reader = writer.reader(b, 0, proxy=proxy, env={VARIABLE: str(files[1])})
        writer.does("send", 0, 3)
        assert reader.does("take", 0, 3) == 3
        proxy.reset()
        writer.does("send", 3, 3)
        assert reader.does("take", 3, 3) == 3
        for file, peer in zip(files, (b.host, a.host), strict=True):
            for what in ("is cut: .+", r"is back after \d+\.\d s, "):
                eventually(partial(lines, file, what, peer), f"the line {what!r}")
        (link,) = writer.links(b)
        b.signal(link, signal.SIGKILL)
        eventually(lambda: lines(files[0], "is lost: its link has not come back", b.host), "the loss in the log")
        assert set(lines(files[0], "is lost", b.host)) == {"WARNING"}
        assert not lines(files[0], "ends", b.host)
        writer.gives_up()


@pytest.mark.usefixtures("machine_server")
def test_a_reader_whose_machine_has_no_way_to_the_writer_s_yet_comes_once_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "b"
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        b.unplug()
        reader = writer.reader(b, 0, wait=False, timeout=DEADLINE_S, env={VARIABLE: str(file)})
        eventually(lambda: file.exists() and "there is no way to" in file.read_text(), "that it has been tried")
        b.plug()
        reader.attached()
        writer.does("send", 0, 3)
        assert reader.does("take", 0, 3) == 3
        writer.does("close")


@pytest.mark.parametrize("what", ["no folder", "a folder", "a pipe"])
def test_a_file_that_cannot_be_written_is_an_error_of_who_starts_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "log"
    if what == "no folder":
        path = path / "log"
    elif what == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(LinkError, match=rf"{VARIABLE}='{path}': a link's log cannot be written there: \w"):
        link_of(new_job(), Deadline(DEADLINE_S))


def test_a_pipe_that_is_read_is_no_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reading = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(LinkError, match="no ordinary file"):
        LogFile(str(tmp_path / "log"))
    os.close(reading)


def test_a_relative_path_is_one_of_who_starts_the_link(tmp_path: Path) -> None:
    script = """
import os, sys
os.chdir(sys.argv[1]); os.environ["RINGCAST_LINK_LOG"] = "links.log"
from ringcast.net._deadline import Deadline
from ringcast.net.link._keys import key_of
from ringcast.net.link._launch import link_of
link_of(sys.argv[2], Deadline(60)).close()
"""
    job = new_job()
    done = run_python(script, str(tmp_path), job)
    assert done.returncode == 0, done.stderr
    eventually(lambda: f"the link of job '{job}' ends" in (tmp_path / "links.log").read_text(), "its end")


def test_a_successor_goes_on_in_the_same_file(file: Path) -> None:
    job = new_job()
    with link_of(job, Deadline(DEADLINE_S)) as place:
        first = place.link_pid
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not runs(first))
    with link_of(job, Deadline(DEADLINE_S)) as place:
        second = place.link_pid
    eventually(lambda: "ends" in file.read_text(), "the end of the second one")
    pids = [int(head[3]) for head in map(HEAD.fullmatch, file.read_text().splitlines()) if head is not None]
    assert sorted(set(pids), key=pids.index) == [first, second]


def test_of_a_flood_of_strangers_a_few_are_named_and_all_are_counted(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queue_of_a_job_of_its_own(monkeypatch) as (queue, _):
        bother(address_of(queue), 3 * MOST_ALIKE)
    lines = [line for line in file.read_text().splitlines() if "stranger" in line]
    assert len(lines) == MOST_ALIKE + 1
    assert "the stranger 127.0.0.1:" in lines[0]
    assert f"({2 * MOST_ALIKE} lines like this one were left out)" in lines[-1]


def test_without_a_file_the_last_lines_are_there_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with queue_of_a_job_of_its_own(monkeypatch) as (queue, job):
        bother(address_of(queue), 1)
        found = CliRunner().invoke(cli, ["link", job, "--log"])
        assert found.exit_code == 0
        assert all(map(HEAD.fullmatch, found.output.splitlines()))
        assert "is up" in found.output.splitlines()[0]
        assert "the stranger 127.0.0.1:" in found.output
    gone = subprocess.run(
        [sys.executable, "-m", "ringcast", "link", job, "--log"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert gone.returncode == 1
    assert job in gone.stderr


def test_who_wants_another_log_than_the_link_has_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with queue_of_a_job_of_its_own(monkeypatch) as (queue, _):
        assert not caplog.records
        other = file.with_name("other.log")
        monkeypatch.setenv(VARIABLE, str(other))
        with MessageQueue.create_from_handle(queue.export_handle(), 0):
            (said,) = [record for record in caplog.records if record.name == "ringcast.link"]
            assert f"its log goes to {file}: {VARIABLE}={other} has no effect" in said.getMessage()
        assert not other.exists()


# --- The file.


def test_a_file_that_is_full_becomes_the_older_one_and_links_that_share_it_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    monkeypatch.setattr(_log, "MOST_BYTES", 3000)
    logs = [LogFile(str(path)) for _ in range(3)]
    for number in range(60):
        logs[number % 3].write(f"{number:099}\n")
    for one in logs:
        one.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    said = ((tmp_path / "log.1").read_text() + path.read_text()).splitlines()
    assert [int(line) for line in said] == list(range(60))
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_disk_that_logs_take_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "MOST_BYTES", 3000)
    log = LogFile(str(tmp_path / "log"))
    for number in range(1000):
        log.write(f"{number:099}\n")
    log.close()
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 2 * (3000 + 100)
    assert f"{999:099}\n" in (tmp_path / "log").read_text()


def test_a_file_that_somebody_renames_is_followed_by_a_new_one(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"))
    log.write("one\n")
    (tmp_path / "log").rename(tmp_path / "log.of.yesterday")
    log.write("two\n")
    log.close()
    assert [(tmp_path / name).read_text() for name in ("log.of.yesterday", "log")] == ["one\n", "two\n"]


def test_lines_that_cannot_be_written_are_counted_when_others_can(tmp_path: Path) -> None:
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    log = LogFile(str(folder / "log"))
    folder.rename(away)
    log.write("one\n")
    log.write("two\n")
    away.rename(folder)
    log.write("three\n")
    log.close()
    assert (folder / "log").read_text() == "(2 lines could not be written here)\nthree\n"


# --- The lines.


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    told = LinkLog("1a", None)

    def say(message: Any, *arguments: Any, **extra: Any) -> list[str]:
        before = len(told.last)
        record = logging.getLogger("ringcast.link").makeRecord(
            "ringcast.link", logging.WARNING, "", 0, message, arguments, extra.pop("exc_info", None), extra=extra
        )
        told.handle(record)
        return told.last[before:]

    yield say
    told.close()


def test_what_a_peer_says_cannot_look_like_a_line_of_the_link_s(said: Callable[..., list[str]]) -> None:
    (line,) = said("it says %s", "x\n2026-01-01 all is well\r\x1b[2J", stream="5d8bc45489a5b7e3", host="b\nc d")
    assert "\n" not in line
    assert "\x1b" not in line
    assert "host=b\\nc" in line
    try:
        raise ValueError("x\n2026-01-01 all is well")
    except ValueError:
        (line,) = said("a fault", exc_info=sys.exc_info())
    assert all(one.startswith("    ") for one in line.splitlines()[1:])


def test_a_record_that_is_wrong_is_in_the_log_as_it_is(said: Callable[..., list[str]]) -> None:
    (line,) = said("%d", "x")
    assert "'%d' (which cannot be written: TypeError" in line


def test_each_stream_has_its_lines(said: Callable[..., list[str]]) -> None:
    for stream in ("a", "b", "-"):
        assert sum(len(said("is cut: %d", number, stream=stream)) for number in range(MOST_ALIKE + 5)) == MOST_ALIKE
    assert len(said("is back")) == 1

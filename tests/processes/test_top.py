"""`ringcast top`: what it shows of real queues and processes, at a real terminal; nobody is disturbed or hangs it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue, WorkerGroup
from ringcast.errors import QueueTimeoutError
from ringcast.instruments import Observer, Overview, sweep
from ringcast.pool import PoolServer
from tests.processes.test_cli_ls import RINGCAST, Terminal
from tests.support import SHM, Background, Child, Link, broadcast, eventually, run_python, unique_name

FRAME = "\x1b[1;1H"


def once(*arguments: str) -> Overview:
    """What `top --once --json` says."""
    result = run_python(RINGCAST, "top", "--once", "--json", "--interval", "0.1", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    found: Overview = json.loads(result.stdout)
    return found


def of(overview: Overview, name: str) -> Any:
    (queue,) = [one for one in overview["queues"] if one["name"] == name]
    return queue


def _read(link: Link, name: str, messages: int) -> None:
    """So many, and then none."""
    queue = MessageQueue.attach(name)
    link.send("attached")
    for _ in range(messages):
        queue.dequeue()
    link.send("read")
    link.recv()


def _write_without_end(link: Link, name: str) -> None:
    queue = MessageQueue(1, max_chunks=4, name=name)
    link.send("made")
    queue.wait_until_ready()
    while True:
        queue.enqueue(b"x")


def _read_when_told(link: Link, name: str) -> None:
    queue = MessageQueue.attach(name)
    link.send("attached")
    link.recv()
    queue.dequeue(cancel=None)


def test_rates_lag_memory_and_processes_are_told(start: Callable[..., Child]) -> None:
    name = unique_name("top")
    with MessageQueue(1, name=name) as writer:
        child = start(_read, name, 1)
        child.receive()
        writer.wait_until_ready()
        writer.enqueue_many([b"x" * 100] * 4)
        child.receive()
        observer = Observer()
        observer.look()
        writer.enqueue(b"y")
        queue = of(observer.look(), name)
        assert queue["rate"] > 0
        assert queue["byte_rate"] > queue["rate"] / 2
        overview = once()
        queue = of(overview, name)
        assert (queue["messages"], queue["queued"], queue["rate"], queue["lost_wakeups"]) == (5, 4, 0.0, 0)
        assert [(reader["rank"], reader["pid"], reader["behind"]) for reader in queue["readers"]] == [(0, child.pid, 4)]
        assert [(end["role"], end["pid"]) for end in queue["ends"]] == [("writer", os.getpid()), ("reader", child.pid)]
        assert overview["lost_wakeups"] == 0
        assert (overview["seconds"] or 0) > 0.1
        processes = {one["pid"]: one for one in overview["processes"]}
        assert processes[child.pid]["roles"] == [f"reads {name} as 0"]
        assert processes[os.getpid()]["roles"] == [f"writes {name}"]
        for one in processes.values():
            assert one["cpu"] is not None
            assert one["cpu"] >= 0
            assert (one["resident_bytes"] or 0) > 1 << 20


def test_looking_stores_nothing_and_takes_no_seat() -> None:
    name = unique_name("top")
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name) as reader:
        writer.enqueue_many([b"x"] * 3)
        before = (SHM / writer.segment).read_bytes()
        once()
        observer = Observer()
        for _ in range(3):
            observer.look()
            observer.glance()
        assert (SHM / writer.segment).read_bytes() == before
        with MessageQueue.attach(name) as second:  # there was room for one more, and there is
            assert second.stats()["rank"] == 1
            assert reader.dequeue(1) == b"x"


def test_a_writer_that_waits_for_a_stopped_reader_is_said_to(start: Callable[..., Child]) -> None:
    name = unique_name("top")
    writer = start(_write_without_end, name)
    writer.receive()
    reader = start(_read, name, 1)
    assert [reader.receive(), reader.receive()] == ["attached", "read"]
    reader.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, reader.pid, os.WSTOPPED | os.WNOWAIT)

    def blocked() -> list[Any]:
        return [one for one in once()["blocked"] if one["queue"] == name]

    (found,) = eventually(blocked)
    assert (found["cause"], found["waiter_pid"], found["holder_pid"]) == ("room", writer.pid, reader.pid)
    assert found["reason"].startswith("is stopped (kill -CONT")
    overview = once()
    assert {one["pid"]: one["state"] for one in overview["processes"]}[reader.pid] == "stopped"
    assert of(overview, name)["ends"][0]["waits"]["room"] > 0
    table = run_python(RINGCAST, "top", "--once", "--interval", "0.1").stdout
    assert f"BLOCKED  {name}: writer {writer.pid} waits for rank 0 (pid {reader.pid}), which is stopped" in table
    reader.kill()  # its writer finds out, raises, and ends in order
    with pytest.raises(AssertionError, match="ReaderDiedError"):
        writer.join()
    assert [one for one in once()["queues"] if one["name"] == name] == []


def test_readers_that_wait_for_a_stopped_writer_are_said_to(start: Callable[..., Child]) -> None:
    name = unique_name("top")
    writer = start(_write_without_end, name)
    writer.receive()
    with MessageQueue.attach(name) as reader:
        reader.dequeue()
        writer.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
        (found,) = [one for one in once()["blocked"] if one["queue"] == name]
        assert (found["cause"], found["waiter_pid"], found["holder_pid"]) == ("message", os.getpid(), writer.pid)
        assert found["waiter"] == "rank 0"
        assert found["reason"].startswith("is stopped")
        writer.kill()
        (found,) = [one for one in once()["blocked"] if one["queue"] == name]
        assert found["reason"] == "has died"


def test_who_holds_large_messages_up_is_told() -> None:
    numpy = pytest.importorskip("numpy")
    name = unique_name("top")
    array = numpy.zeros(1 << 20, "u1")
    with broadcast(1, copy=False, max_bytes=8 << 20, name=name) as (writer, (reader,)):
        views = []
        with suppress(QueueTimeoutError):
            while True:
                writer.enqueue(array, 0.1)
                views.append(reader.dequeue(1))
        waits = Background(writer.enqueue, array)
        observer = Observer()

        def held() -> Any:
            return [one for one in observer.look()["blocked"] if one["queue"] == name]

        (found,) = eventually(held)
        assert (found["cause"], found["holder"]) == ("memory", f"rank 0 (pid {os.getpid()})")
        assert found["reason"].startswith(f"holds {len(views)} views of ")
        views.clear()
        waits.result()


def test_a_writer_that_waits_for_readers_says_how_many() -> None:
    name = unique_name("top")
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name, 0):
        waits = Background(writer.wait_until_ready)
        observer = Observer()
        (found,) = eventually(lambda: [one for one in observer.look()["blocked"] if one["queue"] == name])
        assert (found["cause"], found["holder"], found["reason"]) == ("readers", "1 reader", "has not come yet")
        with MessageQueue.attach(name, 1):
            waits.result()


def test_worker_groups_and_pools_are_shown() -> None:
    pool = unique_name("top")
    with WorkerGroup(dict, 2) as group, PoolServer(pool, "1MiB"):
        group.call("get", "key")
        overview = once()
        (found,) = [one for one in overview["groups"] if one["pid"] == os.getpid()]
        assert [worker["rank"] for worker in found["workers"]] == [0, 1]
        assert [worker["pid"] for worker in found["workers"]] == [one["pid"] for one in group.stats()["ranks"]]
        assert found["calls"] >= 1
        assert all(worker["answers"] >= 1 for worker in found["workers"])
        (served,) = [one for one in overview["pools"] if one["name"] == pool]
        assert served["rates"]["lookups"] == 0.0
        table = run_python(RINGCAST, "top", "--once", "--interval", "0.1").stdout
        assert f"of {os.getpid()}" in table
        assert f"{os.getpid()} (living)" in table


# --- the live screen


class Live(Terminal):
    """`ringcast top` at a terminal."""

    def press(self, keys: str, shows: str) -> str:
        """The frame that has it, after these keys."""
        self.text = ""
        os.write(self._screen, keys.encode())
        return self.until(shows)

    def until(self, what: str) -> str:
        while what not in (frame := self.text.rpartition(FRAME)[2]):
            assert self._read(), f"{what!r} is not in {frame!r}"
        return frame


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    begun: list[Live] = []

    def begin(*arguments: str) -> Live:
        begun.append(Live(110, "top", "--interval", "0.2", *arguments))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def test_keys_sort_filter_freeze_open_and_quit(live: Callable[..., Live]) -> None:
    one, two = unique_name("alpha"), unique_name("beta")
    with MessageQueue(1, name=one) as first, MessageQueue(1, name=two), MessageQueue.attach(one):
        first.enqueue_many([b"x"] * 3)
        screen = live()
        frame = screen.until("q quit")
        assert one in frame
        assert two in frame
        assert "every 0.2 s" in frame
        assert "s sort (blocked)" in frame
        screen.press("s", "s sort (rate)")
        screen.press("r", "s sort (rate, backwards)")
        assert two not in screen.press(f"/{one}", f"only rows with: {one}_")
        frame = screen.press("\r", f"only rows with {one!r}")
        assert two not in frame
        screen.press(" ", "frozen")
        first.enqueue(b"y")
        screen.press("\r", "lost wake-ups 0")
        frame = screen.press("s", "(queued, backwards)")
        assert f"queue    {one}" in frame
        assert "queued   3 of 10" in frame
        assert "RANK" in frame
        assert str(os.getpid()) in frame
        screen.press(" ", "queued   4 of 10")
        screen.press("\x1b", "only rows with")
        screen.press("\x1b", two)
        screen.press("q", "\x1b[?1049l")
        assert screen.finish() == 0
        assert "\x1b[?25h" in screen.text


def test_the_screen_goes_on_beside_a_stopped_and_a_killed_process(
    live: Callable[..., Live], start: Callable[..., Child]
) -> None:
    name = unique_name("top")
    with MessageQueue(1, max_chunks=2, name=name) as writer:
        child = start(_read_when_told, name)
        child.receive()
        screen = live("--filter", name)
        screen.until("1/1")
        child.signal(signal.SIGSTOP)
        screen.until("stopped")
        child.kill()
        screen.until("0/1")
        writer.enqueue(b"x")
        screen.press("q", "\x1b[?1049l")
        assert screen.finish() == 0


def test_arrows_choose_what_is_opened(live: Callable[..., Live]) -> None:
    one, two = unique_name("alpha"), unique_name("beta")
    with MessageQueue(1, name=one), MessageQueue(1, name=two):
        screen = live("--sort", "name")
        screen.until(two)
        screen.press("\x1b[B\r", f"queue    {two}")
        screen.press("\x1b[A", f"queue    {one}")
        screen.press("q", "\x1b[?1049l")
        assert screen.finish() == 0


def test_ctrl_c_leaves_the_terminal_as_it_was(live: Callable[..., Live]) -> None:
    screen = live()
    screen.until("q quit")
    screen.text = ""
    screen.process.send_signal(signal.SIGINT)
    screen.until("\x1b[?1049l")
    assert screen.finish() == 130
    assert "Traceback" not in screen.text


def test_without_a_terminal_it_says_what_there_is_instead() -> None:
    result = run_python(RINGCAST, "top")
    assert result.returncode == 2
    assert "--once" in result.stderr
    result = run_python(RINGCAST, "top", "--json")
    assert result.returncode == 2
    assert "--once --json" in result.stderr


def test_a_queue_that_is_made_anew_under_its_name_begins_anew() -> None:
    name = unique_name("top")
    observer = Observer()
    with MessageQueue(1, name=name) as queue:
        queue.close(0)
    with MessageQueue(1, name=name) as queue:
        first = of(observer.look(), name)["epoch"]
        queue.close(0)
    with MessageQueue(1, name=name):
        again = of(observer.look(), name)
        assert again["epoch"] != first
        assert again["rate"] is None


def test_a_look_beside_a_busy_queue_sees_no_lost_wake_up(start: Callable[..., Child]) -> None:
    name = unique_name("top")
    writer = start(_write_without_end, name)
    writer.receive()
    observer = Observer()
    with MessageQueue.attach(name) as reader:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            for _ in range(50):
                reader.dequeue()
            observer.glance()
            observer.look()
        assert of(observer.look(), name)["lost_wakeups"] == 0
        writer.kill()
    sweep()

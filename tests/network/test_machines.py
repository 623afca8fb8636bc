"""The machines of the tests do what other tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from ringcast import MessageQueue
from tests.network.machines import Machine, Worker, machines
from tests.network.proxy import DOWN, UP, Proxy
from tests.support import Link, eventually

pytestmark = pytest.mark.usefixtures("machine_server")


def _listen(link: Link, ip: str) -> None:
    """Sends back what comes, on one connection after the other; tells what ended each."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 4000), family=family) as listening:
        link.send(socket.gethostname())
        while True:
            connection, _ = listening.accept()
            with connection:
                try:
                    while data := connection.recv(1 << 16):
                        connection.sendall(data)
                    link.send("end")
                except ConnectionResetError:
                    link.send("reset")  # the next one is accepted; at the end this process is killed


def _dial(link: Link, address: tuple[str, int]) -> None:
    """Sends what it is told to; tells what comes back in time, or what happened."""
    connection = socket.create_connection(address, timeout=10)
    link.send("connected")
    while True:
        nbytes, expected, seconds = link.recv()
        connection.settimeout(seconds)
        failed: list[OSError] = []
        sender = threading.Thread(target=_send, args=(connection, nbytes, failed))
        sender.start()
        received = 0
        try:
            while received < expected and (data := connection.recv(1 << 16)):
                received += len(data)
            if received < expected:
                sender.join()
                if failed:  # a reset is told once, and the sender heard it
                    raise ConnectionResetError
            link.send(received)
        except TimeoutError:
            link.send("nothing")
        except ConnectionResetError:
            link.send("reset")
            connection = socket.create_connection(address, timeout=10)
        sender.join()


def _send(connection: socket.socket, nbytes: int, failed: list[OSError]) -> None:
    try:
        connection.sendall(bytes(nbytes))
    except OSError as error:
        failed.append(error)


def _echo(a: Machine, b: Machine, ip: str = "") -> Worker:
    listening = a.start(_listen, ip or a.ip)
    assert listening.receive() == a.host
    dialing = b.start(_dial, (ip or a.ip, 4000))
    assert dialing.receive() == "connected"
    return dialing


def test_machines_reach_each_other_and_count_what_goes_over_the_wire() -> None:
    with machines(2) as (a, b):
        for ip in (a.ip, a.ip6):
            before = a.wire_bytes()
            assert _echo(a, b, ip).ask((100_000, 100_000, 10)) == 100_000
            sent, received = (now - then for now, then in zip(a.wire_bytes(), before, strict=True))
            assert 100_000 < sent < 130_000
            assert 100_000 < received < 130_000
            for worker in (*a.workers, *b.workers):
                worker.kill()
        assert a.link_local != b.link_local


def test_a_wire_is_cut_and_comes_back_in_both_directions_and_in_one() -> None:
    with machines(2) as (a, b):
        dialing = _echo(a, b)
        for cut, mend in ((a.unplug, a.plug), (lambda: a.deafen(b), lambda: a.hear(b)), (b.unplug, b.plug)):
            assert dialing.ask((100, 100, 10)) == 100
            cut()
            assert dialing.ask((100, 100, 0.3)) == "nothing"
            mend()
            assert dialing.ask((0, 100, 20)) == 100, "what was on its way comes late"
        a.workers[0].kill()


def _make(link: Link, nbytes: int) -> None:
    queue = MessageQueue(1, max_chunk_bytes=1 << 16, max_bytes=nbytes)
    link.send((os.getpid(), queue.segment))
    try:
        link.recv()
    except EOFError:
        queue.close(0)


def test_memory_and_process_numbers_are_a_machines_own() -> None:
    with machines(2, shm={1: "16m"}) as (a, b):
        here, there = a.start(_make, 1 << 20), b.start(_make, 1 << 20)
        (pid, segment), (other_pid, other_segment) = here.receive(), there.receive()
        assert (pid, list(a.processes())) == (here.pid, [here.pid])
        assert (other_pid, list(b.processes())) == (there.pid, [there.pid])
        assert (a.shm(), b.shm()) == ([segment.lstrip("/")], [other_segment.lstrip("/")])
        assert "16384k" in str(b.shell("df -k /dev/shm | tail -1")).replace(" 16384 ", " 16384k ")
        here.stop()
        here.send("end")
        assert not here.link.poll(0.1)
        here.resume()
        assert here.join() == 0
        there.kill()
        assert there.join() == -signal.SIGKILL
        b.shell("rm /dev/shm/*")
        a.shell('test -z "$(ls /dev/shm)"')


def _fork_a_daemon(link: Link) -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            link.send(os.getpid())
            signal.pause()
        os._exit(0)
    os.wait()
    link.recv()


def test_what_is_left_on_a_machine_is_told_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.network.machines.LEFT_WITHIN_S", 1.0)
    outside = 0
    with pytest.raises(AssertionError, match=r"machine-b is left with processes \{.*/dev/shm \['rest'\]"):  # noqa: PT012
        with machines(2) as (_, b):
            worker = b.start(_fork_a_daemon)
            daemon = worker.receive()
            worker.link.close()
            worker.wait()
            eventually(lambda: b.links() == [daemon], "the process between has ended")
            b.shell("touch /dev/shm/rest")
            (outside,) = _pids_outside(b)
    assert outside != 0
    assert not Path(f"/proc/{outside}").exists()


def _pids_outside(machine: Machine) -> list[int]:
    """What the one process of a session of its own is called outside."""
    (inside,) = machine.links()
    namespace = machine.shell("readlink /proc/1/ns/pid").strip()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/pid") == namespace:
                lines = (folder / "status").read_text().splitlines()
                numbers = next(line for line in lines if line.startswith("NSpid")).split()
                if int(numbers[-1]) == inside:
                    found.append(int(folder.name))
        except OSError:
            continue
    return found


def _tell_signals(link: Link) -> None:
    try:
        link.send("started")
        time.sleep(60)
    except KeyboardInterrupt:
        link.send("interrupted")


def test_a_terminals_signal_reaches_all_of_a_process_group() -> None:
    with machines(1) as (a,):
        first = a.start(_tell_signals)
        second = a.start(_tell_signals, group=first)
        apart = a.start(_tell_signals)
        for worker in (first, second, apart):
            worker.receive()
        first.signal_group(signal.SIGINT)
        assert (first.receive(), second.receive()) == ("interrupted", "interrupted")
        assert not apart.link.poll(0.1)
        apart.kill()


def test_a_proxy_is_slow_stops_and_resets() -> None:
    with machines(2) as (a, b):
        listening = a.start(_listen, a.ip)
        listening.receive()
        proxy = Proxy(a, (a.ip, 4000), rate=1 << 20)
        dialing = b.start(_dial, proxy.address)
        dialing.receive()
        began = time.monotonic()
        assert dialing.ask((1 << 19, 1 << 19, 10)) == 1 << 19
        assert time.monotonic() - began > 0.4
        proxy.slow_down(None)
        for direction in (UP, DOWN):
            proxy.stop(direction)
            assert dialing.ask((100, 100, 0.2)) == "nothing"
            proxy.go()
            assert dialing.ask((0, 100, 10)) == 100
        assert proxy.passed()[UP] == (1 << 19) + 200
        proxy.reset_after(150_000, UP)
        assert dialing.ask((1 << 20, 1 << 20, 10)) == "reset"
        assert listening.receive() == "reset"
        assert dialing.ask((100, 100, 10)) == 100
        proxy.reset()
        assert (dialing.ask((100, 100, 10)), listening.receive()) == ("reset", "reset")
        assert proxy.resets() == 2
        listening.kill()

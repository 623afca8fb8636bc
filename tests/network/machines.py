"""Several machines on one: each has a network, process numbers, a host name and a /dev/shm of its own.

    with machines(3) as (a, b, c):
        worker = a.start(function, argument)  # a process there, which runs function(link, argument)
        a.unplug()

Their cables meet in a switch, in a namespace of its own: nothing of this machine's network is touched, and two runs at
once do not meet. All of it lives by sockets that this process alone holds, so it ends when this process does.

Tests that need no fresh ones visit those of the run: `visited`.

At the end of the block the workers' links are closed, which ends those that wait for an order. Then, unless the test
has failed, no process may be left on any machine, and nothing in its /dev/shm.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from tests.network import inside
from tests.support import DEADLINE_S, ROOT, Child, await_stop, eventually, job_of

NOBODYS = "02:00:00:00:00:ff"
"""A hardware address that no machine has."""
DESKS = "ringcast_-"
"""So the name of a link's desk begins, and no queue's."""
LEFT_WITHIN_S = 15.0
"""How long a link, or a process that was told to end, may take for it."""


class Orders:
    """A process elsewhere that functions of `inside` are called in."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._control.settimeout(DEADLINE_S)
        self._lock = threading.Lock()
        self.pid: int = self._answer()

    def call(self, function: Callable[..., Any], *arguments: Any, descriptor: int | None = None) -> Any:
        """What it returns there, or raises."""
        with self._lock:
            data = pickle.dumps((function, arguments))
            socket.send_fds(self._control, [data], [] if descriptor is None else [descriptor])
            return self._answer()

    def shell(self, commands: str) -> str:
        code, output = self.call(inside.run, ["sh", "-ec", commands])
        assert code == 0, f"exit code {code} of\n{commands}\n{output}"
        return str(output)

    def close(self) -> None:
        self._control.close()

    def _answer(self) -> Any:
        data = self._control.recv(inside.MOST_BYTES)
        assert data, "the process that takes orders has ended"
        fine, value = pickle.loads(data)
        if not fine:
            raise value
        return value


class _Process:
    """A process on a machine, as subprocess.Popen would have it."""

    def __init__(self, orders: Orders, pid: int) -> None:
        self._orders = orders
        self.pid = pid

    def poll(self) -> int | None:
        code: int | None = self._orders.call(inside.exit_code, self.pid)
        return code

    def wait(self, timeout: float | None = None) -> int:
        eventually(lambda: self.poll() is not None, f"the end of process {self.pid}", timeout or DEADLINE_S)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ends in this moment
                self._orders.call(os.kill, self.pid, number)


class Worker(Child):
    """A Child on a machine; `pid` is what it is there."""

    def __init__(self, orders: Orders, job: bytes, env: Mapping[str, str], group: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pid = orders.call(inside.fork_worker, job, env, group, descriptor=theirs.fileno())
        self._orders = orders
        self._talk(_Process(orders, pid), Connection(ours.detach()))

    def wait(self, timeout: float = DEADLINE_S) -> int:
        """Its exit code."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def _await_stop(self) -> None:
        self._orders.call(await_stop, self.pid)

    def signal_group(self, number: int) -> None:
        """A signal to its process group, as a terminal sends it."""
        self._orders.call(os.killpg, self.pid, number)


class Machine(Orders):
    """One machine, plugged into the switch."""

    def __init__(self, switch: Orders, number: int, shm: str) -> None:
        self.host = f"machine-{'abcdefgh'[number]}"
        self.ip, self.ip6 = f"10.77.0.{number + 1}", f"fd77::{number + 1}"
        self._hardware = f"02:00:00:00:00:{number + 1:02x}"
        self.workers: list[Worker] = []
        self._plugged, self._deaf_to = True, list[Machine]()
        self._switch = switch
        self._port = f"port{number}"
        ours, theirs = _pair()
        with theirs:
            self.outside: int = _server_of_this_run().call(
                inside.fork_machine, self.host, shm, descriptor=theirs.fileno()
            )
        first = Orders(ours).pid
        super().__init__(ours)
        self._plug_in(first)

    def _plug_in(self, first: int) -> None:
        self._switch.shell(
            f"ip link add {self._port} type veth peer name eth0 address {self._hardware} netns {first}\n"
            f"ip link set {self._port} addrgenmode none master switch up"
        )
        self.call(inside.write, "/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")
        self.shell(
            "ip link set lo up\n"
            f"ip addr add {self.ip}/24 dev eth0\n"
            f"ip addr add {self.ip6}/64 dev eth0 nodad\n"
            "ip link set eth0 up"
        )

    def start(
        self,
        function: Callable[..., None],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        group: Worker | None = None,
    ) -> Worker:
        """A process that runs `function(link, *arguments)` here, in a process group of its own, or another one's."""
        job = job_of(function, arguments)
        self.workers.append(Worker(self, job, env or {}, group.pid if group else 0))
        return self.workers[-1]

    @property
    def link_local(self) -> str:
        """Its IPv6 address of this cable alone, with its zone."""
        for line in str(self.call(inside.read, "/proc/net/if_inet6")).splitlines():
            digits, *_, name = line.split()
            if name == "eth0" and digits.startswith("fe80"):
                return ":".join(digits[at : at + 4] for at in range(0, 32, 4)) + "%eth0"
        raise AssertionError("no link-local address")

    def unplug(self) -> None:
        """Nothing comes in or goes out any more."""
        self._plugged = False
        self._switch.shell(f"ip link set {self._port} down")

    def plug(self) -> None:
        self._switch.shell(f"ip link set {self._port} up")
        self._plugged = True

    def deafen(self, other: Machine) -> None:
        """What `other` sends arrives here no more; it still hears this machine."""
        self._deaf_to.append(other)
        for ip in (self.ip, self.ip6):
            other.shell(f"ip neigh replace {ip} lladdr {NOBODYS} nud permanent dev eth0")

    def hear(self, other: Machine) -> None:
        for ip in (self.ip, self.ip6):
            other.shell(f"ip neigh replace {ip} lladdr {self._hardware} nud reachable dev eth0")
        self._deaf_to.remove(other)

    def mend(self) -> None:
        """Its wire is as it was at first."""
        if not self._plugged:
            self.plug()
        for other in list(self._deaf_to):
            self.hear(other)

    def forget_who_was_out_of_reach(self) -> None:
        """Who did not answer while a wire was cut is asked for anew: a link that dials on and on would let the next
        test's first call end with the last one's question."""
        self.shell("ip neigh flush dev eth0")

    def wire_bytes(self) -> tuple[int, int]:
        """Sent and received by its network interface."""
        for line in str(self.call(inside.read, "/proc/net/dev")).splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "eth0":
                fields = counters.split()
                return int(fields[8]), int(fields[0])
        raise AssertionError("no eth0")

    def processes(self) -> dict[int, str]:
        """The command lines of all processes here."""
        return {pid: command for pid, (_, command) in self.call(inside.processes).items()}

    def links(self) -> list[int]:
        """Those of sessions of their own: of what tests start none is."""
        return sorted(pid for pid, (session, _) in self.call(inside.processes).items() if session != 1)

    def signal(self, pid: int, number: int) -> None:
        """To any process here; SIGSTOP: returns when it has stopped."""
        self.call(os.kill, pid, number)
        if number == signal.SIGSTOP:
            self.call(await_stop, pid)

    def shm(self) -> list[str]:
        """What lies in its /dev/shm."""
        found: list[str] = self.call(inside.names, "/dev/shm")
        return found

    def is_empty(self) -> bool:
        return not self.processes() and not self.shm()

    def is_empty_but_for_links(self) -> bool:
        """A link stays for a moment when its last end has left, as does its desk."""
        links = self.links()
        return set(self.processes()) <= set(links) and all(name.startswith(DESKS) for name in self.shm())

    def end_workers(self) -> None:
        """They end by themselves, if they wait for an order."""
        for worker in self.workers:
            worker.link.close()
        for worker in self.workers:
            worker.resume()
            worker.wait(LEFT_WITHIN_S)
        self.workers.clear()

    def wipe(self) -> None:
        """As it was at first, whatever has happened on it."""
        for worker in self.workers:
            worker.link.close()
        self.workers.clear()
        self.shell("kill -9 -1 2>/dev/null || true; rm -f /dev/shm/*")


_servers: list[Orders] = []
_visited: list[list[Machine]] = []


def _server_of_this_run() -> Orders:
    assert _servers, "the test needs the fixture `machine_server`"
    return _servers[-1]


@contextmanager
def machines(count: int, *, shm: Mapping[int, str] | None = None) -> Iterator[list[Machine]]:
    """So many machines, gone at the end of the block. `shm`: the size of which one's /dev/shm, as mount(8) has it."""
    server = _server_of_this_run()
    ours, theirs = _pair()
    with theirs:
        outside = [server.call(inside.fork_switch, descriptor=theirs.fileno())]
    switch = Orders(ours)
    made: list[Machine] = []
    try:
        switch.shell("ip link add switch type bridge && ip link set switch addrgenmode none up")
        for number in range(count):
            made.append(Machine(switch, number, (shm or {}).get(number, "50%")))
        yield made
        _check_that_nothing_is_left(made)
    finally:
        for one in made:
            one.close()
            for worker in one.workers:
                worker.link.close()
        switch.close()
        for pid in [*outside, *(one.outside for one in made)]:
            _Process(server, pid).wait()


@contextmanager
def visited(count: int) -> Iterator[list[Machine]]:
    """The first of the run's own machines, for a test. At its end they are left as they were found, but for links that
    stay for a moment; what those leave is looked at when the machines go, at the end of the run."""
    places = _visited[-1][:count]
    try:
        yield places
        _check_that_nothing_is_left(places, Machine.is_empty_but_for_links)
    except BaseException:
        for one in places:
            one.wipe()
        raise
    finally:
        for one in places:
            one.mend()
        for one in places:
            one.forget_who_was_out_of_reach()


def _check_that_nothing_is_left(made: list[Machine], is_empty: Callable[[Machine], bool] = Machine.is_empty) -> None:
    for one in made:
        one.mend()
        one.end_workers()
    for one in made:
        try:
            eventually(partial(is_empty, one), "that nothing is left", LEFT_WITHIN_S)
        except AssertionError:
            left = f"processes {one.processes()} and in /dev/shm {one.shm()}"
            raise AssertionError(f"{one.host} is left with {left}") from None


@contextmanager
def server(*preloaded: str) -> Iterator[None]:
    """The process that machines are forked from, with these modules imported."""
    ours, theirs = _pair()
    with theirs:
        entry = "from tests.network.inside import main; main()"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-c", entry, str(theirs.fileno()), *preloaded],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        _servers.append(Orders(ours))
        with machines(3) as places:
            _visited.append(places)
            yield
            _visited.pop()
    finally:
        _servers.pop()
        ours.close()
        process.wait(DEADLINE_S)


def why_not() -> str | None:
    """What keeps this process from making machines."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux may make networks"
    missing = [command for command in ("ip", "unshare") if shutil.which(command) is None]
    if missing:
        return f"there is no command {' and no '.join(missing)}"
    trial = "ip link add one type veth peer name two && ip link add three type bridge && ip link set one master three"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "sh", "-c", trial],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() if tried.returncode else None


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

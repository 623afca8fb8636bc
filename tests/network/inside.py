"""What runs inside of machines: a server that forks them, and the first process of each, which starts processes there.

Forked, because a fresh interpreter takes a while to import what tests need. What is forked returns to `main`, and goes
on from there, so that a process ends as any program does: with its exit handlers, and with its threads.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import own_shm
from tests.support import Link, run_child

MOST_BYTES = 1 << 17
"""Of one order, or one answer."""

_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = 0x04000000, 0x08000000, 0x20000000, 0x40000000

_ended: dict[int, int] = {}
"""The exit codes of this process's children."""

GoesOn = Callable[[], Any]
"""What a process does next; what that returns comes after it."""


def main() -> None:
    """The server's program: its arguments are the socket that orders come by, and modules to import once for all."""
    for name in sys.argv[2:]:
        import_module(name)
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    goes_on: GoesOn | None = _serve(control)
    while goes_on is not None:
        goes_on = goes_on()


def _serve(control: socket.socket) -> GoesOn:
    """Carry out orders until nobody is left to give them. Returns in a forked process alone."""
    _ended.clear()
    signal.signal(signal.SIGCHLD, _reap)
    control.sendall(pickle.dumps((True, os.getpid())))
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, 1)
        if not data:
            os._exit(0)  # and the kernel ends whatever a machine's first process leaves behind
        function, arguments = pickle.loads(data)
        try:
            result: Any = function(*descriptors, *arguments)
        except Exception as error:
            result = error
        if callable(result):
            control.close()
            goes_on: GoesOn = result
            return goes_on
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(pickle.dumps((not isinstance(result, Exception), result)))


def _reap(*_: Any) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _ended[pid] = os.waitstatus_to_exitcode(status)


# Orders: each is called by the process that serves, with what came with it.


def fork_switch(control: int) -> int | GoesOn:
    """A network of its own, in which machines' cables come together; the pid of its process."""
    pid = os.fork()
    return pid or (lambda: _switch(socket.socket(fileno=control)))


def fork_machine(control: int, name: str, shm: str) -> int | GoesOn:
    """A network, process numbers, a host name and a /dev/shm; the pid of the process that waits for all of that."""
    pid = os.fork()
    return pid or (lambda: _machine(socket.socket(fileno=control), name, shm))


def fork_worker(link: int, job: bytes, env: Mapping[str, str], group: int) -> int | GoesOn:
    """A process that runs a test's function, in a process group of its own or an older one's."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(env)
    os.setpgid(pid, group)
    return pid or (lambda: _work(Connection(link), job))


def exit_code(pid: int) -> int | None:
    return _ended.get(pid)


def run(argv: list[str]) -> tuple[int, str]:
    """A command: its exit code, and what it said."""
    descriptor = os.memfd_create("output")
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, 1), (os.POSIX_SPAWN_DUP2, descriptor, 2)]
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsigdef=[signal.SIGCHLD])
    while pid not in _ended:
        time.sleep(0.0005)
    with open(descriptor, "rb") as output:
        output.seek(0)
        return _ended[pid], output.read(MOST_BYTES // 2).decode(errors="replace")


def processes() -> dict[int, tuple[int, str]]:
    """Session and command of each process but this one, and but those that only wait to be reaped."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended meanwhile
        if fields[0] not in "ZX" and int(folder.name) != os.getpid():
            found[int(folder.name)] = (int(fields[3]), command)
    return found


def names(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def _switch(control: socket.socket) -> GoesOn:
    os.setsid()
    _unshare(_CLONE_NEWNET)
    return lambda: _serve(control)


def _machine(control: socket.socket, name: str, shm: str) -> GoesOn:
    os.setsid()
    _unshare(_CLONE_NEWNET | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID)
    why_not = own_shm.enter(shm)
    if why_not is not None:
        raise OSError(why_not)
    socket.sethostname(name)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told, telling = os.pipe()
    first = os.fork()
    if first != 0:
        control.sendall(pickle.dumps((True, first)))  # before `first` says anything by itself
        control.close()
        os.close(telling)
        os.waitpid(first, 0)  # which ends when all processes of the machine have
        os._exit(0)
    os.close(telling)
    os.read(told, 1)
    os.close(told)
    os.setsid()
    _mount_proc()
    return lambda: _serve(control)


def _work(link: Link, job: bytes) -> GoesOn | None:
    run_child(link, job)
    return None


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def _mount_proc() -> None:
    if ctypes.CDLL(None, use_errno=True).mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting /proc: {os.strerror(number)}")


if __name__ == "__main__":
    main()

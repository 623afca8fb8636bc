"""A real Mooncake Store on the loopback: its master, and a process that lends it memory.

python -m tests.pool.mooncake MASTER BYTES      lends memory until its standard input ends
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_S, ROOT, eventually, stop

LENT = 64 << 20


def package() -> Any:
    """Mooncake; the test is skipped where it, or a library that it needs, cannot be had. In CI there is no excuse."""
    try:
        from mooncake import store
    except ImportError as error:
        if os.environ.get("CI") and sys.version_info < (3, 14) and sys.platform == "linux":
            raise
        pytest.skip(f"Mooncake cannot be imported: {error}")
    return store


def kept_port() -> socket.socket:
    """Has a port that nobody else gets while this lives, but for who asks for that very one, as a master does."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def port_of(kept: socket.socket) -> int:
    return int(kept.getsockname()[1])


class Mooncake:
    """Its master can be killed, stopped and started again, on the same port."""

    def __init__(self, log: Path) -> None:
        package()
        self.log = log.open("ab")
        self._ports = kept_port(), kept_port()
        self.port, self.metrics_port = map(port_of, self._ports)
        self.address = f"127.0.0.1:{self.port}"
        self.start_master()
        self.lender = subprocess.Popen(
            [sys.executable, "-m", "tests.pool.mooncake", self.address, str(LENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
        )
        assert self.lender.stdout is not None
        assert self.lender.stdout.readline() == b"lent\n", log.read_text()

    def start_master(self) -> None:
        spec = importlib.util.find_spec("mooncake")
        assert spec is not None
        assert spec.submodule_search_locations
        options = {
            "rpc_address": "127.0.0.1",
            "rpc_port": self.port,
            "metrics_host": "127.0.0.1",
            "metrics_port": self.metrics_port,
            "client_ttl": int(
                DEADLINE_S
            ),  # or who is stopped, or gets no CPU, is taken for dead, and its memory with it
        }
        program = Path(next(iter(spec.submodule_search_locations)), "mooncake_master")
        self.master = subprocess.Popen(
            [program, *(f"-{name}={value}" for name, value in options.items())], stdout=self.log, stderr=self.log
        )
        eventually(self.listens, "a master that listens")

    def listens(self) -> bool:
        assert self.master.poll() is None, "the master has ended: is its port taken?"
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.port)) == 0

    def kill_master(self) -> None:
        self.master.kill()
        self.master.wait()

    def stop_master(self) -> None:
        stop(self.master.pid)

    def continue_master(self) -> None:
        self.master.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (self.lender, self.master):
            process.kill()
            process.wait()
        for pipe in (self.lender.stdin, self.lender.stdout, self.log):
            if pipe is not None:
                pipe.close()
        for port in self._ports:
            port.close()


def lend(master: str, nbytes: str) -> None:
    store = package().MooncakeDistributedStore()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", int(nbytes), 0, "tcp", "", master)
    print("lent" if code == 0 else f"no memory could be lent: {code}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    lend(*sys.argv[1:])

"""Kinds of tiers: for the workload of tiers alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.no_queue import NoQueue
from ringcast.cli.lab.workload import check
from ringcast.pool import FileTier, MooncakeTier, ObjectTier, Tier

_IN_FLIGHT = "1GiB"
_BLOCK = 4096
_UNIT = 64 << 20  # Mooncake takes no odd sizes
_HELD_BY = """
import sys
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
print(store.setup("127.0.0.1", "P2PHANDSHAKE", int(sys.argv[2]), 0, "tcp", "", sys.argv[1]), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class TierKind(NoQueue):
    """How one is opened: in a folder, for so many chunks of so many bytes."""

    open: Callable[[Path, int, int], AbstractContextManager[Tier]] | None = None
    only: tuple[str, ...] = ("tiers",)


@contextmanager
def _of_file(folder: Path, count: int, nbytes: int) -> Iterator[Tier]:
    path = folder / "tier"
    try:
        # Each slot has a block of its header, and one of its shards' checksums.
        with FileTier(path, _BLOCK + count * (2 * _BLOCK + nbytes), nbytes, in_flight=_IN_FLIGHT) as tier:
            check(tier.stats()["slots"] == count, f"{path} has not exactly {count} slots")
            check(bool(tier.stats()["direct"]), f"the file system of {path} has no O_DIRECT: set TMPDIR")
            yield tier
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _of_objects(folder: Path, count: int, nbytes: int) -> Iterator[Tier]:
    from obstore.store import LocalStore

    with ObjectTier(LocalStore(folder, mkdir=True), "objects", threads=4, in_flight=_IN_FLIGHT) as tier:
        yield tier


@contextmanager
def _of_mooncake(folder: Path, count: int, nbytes: int) -> Iterator[Tier]:
    """Its master, and a process that holds the bytes; over TCP on the loopback."""
    import mooncake

    ports = []
    for _ in range(2):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            ports.append(taken.getsockname()[1])
    address = f"127.0.0.1:{ports[0]}"
    program = Path(mooncake.__path__[0], "mooncake_master")
    options = {"rpc_address": "127.0.0.1", "rpc_port": ports[0], "metrics_host": "127.0.0.1", "metrics_port": ports[1]}
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "mooncake.log").open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # of a process of its own; the client says there what it does
        try:
            words = [str(program), *(f"-{name}={value}" for name, value in options.items())]
            started.append(subprocess.Popen(words, stdout=log, stderr=log))
            until = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", ports[0])).close()
                    break
                except OSError:
                    check(time.monotonic() < until and started[0].poll() is None, "Mooncake's master does not listen")
                    time.sleep(0.05)  # nothing tells that it listens
            needed = 3 * count * (_BLOCK + nbytes)  # it makes room before it is full
            room = -(-needed // _UNIT) * _UNIT
            holder = [sys.executable, "-c", _HELD_BY, address, str(room)]
            started.append(subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log))
            assert started[1].stdout is not None
            check(started[1].stdout.readline() == b"0\n", "Mooncake's memory cannot be had")
            with MooncakeTier(address, threads=4, in_flight=_IN_FLIGHT) as tier:
                yield tier
        finally:
            for process in started:
                process.kill()
                process.wait()


SUBJECTS = (
    TierKind("tier-file", "FileTier", "ringcast", "ringcast", "ringcast", open=_of_file),
    TierKind("tier-objects", "ObjectTier, a folder", "obstore", "obstore", "extra", open=_of_objects),
    TierKind(
        "tier-mooncake",
        "MooncakeTier, loopback",
        "mooncake",
        "mooncake-transfer-engine-non-cuda",
        "extra",
        open=_of_mooncake,
    ),
)

"""A pool with a FileTier whose server is killed while a chunk leaves memory for the tier, or comes back from it.

`python -m tests.faults pool` runs these, too. A worker stores chains, uses them again, and brings them back, more of
them than memory has room for, and checks every byte that it gets; whenever the server is dead, the next one comes, with
the same file. Afterwards every chunk that the index knows can be read, and once all is cleared nothing is left, neither
in memory nor in the file.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ringcast import _core, errors
from ringcast.pool import FileTier, Keys, PoolClient, PoolServer
from tests.faults.scenarios import PATIENCE_S, ROOT, Failed, end_all, first_line, run_all, until
from tests.pool.pools import CHUNK, retrieved, some_keys, store

POINTS = frozenset(("pool_taken_back", "pool_tiered"))
CHUNKS = 16
SLOTS = 64
CHAINS, LENGTH = 12, 3
OPERATIONS = 80
TIMES = (1, 2, 5, 17)


def opened(path: str) -> FileTier:
    return FileTier(path, 4096 + SLOTS * (4096 + CHUNK), CHUNK, threads=2)


# --- The processes.


def act(role: str, name: str, path: str, seed: int, point: str, nth: int) -> None:
    if point:
        _core._arm_fault(point, "kill", nth)  # type: ignore[attr-defined]
    if role == "serve":
        server = PoolServer(name, CHUNKS * CHUNK, tiers=[opened(path)]).start()
        print("serves", flush=True)
        server.serve_forever()
        return
    chosen = random.Random(seed)
    with PoolClient.connect(name, "worker", layout=CHUNK, timeout=30.0, regain=30.0) as client:
        print("works", flush=True)
        for _ in range(OPERATIONS):
            keys = some_keys(LENGTH, first=LENGTH * chosen.randrange(CHAINS))
            with suppress(errors.LeaseExpiredError):  # a reservation of which a killed server had not told
                store(client, keys)
            retrieved(client, keys, wait=10)
    print("done", flush=True)


# --- The scenarios.


class Scenario:
    def __init__(self, point: str, nth: int) -> None:
        self.point, self.nth = point, nth
        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name) / "tier")
        self.name = f"f{os.getpid()}-{point.replace('_', '-')}-{nth}"
        self.processes: list[subprocess.Popen[str]] = []
        self.hit = False

    def start(self, role: str, point: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults", "tiered-actor", role, self.name, self.path]
        command += [str(self.nth), point, str(self.nth)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.processes.append(process)
        if not first_line(process):
            raise Failed(f"{role} ended with {process.wait()} before it had begun")
        return process

    def run(self) -> None:
        server = self.start("serve", self.point)
        worker = self.start("work")
        started = time.monotonic()
        while worker.poll() is None:
            if time.monotonic() - started > 3 * PATIENCE_S:
                raise Failed("the worker does not come to an end")
            if server.poll() is not None:
                if server.returncode != -signal.SIGKILL:
                    raise Failed(f"the server ended with {server.returncode}")
                self.hit = True
                server = self.start("serve")
            time.sleep(0.005)
        if worker.returncode != 0:
            raise Failed(f"the worker ended with {worker.returncode}")
        with PoolClient.connect(self.name, "witness", layout=CHUNK, timeout=30.0) as witness:
            self.check(witness)

    @staticmethod
    def can_be_read(witness: PoolClient, keys: Keys) -> bool:
        return retrieved(witness, keys, wait=10) == witness.lookup(keys).total

    def check(self, witness: PoolClient) -> None:
        def figures() -> dict[str, Any]:
            from ringcast import __version__

            return _core.PoolMemory(witness.info.segment, __version__).described()

        for chain in range(CHAINS):
            keys = some_keys(LENGTH, first=LENGTH * chain)
            known = partial(self.can_be_read, witness, keys)
            until(known, "what the index knows can be read; a write that was cut off has been found out by then")
        witness.clear()

        def left() -> tuple[int, ...]:
            found = figures()
            names = ("used_bytes", "reserved", "limbo", "quarantined", "refused")
            return (*(found[name] for name in names), found["tiers"][0]["chunks"])

        until(lambda: not any(left()), "nothing is left once all is cleared")

    def end(self) -> None:
        end_all(self.processes)
        self.folder.cleanup()


def main(rounds: int) -> int:
    return run_all("a pool's tier", POINTS, TIMES * rounds, Scenario)

"""A pool whose server, client or adopter is killed at every step of every protocol, and what must be true afterwards.

`python -m tests.faults pool` runs each fault point a few times: at the first, second, ... time that a process comes to
it. A worker stores, aborts, retrieves, holds and clears for as long as it lives, alone and as a group of two, and has a
part in what the witness stores; that one, which is not killed, knows what it has committed itself. Afterwards a server
is there, within a second nothing is reserved and the dead worker's seat is vacant, what was committed and not
evicted is there with right bytes, and the pool is empty once it is cleared.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from ringcast import _core, errors
from ringcast.pool import ChunkStatus, Keys, Namespace, PoolClient, PoolServer, StoreLease, watch
from tests import own_shm
from tests.faults.scenarios import ROOT, Failed, end_all, first_line, run_all, until
from tests.pool.pools import CHUNK, Picture, content, fill, retrieved, some_keys, store

CHUNKS = 32
OPERATIONS = 60
WITHIN_S = 1.0
GROUP = Namespace("group", dtype="uint8", layout="bytes", shards=2)

SERVER_POINTS = (
    "pool_described",
    "pool_inserted",
    "pool_reserved",
    "pool_commit_begin",
    "pool_joined",
    "pool_part_begin",
    "pool_part_committed",
    "pool_committed",
    "pool_evict_begin",
    "pool_in_limbo",
    "pool_release_begin",
    "pool_released",
    "pool_event_begun",
    "pool_event_written",
    "pool_space_written",
    "pool_answer_begin",
    "pool_answered",
)
ADOPTER_POINTS = (
    "pool_adopt_begin",
    "pool_adopt_bounds",
    "pool_adopt_parents",
    "pool_adopt_reservations",
    "pool_adopt_cells",
)
CLIENT_POINTS = (
    "pool_seat_locked",
    "pool_seat_taken",
    "pool_asked",
    "pool_rung",
    "pool_answer_found",
    "pool_answer_pinned",
    "pool_answer_taken",
    "pool_pinned",
    "pool_filled",
    "pool_unpin_begin",
)
POINTS = frozenset((*SERVER_POINTS, *ADOPTER_POINTS, *CLIENT_POINTS))


# --- The processes.


def serve(name: str) -> None:
    server = PoolServer(name, CHUNKS * CHUNK, entries=CHUNKS).start()
    print("adopted" if server.adopted else "made", flush=True)
    server.serve_forever()


def work(name: str, seed: int, token: bytes) -> None:
    """A worker's life: a few chains, some of them stored by others too."""
    chosen = random.Random(seed)
    client = PoolClient.connect(name, "worker", layout=CHUNK, timeout=30.0, regain=30.0)
    print("works", flush=True)
    held: list[Any] = []
    _stored(client, some_keys(1, first=9, space=Namespace(f"worker {seed}", dtype="uint8", layout="bytes")))
    theirs = fill_part(client, token, 1)
    client.commit_store(theirs)
    peer = PoolClient.connect(name, "peer", layout=CHUNK, timeout=30.0, regain=30.0)
    for _ in range(OPERATIONS):
        keys = some_keys(chosen.randint(1, 6), first=chosen.randrange(10, 18))
        what = chosen.random()
        if what < 0.15:
            with suppress(errors.LeaseExpiredError):
                store_as_group(client, peer, some_keys(chosen.randint(1, 2), 20, GROUP), chosen.random() < 0.25)
        elif what < 0.5:
            lease = client.prepare_store(keys)
            fill(lease)
            if chosen.random() < 0.25:
                client.abort_store(lease)
            else:
                with suppress(errors.LeaseExpiredError):
                    client.commit_store(lease)
        elif what < 0.9:
            found = client.prepare_retrieve(keys)
            for slot in found.slots:
                assert bytes(slot.array) == bytes(content(slot.key)), "wrong bytes"
            held.append(found)
            if len(held) > 3:
                client.commit_retrieve(held.pop(0))
        else:
            client.clear(keys.space)
    held.clear()
    peer.close()
    client.close()
    print("done", flush=True)


def fill_part(client: PoolClient, token: bytes, part: int) -> StoreLease:
    lease = client.join(token, part)
    assert isinstance(lease, StoreLease)
    for slot in lease.slots:
        slot.array[:] = content(bytes([part]) + slot.key, len(slot.array))
    return lease


def store_as_group(client: PoolClient, peer: PoolClient, keys: Keys, gives_up: bool) -> None:
    lease = client.prepare_store(keys)
    parts = [fill_part(one, lease.export(), part) for part, one in enumerate((client, peer))]
    client.commit_store(parts[0])
    if gives_up:
        peer.abort_store(parts[1])
        return
    peer.commit_store(parts[1])
    client.commit_store(lease)


def parts_of(client: PoolClient, keys: Keys) -> int:
    """How many of these chunks are there; each part is looked at."""
    with client.retrieve(keys) as found:
        for part in range(GROUP.shards):
            with client.join(found.export(), part) as joined:
                for slot in joined.slots:
                    expected = bytes(content(bytes([part]) + slot.key, len(slot.array)))
                    assert bytes(slot.array) == expected, "wrong bytes in a part"
        return found.hits


def act(role: str, name: str, seed: int, point: str, nth: int, token: bytes) -> None:
    if point:
        _core._arm_fault(point, "kill", nth)  # type: ignore[attr-defined]
    if role == "serve":
        serve(name)
    else:
        work(name, seed, token)


# --- The scenarios.


def start(role: str, name: str, seed: int, point: str = "", nth: int = 1, token: bytes = b"") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults", "pool-actor", role, name, str(seed), point, str(nth), token.hex()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


class Scenario:
    """One fault, from a fresh pool to an empty one."""

    def __init__(self, point: str, nth: int, seed: int) -> None:
        self.point, self.nth, self.seed = point, nth, seed
        self.name = f"f{os.getpid()}-{seed}"
        self.processes: list[subprocess.Popen[str]] = []
        self.hit = False
        self.token = b""

    def start(self, role: str, armed: bool = False) -> subprocess.Popen[str]:
        process = start(role, self.name, self.seed, self.point if armed else "", self.nth, self.token)
        self.processes.append(process)
        return process

    def serve(self, armed: bool = False) -> subprocess.Popen[str]:
        """A server that serves; the next one, if that one dies while it starts."""
        server = self.start("serve", armed)
        if first_line(server):
            return server
        self.hit = server.wait() == -signal.SIGKILL
        if not (armed and self.hit):
            raise Failed(f"the server ended with {server.returncode} before it served")
        return self.serve()

    def run(self) -> None:
        server = self.serve()
        witness = PoolClient.connect(self.name, "witness", layout=CHUNK, timeout=30.0, regain=30.0)
        self.events = watch(self.name)
        try:
            mine = some_keys(3)
            committed = _stored(witness, mine)
            holds = witness.prepare_retrieve(mine)
            group = witness.prepare_store(some_keys(2, 30, GROUP))
            self.token = group.export()
            half = fill_part(witness, self.token, 0)
            if self.point not in CLIENT_POINTS:  # what the witness did is not to be what the server dies of
                server.kill()
                server.wait()
                server = self.serve(armed=True)
            worker = self.start("work", self.point in CLIENT_POINTS)
            first_line(worker)
            until(lambda: server.poll() is not None or worker.poll() is not None, "an end", 60.0)
            if server.poll() is not None:
                self.hit = self.hit or server.returncode == -signal.SIGKILL
                retrieved(witness, mine)  # goes on without a server
                server = self.serve()
            worker.wait(60.0)
            if worker.returncode == -signal.SIGKILL:
                self.hit = True
            elif worker.returncode != 0:
                raise Failed(f"the worker ended with {worker.returncode}")
            self.check_group(witness, group, half, worker.returncode == 0)
            self.check(witness, mine, committed, holds)
        finally:
            witness.close()

    @staticmethod
    def figures(witness: PoolClient) -> dict[str, Any]:
        from ringcast import __version__

        return _core.PoolMemory(witness.info.segment, __version__).described()

    def check_group(self, witness: PoolClient, group: StoreLease, half: StoreLease, whole: bool) -> None:
        """All of it is there, or nothing, and then everybody is told."""
        until(lambda: len(self.figures(witness)["clients"]) == 1, "the dead worker's seat comes back", WITHIN_S)
        try:
            witness.commit_store(half)
            if group.missing_parts:  # the worker was killed before it came to join, so that its part is still to be had
                witness.commit_store(fill_part(witness, self.token, 1))
            there = witness.commit_store(group) == [ChunkStatus.COMMITTED] * 2
        except errors.LeaseExpiredError as error:
            there = False
            if whole:
                raise Failed("a group whose ranks all live was given up") from error
        if parts_of(witness, group.keys) != (2 if there else 0):
            raise Failed("a part of a group's chunks is there, or they have gone")

    def check(self, witness: PoolClient, mine: Keys, committed: bool, holds: Any) -> None:
        def figures() -> dict[str, Any]:
            return self.figures(witness)

        until(lambda: figures()["reserved"] == 0, "what the dead had reserved comes back", WITHIN_S)
        until(lambda: len(figures()["clients"]) == 1, "the dead worker's seat comes back", WITHIN_S)
        if (
            committed
            and holds.hits
            and [bytes(slot.array) for slot in holds.slots] != [bytes(content(key)) for key in mine[: holds.hits]]
        ):
            raise Failed("what is held has changed")
        for first in range(10, 18):
            retrieved(witness, some_keys(6, first=first), leading=False)
        parts_of(witness, some_keys(2, 20, GROUP))
        witness.commit_retrieve(holds)
        witness.clear()
        until(lambda: figures()["used_bytes"] == 0, "all memory is free once all is cleared")
        everything = some_keys(CHUNKS, first=5)
        if store(witness, everything) != [ChunkStatus.COMMITTED] * CHUNKS:
            raise Failed("the pool does not take its capacity any more")
        # One of 32 is kept free for what comes next.
        if retrieved(witness, everything) < CHUNKS - CHUNKS // 32:
            raise Failed("the index has lost chunks")
        found = figures()
        picture = Picture()
        while picture.next < found["events"]:
            picture.add(next(self.events))
        if set(picture.keys) != set(everything[: witness.lookup(everything).memory]):
            raise Failed("who follows the events has another picture of the pool")
        if found["quarantined"] or found["limbo"] or found["refused"]:
            raise Failed(f"something is left: {found}")

    def end(self) -> None:
        end_all(self.processes)


def _stored(client: PoolClient, keys: Keys) -> bool:
    try:
        return ChunkStatus.COMMITTED in store(client, keys)
    except errors.PoolError:
        return False


def main(rounds: int) -> int:
    own_shm.enter()
    times = [nth if nth < 4 else nth * nth for nth in range(1, rounds + 1)]
    return run_all("a pool", POINTS, times, lambda point, nth: Scenario(point, nth, nth * 1000 + len(point)))

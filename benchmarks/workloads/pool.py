"""A pool's calls, each timed by itself, from n worker processes at once; the server has a process of its own.

`lookup`, and `prepare_retrieve` with `commit_retrieve`, of the first keys of 64 chains of 256 in turn; nobody looks at
the bytes. `prepare_store` and `commit_store` of keys that are not there, in a pool that soon is full, so that others go
for them; a chunk has 4 KiB, of which `commit_store` makes a checksum. Keys are made before. Every answer is checked.
The server and a worker have a CPU each where there are two; several workers are not pinned.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.peers.pool_servers import PoolServing
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import P50, P99, Outcome, latencies
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, CheckError, Workload, check
from ringcast.pool import ChunkStatus, Keys, Namespace, PoolClient, PoolServer, describe, keys_from_hashes

_SPACE = Namespace("benchmark", dtype="uint8", layout="bytes")
_CHUNK_BYTES = 4096
_ENTRIES = 32_768
_CHAINS = 64
_CHAIN = 256
_TURN = 37
_STOPPING_SECONDS = 10.0
_CALLS = 2_500
_HITS = {"lookup": "lookup", "retrieve": "prepare_retrieve + commit_retrieve"}
_STORES = {"prepare": "prepare_store", "commit": "commit_store"}


class Pool(Workload):
    """See the module."""

    key = "pool"
    title = "A pool's calls"
    explain = "one call of so many keys, by each of n workers at once"
    metrics = (P50, P99)

    def takes(self, subject: Subject) -> bool:
        """Those alone that are made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """All sizes with one worker, two with several."""
        sizes = (16,) if settings.brief else (1, 16, 64, _CHAIN)
        return tuple(
            Case(f"{what}/{keys}/{workers}", _some(keys, "key"), workers, f"{call}, {_some(workers, 'worker')}", keys)
            for what, call in (_HITS | _STORES).items()
            for workers in self._readers
            for keys in sizes
            if workers == 1 or keys in (16, _CHAIN)
        )

    def covers(self, subject: Subject, case: Case) -> bool:
        """Beside one worker alone; a stopped server stores nothing, and a hit waits for none."""
        assert isinstance(subject, PoolServing)
        if subject.standing == "ringcast":
            return True
        is_store = case.key.split("/")[0] in _STORES
        return case.n_readers == 1 and not (subject.stopped if is_store else subject.wait)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """A server, and so many workers."""
        assert isinstance(subject, PoolServing)
        name = bench.spec(1, 1, 1).name.replace("_", "-")
        what, keys, _ = case.key.split("/")
        count = bench.settings.count(_CALLS)

        def server(member: Member) -> None:
            capacity = _ENTRIES * _CHUNK_BYTES
            with PoolServer(name, capacity, entries=_ENTRIES, wait=subject.wait), _busy(subject.busy):
                member.meet()
                member.meet()
                member.meet()

        def worker(member: Member) -> list[int]:
            member.meet()
            with PoolClient.connect(name, layout=_CHUNK_BYTES, wait=subject.wait) as client:
                if member.rank == 0:
                    for number in range(_CHAINS):
                        client.commit_store(client.prepare_store(_chain(number, _CHAIN)))
                measured = _MEASURED[what](client, int(keys), count, _CHAINS + member.rank * 10 * count)
                member.meet()
                try:
                    if subject.stopped:
                        _stop(client)
                    samples = measured()
                finally:
                    if subject.stopped:
                        os.kill(client.health.pid, signal.SIGCONT)
                member.meet()
            return samples

        placement = bench.placement if case.n_readers == 1 else bench.placement.free()
        results: list[list[int]] = bench.run(server, [worker] * case.n_readers, placement)[1:]
        return latencies([sample for samples in results for sample in samples])


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _chain(number: int, keys: int) -> Keys:
    return keys_from_hashes([(number * _CHAIN + i).to_bytes(8, "little") for i in range(keys)], _SPACE)


def _lookup(client: PoolClient, keys: int, count: int, first: int) -> Callable[[], list[int]]:
    chains = [_chain(number, keys) for number in range(_CHAINS)]

    def measured() -> list[int]:
        samples = []
        for call in range(count):
            wanted = chains[call * _TURN % _CHAINS]
            begin = time.perf_counter_ns()
            found = client.lookup(wanted)
            samples.append(time.perf_counter_ns() - begin)
            check(found.memory == keys, f"{found.memory} of {keys} keys were found")
        return samples

    return measured


def _retrieve(client: PoolClient, keys: int, count: int, first: int) -> Callable[[], list[int]]:
    chains = [_chain(number, keys) for number in range(_CHAINS)]

    def measured() -> list[int]:
        samples = []
        for call in range(count):
            wanted = chains[call * _TURN % _CHAINS]
            begin = time.perf_counter_ns()
            lease = client.prepare_retrieve(wanted)
            client.commit_retrieve(lease)
            samples.append(time.perf_counter_ns() - begin)
            check(lease.hits == keys, f"{lease.hits} of {keys} keys were there")
        return samples

    return measured


def _store(client: PoolClient, keys: int, count: int, first: int) -> Callable[[], tuple[list[int], list[int]]]:
    chains = [_chain(first + number, keys) for number in range(count)]

    def measured() -> tuple[list[int], list[int]]:
        prepared, committed = [], []
        for wanted in chains:
            begin = time.perf_counter_ns()
            lease = client.prepare_store(wanted)
            between = time.perf_counter_ns()
            statuses = client.commit_store(lease)
            committed.append(time.perf_counter_ns() - between)
            prepared.append(between - begin)
            if statuses != [ChunkStatus.COMMITTED] * keys:
                counted = {name: count for name, count in describe(client.name).items() if isinstance(count, int)}
                raise CheckError(f"keys are {set(statuses)}; the pool says {counted}")
        return prepared, committed

    return measured


def _prepare(client: PoolClient, keys: int, count: int, first: int) -> Callable[[], list[int]]:
    measured = _store(client, keys, count, first)
    return lambda: measured()[0]


def _commit(client: PoolClient, keys: int, count: int, first: int) -> Callable[[], list[int]]:
    measured = _store(client, keys, count, first)
    return lambda: measured()[1]


_MEASURED = {"lookup": _lookup, "retrieve": _retrieve, "prepare": _prepare, "commit": _commit}


def _stop(client: PoolClient) -> None:
    """Stops the server, and returns when it has stopped."""
    os.kill(client.health.pid, signal.SIGSTOP)
    deadline = time.monotonic() + _STOPPING_SECONDS
    while client.health.server != "stopped":
        check(time.monotonic() < deadline, "the server did not stop")
        time.sleep(0.001)  # it is another process's child, so nothing can be waited for


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """A thread that runs Python without end, while the block does."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            pass

    thread = threading.Thread(target=compute, name="busy")
    if wanted:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if wanted:
            thread.join()

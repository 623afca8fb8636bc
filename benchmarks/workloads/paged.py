"""Gather and scatter between an engine's blocks and chunks of a pool, against one memcpy of as many bytes.

64 MiB in chunks of 2 or 32 MiB, blocks in random order: pages of 64 KiB; tokens before heads, in rows of a block; heads
before tokens, in rows of 256 bytes. Each call is timed as a whole, from the call until its future is done, and all that
was copied is compared once. The memcpy is the C library's, between the same memories, in the same process, in turn.
The bytes are more than the caches hold. With several threads nobody is pinned.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.pool_servers import PoolServing
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check
from ringcast.pool import KVLayout, Namespace, PoolClient, PoolServer, gather_paged, keys_from_hashes, scatter_paged

_MIB = 1 << 20
_BYTES = 64 * _MIB
_TIMES = 8
_SPACE = Namespace("benchmark", dtype="uint8", layout="bytes")


class Paged(Workload):
    """See the module."""

    key = "paged"
    title = "Gather and scatter"
    explain = f"{_BYTES // _MIB} MiB a call, blocks in random order"
    metrics = (
        Metric("gather", "gather", "GB/s", better="higher"),
        Metric("scatter", "scatter", "GB/s", better="higher"),
        Metric("memcpy", "memcpy", "GB/s", better="higher"),
    )

    def takes(self, subject: Subject) -> bool:
        """One that is made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """Forms of blocks, sizes of chunks, threads, with and without checksums."""
        return tuple(
            Case(
                f"{form}/{chunk}/{threads}/{checks}",
                f"chunks of {chunk} MiB, {'1 thread' if threads == 1 else f'{threads} threads'}, "
                f"{'checksums' if checks else 'none'}",
                group=group,
            )
            for form, group in _GROUPS.items()
            for chunk in ((2,) if settings.brief else (2, 32))
            for threads in (1, 2)
            for checks in (1, 0)
        )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """A server, and one worker."""
        assert isinstance(subject, PoolServing)
        name = bench.spec(1, 1, 1).name.replace("_", "-")
        form, chunk, threads, checks = case.key.split("/")
        times = bench.settings.count(_TIMES)

        def server(member: Member) -> None:
            with PoolServer(name, _BYTES + _MIB, entries=64, checksums=checks == "1"):
                member.meet()
                member.meet()

        def worker(member: Member) -> dict[str, float]:
            member.meet()
            kv, layout, ids = _MADE[form](int(chunk) * _MIB)
            with PoolClient.connect(name, layout=layout) as client:
                rates = _rates(client, kv, layout, ids, int(threads), times)
            member.meet()
            return rates

        placement = bench.placement if threads == "1" else bench.placement.free()
        return Outcome(bench.run(server, [worker], placement)[1])


def _rates(client: PoolClient, kv: Any, layout: KVLayout, ids: list[int], threads: int, times: int) -> dict[str, float]:
    keys = keys_from_hashes([i.to_bytes(8, "little") for i in range(_BYTES // layout.chunk_bytes)], _SPACE)
    source = np.ones(_BYTES, np.uint8)
    memcpy = ctypes.CDLL(None).memcpy
    memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    lease = client.prepare_store(keys)
    places = [slot.array.ctypes.data for slot in lease.slots]

    def plainly() -> None:
        for i, place in enumerate(places):
            memcpy(place, source.ctypes.data + i * layout.chunk_bytes, layout.chunk_bytes)

    def gather() -> None:
        gather_paged(kv, ids, lease, layout, threads=threads).result()

    copies, gathers = _in_turn(plainly, gather, times)
    client.commit_store(lease)
    first = [kv] if isinstance(kv, np.ndarray) else kv
    targets = [np.zeros_like(tensor) for tensor in first]
    with client.retrieve(keys) as found:
        wrong: list[int] = []

        def scatter() -> None:
            wrong.extend(scatter_paged(found, targets, ids, layout, threads=threads).result())

        _, scatters = _in_turn(lambda: None, scatter, times)
    check(not wrong, f"chunks {wrong} are not what was stored")
    check(all(map(np.array_equal, targets, first)), "the blocks are not what was gathered")
    return {"gather": _BYTES / gathers, "scatter": _BYTES / scatters, "memcpy": _BYTES / copies}


def _in_turn(first: Callable[[], None], second: Callable[[], None], times: int) -> tuple[float, float]:
    """Medians in ns of each, after one call that is not counted."""
    samples: tuple[list[int], list[int]] = ([], [])
    for _ in range(times + 1):
        for call, mine in zip((first, second), samples, strict=True):
            begin = time.perf_counter_ns()
            call()
            mine.append(time.perf_counter_ns() - begin)
    return statistics.median(samples[0][1:]) or 1.0, statistics.median(samples[1][1:])


def _shuffled(count: int) -> list[int]:
    order: list[int] = np.random.default_rng(1).permutation(count).tolist()
    return order


def _filled(shape: tuple[int, ...], dtype: str) -> Any:
    return np.random.default_rng(0).integers(0, 1 << 8, shape, dtype)


def _pages(chunk: int) -> tuple[Any, KVLayout, list[int]]:
    page = 64 << 10
    kv = _filled((_BYTES // page, page), "u1")
    return kv, KVLayout.pages([(kv, page)], pages_per_chunk=chunk // page), _shuffled(_BYTES // page)


def _tokens(dims: str, shape: tuple[int, ...], chunk: int) -> tuple[Any, KVLayout, list[int]]:
    """Eight layers of 8 heads of 128 elements of two bytes: a token has 32 KiB, a block 16 tokens."""
    blocks = _BYTES // (32 << 10) // 16
    kv = [_filled(tuple(blocks if extent == 0 else extent for extent in shape), "u2") for _ in range(8)]
    return kv, KVLayout.tokens(kv, chunk // (32 << 10), dims), _shuffled(blocks)


_GROUPS = {"pages": "opaque pages", "nhc": "tokens before heads", "hnc": "heads before tokens"}
_MADE: dict[str, Callable[[int], tuple[Any, KVLayout, list[int]]]] = {
    "pages": _pages,
    "nhc": lambda chunk: _tokens("2BNHC", (2, 0, 16, 8, 128), chunk),
    "hnc": lambda chunk: _tokens("BHNC", (0, 8, 16, 256), chunk),
}

"""Gather and scatter between an engine's blocks and chunks of a pool, against one memcpy of as many bytes.

64 MiB in chunks of 2 or 32 MiB, blocks in random order: pages of 64 KiB; tokens before heads, in rows of a block; heads
before tokens, in rows of 256 bytes. Each call is timed as a whole, from the call until its future is done, and all that
was copied is compared once. The memcpy is the C library's, by one thread between memory of the process and the same
chunks, in turn with the calls; beside each rate is its ratio to that. The bytes are more than the caches hold. With
several threads nobody is pinned.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.copying import Copying
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
        Metric("gather_ratio", "x memcpy", "x", better="higher"),
        Metric("scatter", "scatter", "GB/s", better="higher"),
        Metric("scatter_ratio", "x memcpy", "x", better="higher"),
    )

    def takes(self, subject: Subject) -> bool:
        """One that is made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """Forms of blocks, and sizes of chunks."""
        sizes = (2,) if settings.brief else (2, 32)
        return tuple(
            Case(f"{form}/{size}", f"{size} MiB", group=group, nbytes=size * _MIB)
            for form, group in _GROUPS.items()
            for size in sizes
        )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """A server, and one worker."""
        assert isinstance(subject, Copying)
        name = bench.spec(1, 1, 1).name.replace("_", "-")
        made = _MADE[case.key.split("/")[0]]
        times = bench.settings.count(_TIMES)

        def server(member: Member) -> None:
            with PoolServer(name, 2 * _BYTES, entries=128, checksums=subject.checksums):
                member.meet()
                member.meet()

        def worker(member: Member) -> dict[str, float]:
            member.meet()
            kv, layout, ids = made(case.nbytes)
            with PoolClient.connect(name, layout=layout) as client:
                rates = _rates(client, kv, layout, ids, subject.threads, times)
            member.meet()
            return rates

        placement = bench.placement if subject.threads == 1 else bench.placement.free()
        return Outcome(bench.run(server, [worker], placement)[1])


def _rates(client: PoolClient, kv: Any, layout: KVLayout, ids: list[int], threads: int, times: int) -> dict[str, float]:
    keys = keys_from_hashes([i.to_bytes(8, "little") for i in range(_BYTES // layout.chunk_bytes)], _SPACE)
    plain = np.ones(_BYTES, np.uint8)
    memcpy = ctypes.CDLL(None).memcpy
    memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    lease = client.prepare_store(keys)
    places = [slot.array.ctypes.data for slot in lease.slots]

    def gather() -> None:
        gather_paged(kv, ids, lease, layout, threads=threads).result()

    def plainly_in() -> None:
        for i, place in enumerate(places):
            memcpy(place, plain.ctypes.data + i * layout.chunk_bytes, layout.chunk_bytes)

    gathers = _in_turn("gather", gather, plainly_in, times)
    client.commit_store(lease)
    first = [kv] if isinstance(kv, np.ndarray) else kv
    targets = [np.zeros_like(tensor) for tensor in first]
    with client.retrieve(keys) as found:
        wrong: list[int] = []

        def scatter() -> None:
            wrong.extend(scatter_paged(found, targets, ids, layout, threads=threads).result())

        def plainly_out() -> None:
            for i, place in enumerate(places):
                memcpy(plain.ctypes.data + i * layout.chunk_bytes, place, layout.chunk_bytes)

        scatters = _in_turn("scatter", scatter, plainly_out, times)
    check(not wrong, f"chunks {wrong} are not what was stored")
    check(all(map(np.array_equal, targets, first)), "the blocks are not what was gathered")
    return gathers | scatters


def _in_turn(name: str, call: Callable[[], None], plainly: Callable[[], None], times: int) -> dict[str, float]:
    """The call's rate, and its ratio to plain copies: medians, after one turn that is not counted."""
    samples: list[tuple[int, float]] = []
    for _ in range(times + 1):
        begin = time.perf_counter_ns()
        plainly()
        between = time.perf_counter_ns()
        call()
        took = time.perf_counter_ns() - between
        samples.append((took, (between - begin) / took))
    took_ns, ratios = zip(*samples[1:], strict=True)
    return {name: _BYTES / statistics.median(took_ns), f"{name}_ratio": statistics.median(ratios)}


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

"""A pool's bytes, end to end: from an engine's pages into the pool and back, by n worker processes at once.

Each worker has 32 MiB in pages of 64 KiB, which are 16 chunks, in random order. Timed is all of it, with checksums, by
one thread a worker: `prepare_store`, `gather_paged`, `commit_store`; then `retrieve`, `scatter_paged`, and the end of
the `with` block. Workers begin each time together; a rate is the bytes of all of them from the first begin to the last
end, the median of a few times. Chunks are new each time, and the pool is soon full, so others go for them: the oldest
(LRU; ARC would rather keep what was used than what a worker has stored a moment ago, if another one comes late). What
came back is compared. Nobody is pinned where there are several workers.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.peers.pool_servers import PoolServing
from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check
from ringcast.pool import (
    ChunkStatus,
    KVLayout,
    Namespace,
    PoolClient,
    PoolServer,
    gather_paged,
    keys_from_hashes,
    scatter_paged,
)

_MIB = 1 << 20
_PAGE = 64 << 10
_CHUNK = 2 * _MIB
_CHUNKS = 16
_BYTES = _CHUNKS * _CHUNK
_TIMES = 8
_BEFORE = 2  # times that are not counted: the pool's memory has been used by then
_SPACE = Namespace("benchmark", dtype="uint8", layout="bytes")


class PoolBytes(Workload):
    """See the module."""

    key = "pool_bytes"
    title = "A pool's bytes, end to end"
    explain = f"{_BYTES // _MIB} MiB a worker in chunks of {_CHUNK // _MIB} MiB, rate of all workers together"
    metrics = (
        Metric("store", "store", "GB/s", better="higher"),
        Metric("retrieve", "retrieve", "GB/s", better="higher"),
    )

    def takes(self, subject: Subject) -> bool:
        """One that is made for it."""
        return self.key in subject.only

    def cases(self, settings: object) -> tuple[Case, ...]:
        """By the number of workers."""
        return tuple(Case(f"{n}", f"{n} worker{'' if n == 1 else 's'}", n) for n in self._readers)

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """A server, and so many workers."""
        assert isinstance(subject, PoolServing)
        name = bench.spec(1, 1, 1).name.replace("_", "-")
        workers, times = case.n_readers, bench.settings.count(_TIMES)

        def server(member: Member) -> None:
            with PoolServer(name, 2 * workers * _BYTES, policy="lru"):
                for _ in range(2 + 2 * (_BEFORE + times)):
                    member.meet()

        def worker(member: Member) -> list[tuple[int, int, int, int]]:
            kv = np.random.default_rng(member.rank).integers(0, 1 << 8, (_BYTES // _PAGE, _PAGE), np.uint8)
            back = np.zeros_like(kv)
            pages = np.random.default_rng(1).permutation(len(kv)).tolist()
            layout = KVLayout.pages([(kv, _PAGE)], pages_per_chunk=_CHUNK // _PAGE)
            member.meet()
            with PoolClient.connect(name, layout=layout) as client:
                spans = []
                for turn in range(_BEFORE + times):
                    hashes = [b"%d %d %d" % (member.rank, turn, i) for i in range(_CHUNKS)]
                    keys = keys_from_hashes(hashes, _SPACE)
                    member.meet()
                    began = time.perf_counter_ns()
                    lease = client.prepare_store(keys)
                    gather_paged(kv, pages, lease, layout, threads=1).result()
                    statuses = client.commit_store(lease)
                    stored = time.perf_counter_ns()
                    check(statuses == [ChunkStatus.COMMITTED] * _CHUNKS, f"chunks are {set(statuses)}")
                    member.meet()
                    asked = time.perf_counter_ns()
                    with client.retrieve(keys) as found:
                        check(found.hits == _CHUNKS, f"{found.hits} of {_CHUNKS} chunks were found")
                        wrong = scatter_paged(found, back, pages, layout, threads=1).result()
                    spans.append((began, stored, asked, time.perf_counter_ns()))
                    check(not wrong, f"chunks {wrong} are not what was stored")
            check(np.array_equal(kv, back), "the pages are not what was stored")
            member.meet()
            return spans

        placement = bench.placement if workers == 1 else bench.placement.free()
        spans = np.array(bench.run(server, [worker] * workers, placement)[1:])[:, _BEFORE:]
        took = [spans[:, :, end].max(0) - spans[:, :, end - 1].min(0) for end in (1, 3)]
        store, retrieve = (workers * _BYTES / statistics.median(each.tolist()) for each in took)
        return Outcome({"store": store, "retrieve": retrieve})

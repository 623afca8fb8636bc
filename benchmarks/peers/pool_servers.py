"""A pool's server, by what goes on where it runs: for the workloads of pools alone."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.no_queue import NoQueue


@dataclass(frozen=True)
class PoolServing(NoQueue):
    """`busy`: a thread of its process runs Python without end. `stopped`: it is stopped while hits are timed."""

    wait: str | None = None
    busy: bool = False
    stopped: bool = False
    only: tuple[str, ...] = ("pool",)


SUBJECTS = (
    PoolServing(
        "server", "server in a process of its own", "ringcast", "ringcast", "ringcast", only=("pool", "pool_bytes")
    ),
    PoolServing("server-yield", 'the same, wait="yield" on both sides', "ringcast", "ringcast", "extra", wait="yield"),
    PoolServing("server-busy", "beside a busy Python thread", "ringcast", "ringcast", "extra", busy=True),
    PoolServing("server-stopped", "stopped (SIGSTOP)", "ringcast", "ringcast", "extra", stopped=True),
)

"""How blocks are copied: for the workload of gather and scatter alone."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.no_queue import NoQueue


@dataclass(frozen=True)
class Copying(NoQueue):
    """By so many threads, with the chunks' checksums or without."""

    threads: int = 1
    checksums: bool = True
    only: tuple[str, ...] = ("paged",)


SUBJECTS = tuple(
    Copying(
        f"copy-{threads}" + ("" if checksums else "-unchecked"),
        f"{threads} thread{'' if threads == 1 else 's'}" + (", checksums" if checksums else ""),
        "ringcast",
        "ringcast",
        "ringcast" if (threads, checksums) == (1, True) else "extra",
        threads=threads,
        checksums=checksums,
    )
    for threads in (1, 2)
    for checksums in (True, False)
)

"""Tiers, beside what a disk does: chunks stored in a FileTier, past the page cache; as files through obstore, which go
into the page cache; and in a Mooncake Store, over TCP on the loopback.

Timed is one `store` or `load` of 128 MiB in chunks of one size, from the call to the future's result, with checksums,
headers and an index. The bound, of the FileTier, is one thread that writes or reads a preallocated file of that size in
the same pieces, one after the other, with O_DIRECT. Both write to blocks that were written before. All files are in the
folder of the run: set TMPDIR to measure another disk.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.tier_kinds import TierKind
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check
from ringcast.pool import MooncakeTier

_KIB, _MIB = 1 << 10, 1 << 20
_BYTES = 128 * _MIB
_CHUNKS = {"64 KiB": 64 * _KIB, "2 MiB": 2 * _MIB, "32 MiB": 32 * _MIB}


class Tiers(Workload):
    """See the module."""

    key = "tiers"
    title = "Tiers"
    explain = "128 MiB through a tier with four threads"
    metrics = (Metric("rate", "rate", "GB/s", better="higher"),)
    floor_label = "O_DIRECT, one thread"
    floor_in_python = True

    def lacking(self) -> str:
        """What the bound is measured with."""
        return "" if sys.platform == "linux" else "O_DIRECT is Linux's"

    def takes(self, subject: Subject) -> bool:
        """One that is made for it."""
        return self.key in subject.only

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """Each way, each size."""
        sizes = {"2 MiB": 2 * _MIB} if settings.brief else _CHUNKS
        return tuple(
            Case(f"{what}/{nbytes}", f"{what}, {title}", nbytes=nbytes)
            for what in ("store", "load")
            for title, nbytes in sizes.items()
        )

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """One call, in a process of its own."""
        assert isinstance(subject, TierKind)
        assert subject.open is not None
        opened = subject.open

        def alone(_member: Member) -> float:
            count = _BYTES // case.nbytes
            with _slots(case.nbytes) as slots, opened(Path(bench.workdir), count, case.nbytes) as tier:
                if isinstance(tier, MooncakeTier):
                    tier.register(slots[0].obj)
                _all(tier.store(_keys("before", count), slots).result())
                keys = _keys("now", count)
                begin = time.perf_counter()
                _all(tier.store(keys, slots).result())
                stored = time.perf_counter()
                if case.key.startswith("store"):
                    return stored - begin
                begin = time.perf_counter()
                _all(tier.load(keys, slots).result())
                return time.perf_counter() - begin

        return Outcome({"rate": _BYTES / bench.run(alone, [])[0] / 1e9})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """As dd does it."""
        path = Path(bench.workdir) / "raw"

        def alone(_member: Member) -> float:
            with _slots(case.nbytes) as slots, _removed(path):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
                try:
                    os.posix_fallocate(file, 0, _BYTES)
                    _transfer(os.pwritev, file, slots)
                    return _transfer(os.pwritev if case.key.startswith("store") else os.preadv, file, slots)
                finally:
                    os.close(file)

        return Outcome({"rate": _BYTES / bench.run(alone, [])[0] / 1e9})


def _keys(run: str, count: int) -> list[bytes]:
    return [f"{run} {number}".encode().ljust(32) for number in range(count)]


def _all(answers: list[bool]) -> None:
    check(all(answers), f"{answers.count(False)} of {len(answers)} chunks were not stored, or not found")


def _transfer(move: object, file: int, slots: list[memoryview]) -> float:
    """Seconds."""
    assert callable(move)
    begin = time.perf_counter()
    for number, slot in enumerate(slots):
        check(move(file, [slot], number * slot.nbytes) == slot.nbytes, "a transfer was cut short")
    return time.perf_counter() - begin


@contextmanager
def _slots(nbytes: int) -> Iterator[list[memoryview]]:
    """Memory that is there and aligned, in pieces."""
    memory = mmap.mmap(-1, _BYTES)
    whole = memoryview(memory)
    piece = os.urandom(_MIB)
    for at in range(0, _BYTES, _MIB):
        whole[at : at + _MIB] = piece
    yield [whole[at : at + nbytes] for at in range(0, _BYTES, nbytes)]


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)

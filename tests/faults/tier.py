"""A FileTier whose process is killed at every step of every write, and what must be true of its file afterwards.

`python -m tests.faults pool` runs these, too: each point at the first few times that a process comes to it, and the
point between two blocks of a write at many, past the page cache and through it, in a file with room and in a full one.
The process says what it is about to do and what it has done; only the last of that is uncertain when it is killed.
Afterwards every chunk that is found has right bytes, what was stored is there, what was removed or cleared is not, and
every slot of the file can be used.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ringcast import _core, errors
from ringcast.pool import FileTier
from tests.pool.tiers import BLOCK, CHUNK, key, loaded, store

KEYS = 24
OPERATIONS = 80
TIMES, TIMES_OF_BLOCKS = 3, 24
STRIDE = BLOCK + (CHUNK + BLOCK - 1) // BLOCK * BLOCK
ROOMY, TIGHT = KEYS + 8, 5  # slots
ROOT = Path(__file__).resolve().parents[2]

POINTS = frozenset(
    (
        "tier_file_made",
        "tier_header_written",
        "tier_grown",
        "tier_claimed",
        "tier_block_written",
        "tier_written",
        "tier_erase_begin",
        "tier_erased",
        "tier_era_raised",
    )
)


def opened(path: Path, slots: int, direct: bool) -> FileTier:
    return FileTier(path, BLOCK + slots * STRIDE, CHUNK, direct=direct, threads=1)


# --- The process.


def act(path: str, slots: int, direct: bool, seed: int, point: str, nth: int) -> None:
    """Stores, loads, removes and clears; says before and after each what it is."""
    _core._arm_fault(point, "kill", nth)  # type: ignore[attr-defined]
    chosen = random.Random(seed)
    with opened(Path(path), slots, direct) as tier:
        for _ in range(OPERATIONS):
            number, what = chosen.randrange(KEYS), chosen.random()
            act = "store" if what < 0.6 else "remove" if what < 0.8 else "clear" if what < 0.85 else "load"
            print(f"{act} {number}", flush=True)
            if act == "store":
                assert store(tier, number) == [True]
            elif act == "remove":
                tier.remove([key(number)]).result()
            elif act == "clear":
                tier.clear()
            else:
                loaded(tier, number)
            print("done", flush=True)


# --- What is known of it.


class Failed(Exception):
    pass


@dataclass
class Known:
    """What must be there, what must not, and what may, since a kill came in between."""

    there: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)

    def hear(self, act: str, number: int, done: bool) -> None:
        if act == "clear":
            self.maybe = set() if done else self.there
            self.there = set()
        elif act == "store" and done:
            self.there.add(number)
        elif act == "remove" and done:
            self.there.discard(number)
        elif act in ("store", "remove"):
            self.there.discard(number)
            self.maybe.add(number)


def heard(said: str) -> Known:
    known, lines = Known(), said.splitlines()
    for at in range(0, len(lines), 2):
        act, number = lines[at].split()
        known.hear(act, int(number), done=at + 1 < len(lines))
    return known


def run(point: str, nth: int, slots: int, direct: bool, seed: int) -> bool:
    """Was the process killed there?"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tier"
        words = ("tier-actor", path, slots, int(direct), seed, point, nth)
        command = [sys.executable, "-m", "tests.faults", *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        if done.returncode not in (0, -signal.SIGKILL):
            raise Failed(f"the process ended with {done.returncode}")
        check(path, slots, direct, heard(done.stdout))
        if os.listdir(folder) != ["tier"]:
            raise Failed(f"something is left: {os.listdir(folder)}")
        return done.returncode != 0


def check(path: Path, slots: int, direct: bool, known: Known) -> None:
    for _ in range(2):  # and the same is found again
        with opened(path, slots, direct) as tier:
            found = {number for number in range(KEYS) if loaded(tier, number)}
            if not found <= known.there | known.maybe:
                raise Failed(f"chunks {found - known.there - known.maybe} were removed or cleared, and are there")
            if slots == ROOMY and not found >= known.there:
                raise Failed(f"chunks {known.there - found} were stored, and are not there")
            if slots == TIGHT and len(found) < min(len(known.there), slots) - 1:  # that one was being written over
                raise Failed(f"only {len(found)} of {slots} slots have a chunk")
            if tier.stats()["used"] != len(found):
                raise Failed("the index has a chunk that is not found")
    with opened(path, slots, direct) as tier:
        tier.clear()
        fresh = range(KEYS, KEYS + slots)
        if store(tier, *fresh) != [True] * slots or not all(loaded(tier, number) for number in fresh):
            raise Failed("the file does not take as many chunks as it has slots")
        if tier.stats()["evicted"]:
            raise Failed("a slot is lost")
    size, status = BLOCK + slots * STRIDE, path.stat()
    if status.st_size != size or status.st_blocks * 512 > size + BLOCK:
        raise Failed(f"the file has {status.st_size} bytes, and {status.st_blocks * 512} of the disk, not {size}")


def main(rounds: int) -> int:
    logging.getLogger("ringcast").addHandler(logging.NullHandler())  # torn chunks are planned, and no output
    failures = hits = total = 0
    started = time.monotonic()
    for point in sorted(POINTS):
        times = 0
        count = rounds * (TIMES_OF_BLOCKS if point == "tier_block_written" else TIMES)
        for nth in range(1, count + 1):
            slots, direct = (ROOMY if nth % 3 else TIGHT), nth % 2 == 1
            try:
                times += run(point, nth, slots, direct, seed=nth + len(point))
            except (Failed, AssertionError, errors.RingcastError) as error:
                failures += 1
                print(f"FAILED: {point}, time {nth}, {slots} slots: {type(error).__name__}: {error}")
        hits, total = hits + times, total + count
        print(f"  {point:<24} killed {times} of {count} times", flush=True)
    print(f"{total} scenarios of a FileTier in {time.monotonic() - started:.0f} s: {hits} kills, {failures} failures")
    return 1 if failures else 0

"""Runs thousands of scenarios on a few lanes, and reports: what was hit, how soon deaths were known, what failed."""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ringcast import _core
from tests import own_shm
from tests.faults import core, desk, pool, tier, tiered
from tests.faults.plan import ALL_POINTS

ROOT = Path(__file__).resolve().parents[2]
_SILENCE_S = 120.0  # longer than any scenario's watchdogs


class Totals:
    """What all outcomes add up to."""

    def __init__(self) -> None:
        self.scenarios = 0
        self.failures = 0
        self.hits: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self.cleaned_by: Counter[str] = Counter()
        self.latencies_ms: list[float] = []
        self.lives = 0
        self.received = 0

    def add(self, outcome: dict[str, Any]) -> None:
        self.scenarios += 1
        self.hits.update(outcome["hits"])
        self.reached.update(outcome["reached"])
        self.cleaned_by[outcome["cleaned_by"]] += 1
        self.latencies_ms += outcome["latencies_ms"]
        self.lives += outcome["lives"]
        self.received += outcome["received"]
        if outcome["problems"]:
            self.failures += 1
            print(f"\nFAILED: {outcome['problems'][0]}")
            for problem in outcome["problems"][1:]:
                print(f"  and: {problem}")
            print(f"again: {_command(outcome['seed'])}\n", flush=True)

    def show(self, seconds: float) -> None:
        by_point: dict[str, list[str]] = {point: [] for point in sorted(ALL_POINTS)}
        for hit, times in sorted(self.hits.items()):
            point, _, action = hit.partition(" ")
            by_point[point].append(f"{action} {times}")
        print("\nhit, by point:")
        for point, actions in by_point.items():
            print(f"  {point:<22} {', '.join(actions) or 'never'}")
        print("\n/dev/shm was cleaned by: " + ", ".join(f"{who} {n}" for who, n in self.cleaned_by.most_common()))
        if self.latencies_ms:
            median, most = statistics.median(self.latencies_ms), max(self.latencies_ms)
            print(f"deaths known after: median {median:.1f} ms, at most {most:.0f} ms ({len(self.latencies_ms)} times)")
        print(
            f"{self.scenarios} scenarios in {seconds:.0f} s: {sum(self.hits.values())} faults, "
            f"{self.lives} attachments, {self.received} messages checked, {self.failures} failures"
        )


def _command(seed: int) -> str:
    return f"{core.VARIABLE}={os.environ[core.VARIABLE]} {sys.executable} -m tests.faults --seed {seed} --scenarios 1"


def _listen(lane: subprocess.Popen[str], said: queue.Queue[str | None]) -> None:
    assert lane.stdout is not None
    for line in lane.stdout:
        said.put(line)
    said.put(None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first scenario; the next one has the next (default random)")
    parser.add_argument("--scenarios", type=int, default=2000)
    parser.add_argument("--lanes", type=int, default=3, help="scenarios at a time")
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first failure")
    options = parser.parse_args()
    if set(_core._times_reached()) != ALL_POINTS | desk.POINTS | pool.POINTS | tier.POINTS | tiered.POINTS:  # type: ignore[attr-defined]
        print("the plan and the core do not know the same fault points", file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 40)
    shared = own_shm.enter()  # what the lanes do, too; here it tells whether they can
    if shared is not None and os.environ.get("CI"):
        print(f"each lane needs a /dev/shm of its own: {shared}", file=sys.stderr)
        return 2
    count = min(options.lanes if shared is None else 1, options.scenarios)
    print(f"seed {seed}: {options.scenarios} scenarios, {count} at a time", flush=True)
    started = time.monotonic()
    said: queue.Queue[str | None] = queue.Queue()
    lanes = []
    for number in range(count):
        share = len(range(number, options.scenarios, count))
        command = [sys.executable, "-m", "tests.faults", "lane", str(seed + number), str(share), str(count)]
        # A thread in the process that forks would not be in its children.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        lane = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        lanes.append(lane)
        threading.Thread(target=_listen, args=(lane, said), daemon=True).start()
    totals = Totals()
    running = count
    while running and not (options.stop_at_first and totals.failures):
        line = said.get(timeout=_SILENCE_S)
        if line is None:
            running -= 1
        else:
            totals.add(json.loads(line))
    for lane in lanes:
        if options.stop_at_first and totals.failures:
            lane.terminate()
        lane.wait()
    totals.show(time.monotonic() - started)
    if totals.scenarios < options.scenarios and not options.stop_at_first:
        print(f"only {totals.scenarios} of {options.scenarios} scenarios were run to their ends", file=sys.stderr)
        return 1
    return 1 if totals.failures else 0

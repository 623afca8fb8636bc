"""What scenarios with one fault each share. Little is imported here: each of their many processes does it again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from ringcast import _core, errors

PATIENCE_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    pass


class Runs(Protocol):
    """A scenario: one fault, and whether it has come."""

    hit: bool

    def run(self) -> None: ...

    def end(self) -> None: ...


def first_line(process: subprocess.Popen[str]) -> str:
    """What it said first; empty if it died before."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(condition: Callable[[], bool], what: str, within: float = PATIENCE_S) -> float:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > within:
            raise Failed(f"not within {within:g} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - started


def run_all(what: str, points: Iterable[str], times: Sequence[int], scenario_of: Callable[[str, int], Runs]) -> int:
    """Each point at each of these times; 1 if anything was wrong."""
    failures = hits = total = 0
    started = time.monotonic()
    for point in sorted(points):
        killed = 0
        for nth in times:
            scenario = scenario_of(point, nth)
            try:
                scenario.run()
            except (Failed, AssertionError, errors.RingcastError, subprocess.TimeoutExpired) as error:
                failures += 1
                print(f"FAILED: {point}, time {nth}: {type(error).__name__}: {error}")
            finally:
                scenario.end()
                _core.sweep("ringcast_", "", dry_run=False)
            killed += scenario.hit
        hits, total = hits + killed, total + len(times)
        print(f"  {point:<24} killed {killed} of {len(times)} times", flush=True)
    print(f"{total} scenarios of {what} in {time.monotonic() - started:.0f} s: {hits} kills, {failures} failures")
    return 1 if failures else 0


def end_all(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

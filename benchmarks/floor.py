"""The native floor program: built with cmake on first use, then run beside the subjects, round by round.

It says what this machine can do without Python at the same moment: a cache line's way from one CPU to the other, a
futex wake after idleness, a memcpy, and the ring's own rate. Where it cannot be built, the report names the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ringcast.cli.lab.placement import Placement

SOURCE = Path(__file__).parent / "native"
BUILD = Path(__file__).parent.parent / "build" / "benchmarks" / "native"
_NOT_IN_THIS_BUILD = 2


class FloorError(RuntimeError):
    """The floor program cannot be built or run; the message says why."""


class NotInThisBuildError(FloorError):
    """This build of the floor program lacks that measurement."""


class Floor:
    """The built floor program."""

    def __init__(self, placement: Placement, build: Path = BUILD) -> None:
        """Build the program, unless it is up to date."""
        self._placement = placement
        self._program = _built(build)

    def ping_pong(self, blocks: int) -> float:
        """One-way p50 in ns of a cache line between the writer's CPU and reader 0's."""
        answer = self._run("pingpong", self._placement.writer, self._placement.reader(0), blocks)
        return float(answer["p50_ns"])

    def wakes(self, count: int, idle_seconds: float) -> list[int]:
        """One-way latencies in ns of futex wakes after so much idleness."""
        micros = round(idle_seconds * 1e6)
        answer = self._run("wake", self._placement.writer, self._placement.reader(0), count, micros)
        return [round(value) for value in answer["one_way_ns"]]

    def copies(self, seconds_per_size: float) -> dict[int, float]:
        """GB/s of one memcpy by size in bytes."""
        answer = self._run("memcpy", self._placement.writer, seconds_per_size)
        return {int(rate["bytes"]): float(rate["gb_per_s"]) for rate in answer["rates"]}

    def copy_between(self, nbytes: int, sources: int, destinations: int, seconds: float) -> float:
        """GB/s of one memcpy from so many sources in turn to so many destinations in shared memory in turn."""
        answer = self._run("between", self._placement.writer, nbytes, sources, destinations, seconds)
        return float(answer["gb_per_s"])

    def ring(self, n_readers: int, messages: int, message_bytes: int, depth: int) -> float:
        """Messages a second of the ring with no Python. Raises `NotInThisBuildError` without the core."""
        readers = ",".join(str(self._placement.reader(rank)) for rank in range(n_readers))
        answer = self._run("ring", self._placement.writer, readers, messages, message_bytes, depth)
        return float(answer["messages_per_s"])

    def chain(self, trips: int) -> float:
        """One-way p50 in ns by a futex wake, TCP over loopback and a second wake, through four processes."""
        answer = self._run("chain", self._placement.writer, self._placement.reader(0), trips)
        return float(answer["p50_ns"])

    def pump(self, nbytes: int, depth: int, seconds: float) -> float:
        """Messages a second through a ring, TCP over loopback and a second ring, each of so many places."""
        answer = self._run("pump", self._placement.writer, self._placement.reader(0), nbytes, depth, seconds)
        return float(answer["messages_per_s"])

    def tcp(self, nbytes: int, seconds: float) -> float:
        """GB/s of TCP over loopback, sent and received so many bytes at a time."""
        answer = self._run("tcp", self._placement.writer, self._placement.reader(0), nbytes, seconds)
        return float(answer["gb_per_s"])

    def _run(self, *words: object) -> dict[str, Any]:
        command = [str(self._program), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == _NOT_IN_THIS_BUILD:
            raise NotInThisBuildError(done.stderr.strip())
        if done.returncode != 0:
            raise FloorError(f"{words[0]}: exit status {done.returncode}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _built(build: Path) -> Path:
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if cmake is None:
        raise FloorError("cmake is not installed")
    for command in (
        [cmake, "-S", str(SOURCE), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"],
        [cmake, "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FloorError(f"{' '.join(command[:2])} failed:\n{done.stdout}{done.stderr}")
    return build / "ringcast_floor"

"""Builds and runs the core's C++ tests, for this machine or another. `python -m tests.core.building` builds those that
have a sanitizer."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

PROGRAMS = [
    "block_allocator",
    "copies",
    "desk",
    "endpoint",
    "geometry",
    "link",
    "lock_file",
    "page_map",
    "parking",
    "policies",
    "pool",
    "prefault",
    "ring",
    "selection",
    "stress",
    "tap",
    "turn",
    "waiting",
]
FLAVOURS = {"plain": "", "thread": "thread", "address": "address,undefined"}
"""Their sanitizers."""
BUILDS = ROOT / "build" / "core-tests"
STRESS_SECONDS = float(os.environ.get("RINGCAST_STRESS_SECONDS", "1"))
BUILD_SECONDS = 900.0
RUN_SECONDS = 900.0 + STRESS_SECONDS
"""For a machine that does more important things besides."""


def tool(name: str) -> str | None:
    beside_python = Path(sys.executable).with_name(name)
    return str(beside_python) if beside_python.exists() else shutil.which(name)


def run(command: list[str], *, seconds: float = RUN_SECONDS, **environment: str) -> str:
    """Its standard output. What went wrong otherwise is in the error, with all that it printed."""
    env = {**os.environ, **environment}
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode(errors="replace")
        raise AssertionError(f"{command[0]} has not ended in {seconds:.0f} s, after it printed:\n{printed}") from None
    assert result.returncode == 0, f"{command[0]} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(name: str, *options: str, target: str = "all") -> Path:
    """The folder of what was built. It is kept between runs, so that only what changed is compiled.

    Of several processes that want it at once one builds, and the others find it done.
    """
    cmake, ninja = tool("cmake"), tool("ninja")
    assert cmake is not None, "CMake is needed"
    folder = BUILDS / name
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = [cmake, "-S", str(Path(__file__).parent), "-B", str(folder), *generator, *options]
        run(configure, seconds=BUILD_SECONDS)
        run([cmake, "--build", str(folder), "--parallel", "--target", target], seconds=BUILD_SECONDS)
    return folder


def build_flavour(name: str) -> Path:
    return build(name, f"-DRINGCAST_SANITIZE={FLAVOURS[name]}")


if __name__ == "__main__":
    for flavour, sanitizer in FLAVOURS.items():
        if sanitizer:
            print("built:", build_flavour(flavour), flush=True)

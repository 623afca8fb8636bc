"""Builds and runs the core's C++ tests: plainly, and under the thread, address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PROGRAMS = ["block_allocator", "endpoint", "geometry", "lock_file", "page_map", "parking", "ring", "turn"]
BUILDS = {"plain": "", "thread": "thread", "address": "address,undefined"}


def tool(name: str) -> str | None:
    beside_python = Path(sys.executable).with_name(name)
    return str(beside_python) if beside_python.exists() else shutil.which(name)


def run(command: list[str], **environment: str) -> None:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=280
    )
    print(result.stdout)
    print(result.stderr, file=sys.stderr)
    assert result.returncode == 0, f"{command[0]} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"


@pytest.fixture(scope="session", params=BUILDS)
def programs(request: pytest.FixtureRequest) -> Path:
    """The folder of the built programs. Builds are kept between runs, so that only what changed is compiled."""
    cmake = tool("cmake")
    if cmake is None or tool("c++") is None:
        if os.environ.get("CI"):
            pytest.fail("CMake and a C++ compiler are needed")
        pytest.skip("CMake or a C++ compiler is missing")
    build: Path = ROOT / "build" / "core-tests" / str(request.param)
    ninja = tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    source = str(Path(__file__).parent)
    run([cmake, "-S", source, "-B", str(build), *generator, f"-DRINGCAST_SANITIZE={BUILDS[request.param]}"])
    run([cmake, "--build", str(build), "--parallel"])
    return build


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_core_s_own_tests_pass(programs: Path, program: str) -> None:
    run([str(programs / f"{program}_test")], TSAN_OPTIONS="halt_on_error=1", UBSAN_OPTIONS="print_stacktrace=1")

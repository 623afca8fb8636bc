"""Builds and runs the core's C++ tests: plainly, and under the thread, address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.building import FLAVOURS, PROGRAMS, build_flavour, run, tool

pytestmark = pytest.mark.timeout(1800)  # the first one builds all
PARAMETERS = [pytest.param(name, marks=[pytest.mark.sanitized] if value else []) for name, value in FLAVOURS.items()]


@pytest.fixture(scope="session", params=PARAMETERS)
def programs(request: pytest.FixtureRequest) -> Path:
    """The folder of the built programs, which has the flavour's name."""
    if tool("cmake") is None or tool("c++") is None:
        if os.environ.get("CI"):
            pytest.fail("CMake and a C++ compiler are needed")
        pytest.skip("CMake or a C++ compiler is missing")
    return build_flavour(str(request.param))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_core_s_own_tests_pass(programs: Path, program: str) -> None:
    printed = run(
        [str(programs / f"{program}_test")], TSAN_OPTIONS="halt_on_error=1", UBSAN_OPTIONS="print_stacktrace=1"
    )
    for line in printed.splitlines():
        if line.startswith("stress:"):
            print(f"\n{FLAVOURS[programs.name] or 'no'} sanitizer: {line}")

"""The core for other machines: for Linux on aarch64 with its tests run under qemu, for macOS on arm64 compiled and
linked, and for Linux compiled by Clang; `make cross`.

That the tests pass under qemu shows that the core compiles and runs there. It is no evidence about weak memory orders:
on an x86-64 host the emulator's loads and stores keep the host's order.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import sys
import time
from pathlib import Path

from tests import own_shm
from tests.core.building import BUILDS, PROGRAMS, build, run

GCC = "aarch64-linux-gnu-g++"
# The oldest macOS that the wheels are for; see pyproject.toml.
MACOS = "aarch64-macos.11.0"


def zig() -> Path | None:
    package = importlib.util.find_spec("ziglang")
    return Path(package.origin).parent / "zig" if package is not None and package.origin is not None else None


def qemu() -> str | None:
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def missing() -> list[str]:
    """What is not there, with the remedy."""
    absent = []
    if shutil.which(GCC) is None:
        absent.append(f"{GCC}, a compiler for aarch64: apt-get install g++-aarch64-linux-gnu")
    if qemu() is None:
        absent.append("qemu-aarch64, which runs its programs: apt-get install qemu-user")
    if zig() is None:
        absent.append("ziglang, Clang for macOS and Linux: pip install ziglang")
    return absent


def compiled(folder: Path, under: str = "/") -> int:
    commands = json.loads((folder / "compile_commands.json").read_text())
    return sum(under in command["file"] for command in commands)


def aarch64() -> str:
    folder = build(
        "aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={GCC}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        "-DRINGCAST_EMULATED=ON",
    )
    emulator = qemu()
    assert emulator is not None
    printed = [line for program in PROGRAMS for line in run([emulator, str(folder / f"{program}_test")]).splitlines()]
    tests = [line for line in printed if line.isidentifier()]
    assert len(tests) > len(PROGRAMS), "the programs no longer say the names of their tests"
    return f"{compiled(folder)} files compiled, {len(PROGRAMS)} programs with {len(tests)} tests passed under qemu"


def with_clang(target: str, system: str, processor: str, build_target: str) -> Path:
    """Builds with zig's Clang and its headers and libraries of the target's system. None of it is run: Clang warns of
    the same without optimisation, for which it would take longer."""
    tools = BUILDS / f"zig-{target}"
    tools.mkdir(parents=True, exist_ok=True)
    # CMake would link a program to see which compiler it is, for which zig would compile a C++ library first.
    only_compiled = 'case "$*" in *CMakeCXXCompilerId*) set -- -c "$@" ;; esac\n'
    for name, call in {"c++": f"c++ -target {target}", "ar": "ar", "ranlib": "ranlib"}.items():
        script = tools / name
        run_zig = f'ZIG_GLOBAL_CACHE_DIR="{BUILDS / "zig-cache"}" exec "{zig()}" {call} "$@"\n'
        script.write_text(f"#!/bin/sh\n{only_compiled}{run_zig}")
        script.chmod(0o755)
    return build(
        f"clang-{target}",
        "-DRINGCAST_UNITY=OFF",  # so that each file is seen to include what it needs
        "-DRINGCAST_COMPILED_ONLY=ON",
        f"-DCMAKE_SYSTEM_NAME={system}",
        f"-DCMAKE_SYSTEM_PROCESSOR={processor}",
        f"-DCMAKE_CXX_COMPILER={tools / 'c++'}",
        f"-DCMAKE_AR={tools / 'ar'}",
        f"-DCMAKE_RANLIB={tools / 'ranlib'}",
        "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        target=build_target,
    )


def macos() -> str:
    folder = with_clang(MACOS, "Darwin", "arm64", "all")
    for program in PROGRAMS:
        magic = (folder / f"{program}_test").read_bytes()[:4]
        assert magic == b"\xcf\xfa\xed\xfe", f"{program}_test is not a 64-bit Mach-O file: {magic!r}"
    return f"{compiled(folder)} files compiled, {len(PROGRAMS)} programs linked; they do not run here"


def linux_clang() -> str:
    machine = platform.machine()
    folder = with_clang(f"{machine}-linux-gnu", "Linux", machine, "ringcast_core")
    return f"{compiled(folder, '/src/core/')} files compiled, the core without its tests"


def main() -> int:
    for absent in missing():
        print("missing:", absent, file=sys.stderr)
    if missing():
        return 1
    own_shm.enter()  # the tests that run under qemu see their own segments alone
    steps = {
        f"Linux on aarch64, {GCC}": aarch64,
        f"macOS on arm64, Clang ({MACOS})": macos,
        "Linux on this processor, Clang": linux_clang,
    }
    for what, step in steps.items():
        begin = time.monotonic()
        print(f"{what}: {step()}; {time.monotonic() - begin:.0f} s; all warnings are errors", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

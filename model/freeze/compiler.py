"""What this machine's compiler makes of plain flags: `compiled.cpp`, compiled as anybody would, run and read."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAM = ROOT / "build" / "freeze"
LOOPS = {
    "bare": "plain flags, nothing else in the polling loop",
    "pausing": "plain flags, a pause instruction in the loop",
    "calling": "plain flags, a call into the C library in the loop",
    "relaxed": "relaxed atomic flags, nothing else in the loop",
}


def compile_program() -> None:
    """With `c++ -O2`; raises `FileNotFoundError` where there is none."""
    PROGRAM.parent.mkdir(exist_ok=True)
    sources = ["-I", str(ROOT / "model"), str(HERE / "compiled.cpp"), "-o", str(PROGRAM)]
    subprocess.run(["c++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", *sources], check=True)


def outcome(loop: str) -> str:
    """Of a reader that polls so: "went on", "went on before the message", or "froze"."""
    return subprocess.run([str(PROGRAM), loop], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def stores_of_a_write() -> list[str] | None:
    """The stores of `write_plain` into the chunk, as machine code in its order; None where they cannot be read."""
    if shutil.which("objdump") is None or platform.machine() != "x86_64":
        return None
    command = ["objdump", "-d", "--no-show-raw-insn", "--disassemble=write_plain", str(PROGRAM)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [" ".join(store.split()) for store in re.findall(r"\t(v?mov\S*\s+[^\s(]+,\S*\(%rdi\))", text)]


def after_the_flag(stores: list[str]) -> list[str]:
    """Those that come after the store of 1 to the flag that says "written", which is the chunk's first byte."""
    last = max((i for i, store in enumerate(stores) if re.fullmatch(r"movb \$0x1,(0x0)?\(%rdi\)", store)), default=-1)
    return stores[last + 1 :] if last != -1 else []

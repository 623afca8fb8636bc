"""What a receiver does in place to what it got, around NumPy's flags, too: nobody crashes, and nobody else sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_python

HEAD = """
import ctypes, gc, warnings
import numpy as np
from ringcast import MessageQueue
warnings.simplefilter("ignore")
writer = MessageQueue(2, max_bytes=8 << 20, max_chunk_bytes=1 << 20)
handle = writer.export_handle()
mine, other = (MessageQueue.create_from_handle(handle, rank, **OPTIONS) for rank in (0, 1))

def overwrite(array):  # as a C library does that was given the address
    ctypes.memset(array.ctypes.data, 0xFF, array.nbytes)

def overwrite_with_torch(array):
    import torch
    torch.from_numpy(array).fill_(-1)

def arrays_in(message):
    if isinstance(message, (list, tuple)): return [a for part in message for a in arrays_in(part)]
    if isinstance(message, dict): return arrays_in(list(message.values()))
    return [message if isinstance(message, np.ndarray) else message.numpy()]

def check(make, overwrite):
    for n in range(1, 30):  # the same blocks carry one message after another
        writer.enqueue(make(n), timeout=10)
        got, untouched = mine.dequeue(10), other.dequeue(10)
        for array in arrays_in(got):
            assert (array == n).all(), "what was written over an earlier message shows"
            if n % 3: overwrite(array)
            assert n % 3 == 0 or (array.view(np.uint8) == 0xFF).all()
        for array in arrays_in(untouched):
            assert (array == n).all(), "another reader sees what was written"
        got = untouched = array = None
"""

PAYLOADS = {
    "an array": "lambda n: np.full(100_000, n, np.int64)",
    "a small array": "lambda n: np.full(100, n, np.int64)",
    "an array of one element": "lambda n: np.full(1, n, np.int8)",
    "arrays of several sizes": "lambda n: {'a': np.full(70_000, n), 'b': [np.full(7, n), np.full((300, 300), n)]}",
    "a message of many small arrays": "lambda n: [np.full(50, n) for _ in range(300)]",
    "a tensor": "lambda n: __import__('torch').full((100_000,), n)",
    "tensors in a message": "lambda n: {'x': __import__('torch').full((100_000,), n), 'y': np.full(100_000, n)}",
    "an array above max_chunk_bytes": "lambda n: np.full(300_000, n)",
}
OPTIONS = {
    "as it comes": {},
    "copied": {"copy": True},
    "viewed": {"copy": False},
    "zero_copy": {"zero_copy": True},
    "zero_copy, viewed": {"zero_copy": True, "copy": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_changes_in_place_crash_nobody_and_are_seen_by_nobody_else(options: dict[str, bool]) -> None:
    pytest.importorskip("torch")
    script = f"OPTIONS = {options!r}\n{HEAD}"
    for name, make in PAYLOADS.items():
        script += f"print({name!r}, flush=True)\n"
        script += f"check({make}, overwrite)\ncheck({make}, overwrite_with_torch)\n"
    result = run_python(script + "print('end')\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "end", result.stdout


def test_what_was_written_is_forgotten_where_the_system_counts_no_page_faults(tmp_path: Path) -> None:
    """As in a sandbox that tells of a process only what time it took."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        assert not os.environ.get("CI"), "CI needs a C compiler"
        pytest.skip("needs a C compiler, and a loader that preloads")
    source, library = tmp_path / "no_counts.c", tmp_path / "no_counts.so"
    source.write_text("""
#include <string.h>
#include <sys/resource.h>
int getrusage(int who, struct rusage *usage) { memset(usage, 0, sizeof *usage); return 0; }
""")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    script = f"OPTIONS = {{}}\n{HEAD}" + "".join(f"check({make}, overwrite)\n" for make in PAYLOADS.values())
    result = run_python(script, env={"LD_PRELOAD": str(library)})
    assert (result.returncode, result.stderr) == (0, "")


def test_a_view_of_a_raw_chunk_may_be_written_through_its_address() -> None:
    result = run_python(
        "OPTIONS = {}\n"
        + HEAD
        + """
for n in range(1, 20):
    writer.enqueue(bytes([n]) * 300_000, timeout=10)
    with mine.acquire_read(10) as view: overwrite(np.frombuffer(view, np.uint8)[:-1])
    assert other.dequeue(10) == bytes([n]) * 300_000
"""
    )
    assert (result.returncode, result.stderr) == (0, "")

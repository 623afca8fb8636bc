"""What the queues' calls cost, whoever's queues they are: a plugin of vLLM's that counts in each of its processes.

Each process keeps its counts in a file, which the driver reads while it runs: calls, seconds of CPU, seconds.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "RINGCAST_ENGINE_PROBE"
_FORM = struct.Struct("<qdd")


class Counts(NamedTuple):
    """Of one process, since it began."""

    calls: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def since(self, before: Counts) -> Counts:
        """What came after `before`."""
        return Counts(self.calls - before.calls, self.cpu_s - before.cpu_s, self.wall_s - before.wall_s)


def read(folder: Path, pid: int) -> Counts:
    """What the process has counted so far."""
    try:
        return Counts(*_FORM.unpack((folder / str(pid)).read_bytes()[: _FORM.size]))
    except FileNotFoundError:
        return Counts()


def install(folder: Path) -> Path:
    """A folder for PYTHONPATH by which vLLM finds `register` as a plugin."""
    found = folder / "ringcast_engine_probe-0.dist-info"
    found.mkdir(parents=True, exist_ok=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: ringcast-engine-probe\nVersion: 0\n")
    (found / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nringcast_engine_probe = benchmarks.engine.probe:register\n"
    )
    return folder


def register() -> None:
    """Called by vLLM: from now on this process counts."""
    global _file
    folder = os.environ.get(FOLDER)
    if not folder or _file is not None:
        return
    from ringcast import vllm as plugin

    plugin.register()  # whichever of the two plugins comes first
    from vllm.distributed.device_communicators import shm_broadcast

    descriptor = os.open(f"{folder}/{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    _file = mmap.mmap(descriptor, mmap.PAGESIZE)
    os.close(descriptor)
    kind: Any = shm_broadcast.MessageQueue
    for name in ("enqueue", "dequeue"):
        setattr(kind, name, _counted(getattr(kind, name)))


_file: mmap.mmap | None = None


def _counted(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def counting(*arguments: Any, **options: Any) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            assert _file is not None
            calls, cpu_s, wall_s = _FORM.unpack_from(_file)
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            _FORM.pack_into(_file, 0, calls + 1, cpu_s + cpu, wall_s + wall)

    return counting

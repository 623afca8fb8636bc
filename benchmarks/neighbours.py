"""Busy processes beside a measurement: each computes without end at normal priority, as other people's jobs do.

They stay in the benchmark's session: where Linux groups processes by session (autogroup), those of another would share
CPUs with all of ours together, and not with each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

from ringcast.cli.lab.crew import die_with


@contextmanager
def neighbours(cpus: Sequence[int | None]) -> Iterator[list[int]]:
    """One busy process for each entry while the block runs, on that CPU, or where the scheduler likes: their ids."""
    context = multiprocessing.get_context("fork")
    processes = []
    try:
        for cpu in cpus:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_compute, args=(cpu, theirs, os.getpid()), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            with ours:
                ours.recv_bytes()
        yield [process.pid for process in processes if process.pid is not None]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _compute(cpu: int | None, ready: Connection, parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    ready.send_bytes(b"busy")
    while True:
        pass

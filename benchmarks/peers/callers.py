"""Who calls a method in other processes, and waits for all their answers: for the workload "calls" alone.

Each is used as its documentation shows first, with processes started by spawn. An executor's processes hold no object
of the user's; its call to n of them is n submits, which it may give to whom it likes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers.no_queue import NoQueue
from ringcast import WorkerGroup


class Worker:
    """What is called."""

    def step(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"n": batch["n"]}


def step(batch: dict[str, Any]) -> dict[str, Any]:
    """The same, of executors."""
    return {"n": batch["n"]}


Calls = Callable[[Any], Sequence[Any]]
Close = Callable[[], object]


@dataclass(frozen=True)
class Caller(NoQueue):
    """`make` starts so many workers, and returns a call of all of them, and their end."""

    make: Callable[[int], tuple[Calls, Close]] = lambda n: (_none, _none)
    only: tuple[str, ...] = ("calls",)


def _none(*_: Any) -> Any:
    raise NotImplementedError  # each subject names its own `make`


def group(n: int) -> tuple[Calls, Close]:
    """Ours, with the default way of waiting."""
    made = WorkerGroup(Worker, n)
    return lambda batch: made.call("step", batch), made.close


def _serve(connection: Connection) -> None:
    worker = Worker()
    while True:
        call = connection.recv()
        if call is None:
            return
        number, name, arguments, options = call
        connection.send((number, getattr(worker, name)(*arguments, **options)))


def pipes(n: int) -> tuple[Calls, Close]:
    """What one writes by hand: a pipe to each, no errors, no deaths, no deadlines."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(n)]
    processes = [context.Process(target=_serve, args=(theirs,)) for _, theirs in ends]
    for process in processes:
        process.start()
    ours = [end for end, _ in ends]

    def call(batch: Any) -> list[Any]:
        for end in ours:
            end.send((0, "step", (batch,), {}))
        return [end.recv()[1] for end in ours]

    def close() -> None:
        for end in ours:
            end.send(None)
        for process in processes:
            process.join()

    return call, close


def _of(executor: Executor, n: int) -> tuple[Calls, Close]:
    def call(batch: Any) -> list[Any]:
        futures = [executor.submit(step, batch) for _ in range(n)]
        return [future.result() for future in futures]

    return call, executor.shutdown


def executor(n: int) -> tuple[Calls, Close]:
    """The standard library's."""
    return _of(ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")), n)


def loky(n: int) -> tuple[Calls, Close]:
    """joblib's."""
    from loky import ProcessPoolExecutor as Loky

    return _of(Loky(n), n)


SUBJECTS = (
    Caller("group", "ringcast WorkerGroup", "ringcast", "ringcast", "ringcast", make=group),
    Caller("pipes", "multiprocessing.Pipe", "multiprocessing", make=pipes),
    Caller("executor", "ProcessPoolExecutor", "concurrent.futures", make=executor),
    Caller("loky", "loky", "loky", "loky", make=loky),
)

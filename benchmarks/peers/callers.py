"""Who calls a method in other processes, and waits for all their answers: for the workloads of calls alone.

Each is used as its documentation shows first, with processes started by spawn. An executor's processes hold no object
of the user's; its call to n of them is n submits, which it may give to whom it likes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.peers.no_queue import NoQueue
from ringcast import WorkerGroup

ARRAY_BYTES = 16 << 20
ARRAYS = 3


class Worker:
    """What is called."""

    def step(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"n": batch["n"]}

    def array(self, number: int) -> Any:
        return array(number)


def step(batch: dict[str, Any]) -> dict[str, Any]:
    """The same, of executors."""
    return {"n": batch["n"]}


def array(number: int) -> Any:
    """One of some arrays in turn, each full of its own number."""
    return _arrays()[number % ARRAYS]


@lru_cache(maxsize=1)
def _arrays() -> list[Any]:
    import numpy as np

    return [np.full(ARRAY_BYTES, number, np.uint8) for number in range(ARRAYS)]


class Calling(Protocol):
    """So many workers that have been started."""

    def call(self, name: str, argument: Any, /) -> Sequence[Any]:
        """Of all of them; what they answer."""

    def submit(self, name: str, argument: Any) -> Callable[[], Sequence[Any]]:
        """The same, without waiting: what is returned waits."""

    def close(self) -> object:
        """Ends them."""


@dataclass(frozen=True)
class Caller(NoQueue):
    """`make` starts so many workers."""

    make: Callable[[int], Calling] | None = None
    only: tuple[str, ...] = ("calls", "calls_rate", "calls_array")


class Group:
    """Ours, with the default way of waiting."""

    def __init__(self, n: int) -> None:
        self._group = WorkerGroup(Worker, n)
        self.call = self._group.call
        self.close = self._group.close

    def submit(self, name: str, argument: Any) -> Callable[[], Sequence[Any]]:
        return self._group.submit(name, argument).result


def _serve(connection: Connection) -> None:
    worker = Worker()
    while True:
        call = connection.recv()
        if call is None:
            return
        number, name, arguments, options = call
        connection.send((number, getattr(worker, name)(*arguments, **options)))


class Pipes:
    """What one writes by hand: a pipe to each, no errors, no deaths, no deadlines."""

    def __init__(self, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(n)]
        self._processes = [context.Process(target=_serve, args=(theirs,)) for _, theirs in ends]
        for process in self._processes:
            process.start()
        self._ends = [end for end, _ in ends]

    def call(self, name: str, argument: Any) -> list[Any]:
        return self.submit(name, argument)()

    def submit(self, name: str, argument: Any) -> Callable[[], list[Any]]:
        for end in self._ends:
            end.send((0, name, (argument,), {}))
        return self._receive

    def _receive(self) -> list[Any]:
        return [end.recv()[1] for end in self._ends]

    def close(self) -> None:
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()


class Executing:
    """An executor: a call is a submit for each worker, which it may give to whom it likes."""

    def __init__(self, executor: Executor, n: int) -> None:
        self._executor = executor
        self._n = n

    def call(self, name: str, argument: Any) -> list[Any]:
        return self.submit(name, argument)()

    def submit(self, name: str, argument: Any) -> Callable[[], list[Any]]:
        functions: dict[str, Callable[[Any], Any]] = {"step": step, "array": array}
        futures: list[Future[Any]] = [self._executor.submit(functions[name], argument) for _ in range(self._n)]
        return lambda: [future.result() for future in futures]

    def close(self) -> None:
        self._executor.shutdown()


def executor(n: int) -> Executing:
    """The standard library's."""
    return Executing(ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")), n)


def loky(n: int) -> Executing:
    """joblib's."""
    from loky import ProcessPoolExecutor as Loky

    return Executing(Loky(n), n)


class Actors:
    """Ray's, in a cluster of one node that has nothing else to do."""

    def __init__(self, n: int) -> None:
        import ray

        self._ray: Any = ray
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # which is how it will be, and else it warns
        self._ray.init(num_cpus=n, include_dashboard=False, log_to_driver=False, logging_level="error")
        self._actors = [self._ray.remote(Worker).options(num_cpus=1).remote() for _ in range(n)]

    def call(self, name: str, argument: Any) -> list[Any]:
        return self.submit(name, argument)()

    def submit(self, name: str, argument: Any) -> Callable[[], list[Any]]:
        answers = [getattr(actor, name).remote(argument) for actor in self._actors]
        return lambda: list(self._ray.get(answers))

    def close(self) -> None:
        self._ray.shutdown()


SUBJECTS = (
    Caller("group", "ringcast WorkerGroup", "ringcast", "ringcast", "ringcast", make=Group),
    Caller("pipes", "multiprocessing.Pipe", "multiprocessing", make=Pipes),
    Caller("executor", "ProcessPoolExecutor", "concurrent.futures", make=executor),
    Caller("loky", "loky", "loky", "loky", make=loky),
    Caller("ray", "Ray actors", "ray", "ray", make=Actors),
)

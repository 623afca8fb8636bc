"""The processes of a group, all together: started, brought back, and ended."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ringcast import _at_exit, _core, _reports
from ringcast._dropping import in_background
from ringcast._names import PREFIX, suffix
from ringcast._refusals import named, naming_limits
from ringcast._registry import Registry
from ringcast.errors import CallTimeoutError, EncodeError, RingcastError
from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers import _program
from ringcast.workers._attendant import Attendant
from ringcast.workers._birth import RING_DEPTH, Birth, Descriptor
from ringcast.workers._calls import Calls
from ringcast.workers._echo import Echo
from ringcast.workers._failures import Failure, note, one_of, unpacked
from ringcast.workers._keeper import Keeper
from ringcast.workers._starting import Patience
from ringcast.workers._steps import Steps
from ringcast.workers._worker import Worker

_DOING = "while its object was made"
_AFTER_TERM_S = 0.5
_OTHERS_S = 0.05
"""Once one could not be started, others have so long to say that they could not either."""
_IN_HASTE_S = 0.5
_MOMENT_S = 0.002
_FOR_THE_KERNEL_S = 10.0
"""How long a killed process is waited for, which may still write its core or wait for a device."""


class Crew:
    """Made by a WorkerGroup, which it does not refer to; ends when told, or when that is collected."""

    def __init__(
        self,
        label: str,
        kind: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        options: Mapping[str, Any],
        start_method: str,
        env: Mapping[str, str],
        wait: Wait,
        prints: bool,
        allow_callables: bool,
        max_bytes: int | None,
    ) -> None:
        n = len(arguments)
        self.pid = os.getpid()
        self.label = label
        _program.check(start_method)
        by_name = _program.is_theirs(kind, start_method)
        self._made_of = [_pickled((kind, own, dict(options)), label, by_name) for own in arguments]
        self._context = multiprocessing.get_context(start_method)
        self._prints = prints
        self._closing = False
        self._ending = threading.RLock()
        self._ended = False
        ring: MessageQueue[Any] = MessageQueue(
            n, max_chunks=RING_DEPTH, max_bytes=max_bytes, on_reader_death="evict", wait=wait
        )
        nothing: Any = None
        self._birth = Birth(
            0, b"", ring.export_handle(), nothing, Descriptor(-1), Descriptor(-1), Descriptor(-1), None, dict(env),
            wait, allow_callables, max_bytes,
        )  # fmt: skip
        self._ring = ring
        self.calls = Calls(ring, range(n), label, self._leaves, wait)
        self.calls.stacks = self._stacks
        self._steps = Steps(self.calls)
        self.workers: list[Worker] = []
        self._attendant = Attendant(self.calls)
        self._echo = Echo(label) if prints else None
        try:
            self._keeper = Keeper(wait, self._steps, self._died)
        except BaseException:
            if self._echo is not None:
                self._echo.close()  # or its thread would go on for ever
            raise
        _crews.add(self)
        atexit.unregister(_end_all)
        atexit.register(_end_all)  # before the handler that closes queues, and those that join processes

    def start(self, timeout: float | None) -> None:
        """All of them. Raises what keeps any from starting; then none runs."""
        try:
            for rank in self.calls.every:
                self.workers.append(self._new(rank))
            self._start(self.workers, timeout)
        except BaseException:
            self.end(0.0, "could not be started")
            raise

    def respawn(self, rank: int, timeout: float | None) -> None:
        """A new process, and object, in the place of one that has ended. Raises what keeps it from starting."""
        while self._keeper.keeps(self.workers[rank]) or self.calls.deaths:  # or the new one would be told to be dead
            self._check_is_open()
            if not self._steps.take("taking answers", self.calls.look):
                time.sleep(_MOMENT_S)
        worker = self._new(rank)
        self.workers[rank] = worker
        try:
            self._start([worker], timeout)
            self._check_is_open()  # or nobody ends it
            with self.calls._sending:  # so that nobody sends to it who is not told of its end
                if not worker.ended.is_set():
                    del self.calls.dead[rank]
        except BaseException as error:
            self._keeper.signal(worker, signal.SIGKILL)
            self._await([worker], _FOR_THE_KERNEL_S)
            if self.calls.closed is not None and worker.ring is not None:
                worker.ring.close(0)  # it may have come too late to be closed with the others
            if isinstance(error, Exception):
                self._check_is_open()
            raise

    def _new(self, rank: int) -> Worker:
        with naming_limits(f"{self.calls.label}: making the pipes to rank {rank}"):
            worker = Worker(self._context, rank, self._prints)
        if self._echo is not None:
            self._echo.add(worker)
        return worker

    def _check_is_open(self) -> None:
        if self.calls.closed is not None:
            raise self.calls.closed_error()

    def end(self, timeout: float, why: str) -> None:
        """Asks, then SIGTERM, then SIGKILL. Afterwards no process is left. Any number of times."""
        if self.pid != os.getpid():
            return
        self.calls.close(why)
        self._closing = True
        with self._ending:
            if not self._ended:
                self._end(timeout)

    def drop(self) -> None:
        """For finalizers."""
        in_background(self.end, _IN_HASTE_S, "was dropped without close()")

    def _end(self, timeout: float) -> None:
        for worker in self.workers:
            if not worker.pid:
                self._keeper.signal(worker, signal.SIGKILL)
        try:
            if timeout > 0 and not self._await(self.workers, timeout):
                self._signal_all(signal.SIGTERM)
                self._await(self.workers, _AFTER_TERM_S)
        finally:
            self._signal_all(signal.SIGKILL)
            self._await(self.workers, _FOR_THE_KERNEL_S)
            self._attendant.end()
            self._keeper.end(_FOR_THE_KERNEL_S)
            if self._echo is not None:
                self._echo.close()
            self.calls.let_go()
            self._attendant.end()  # once more: who led until then may have left it something to tell
            if any((worker.exitcode or 0) < 0 for worker in self.workers):  # it may not have got to tell of its ring
                _core.sweep(PREFIX, suffix(), dry_run=False)
            _crews.discard(self)
            self._ended = True

    def _start(self, workers: Sequence[Worker], timeout: float | None) -> None:
        patience = Patience(timeout, self.calls.label, self._check_is_open)
        for worker in workers:
            self._keeper.start(worker, self._birth._replace(made_of=self._made_of[worker.rank]))
        changed = self._keeper.changed
        while not all(worker.ready.is_set() for worker in workers):
            if any(worker.ended.is_set() or worker in self._keeper.failures for worker in workers):
                time.sleep(_OTHERS_S)
                raise self._not_started(workers)
            late = [worker for worker in workers if not worker.ready.is_set()]
            if late and patience.over([worker.rank for worker in late], _DOING):
                raise self._started_late(late, patience)
            with changed:
                changed.wait(patience.slice())
        for worker in workers:
            assert worker.ring is not None
            self.calls.rings.add(worker.rank, worker.ring)

    def _not_started(self, workers: Sequence[Worker]) -> BaseException:
        errors: list[BaseException] = []
        for worker in workers:
            failure = self._keeper.failures.get(worker)
            if isinstance(failure, Failure):
                errors.append(unpacked(failure, worker.rank, _DOING))
            elif failure is not None:
                failure = named(failure, f"{self.calls.label}: starting rank {worker.rank}")
                note(failure, f"{self.label}: while rank {worker.rank} was started")
                errors.append(failure)
            elif worker.ended.is_set():
                errors.append(worker.died("while its object was made; what it printed says more"))
        return one_of(errors, f"{self.label}: the start")

    def _started_late(self, late: Sequence[Worker], patience: Patience) -> CallTimeoutError:
        stacks = {worker.rank: worker.stacks() for worker in late if worker.pid}
        ranks = tuple(worker.rank for worker in late)
        shown = "".join(f"\nrank {rank}:\n{text}" for rank, text in stacks.items())
        return CallTimeoutError(f"{patience.told(ranks, _DOING)}{shown}", ranks, stacks)

    def _await(self, workers: Sequence[Worker], seconds: float) -> bool:
        """Until all have ended; takes what they still answer, since they may wait for that."""
        until = time.monotonic() + seconds
        while not all(worker.ended.is_set() for worker in workers):
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._steps.take("taking answers", self.calls.look)
            with self._keeper.changed:
                self._keeper.changed.wait(min(left, 0.02))
        return True

    def _signal_all(self, number: int) -> None:
        for worker in self.workers:
            if not worker.ended.is_set():
                self._keeper.signal(worker, number)

    # Called by the keeper, and by whoever leads.

    def _died(self, worker: Worker) -> None:
        calls, steps, rank = self.calls, self._steps, worker.rank
        error = worker.died(steps.take("naming its call", calls.doing, rank) or "and what it did is not known")
        calls.dead[rank] = str(worker.death)
        if not self._closing and worker.ring is not None:
            steps.take("logging a death", _reports.worker_died, calls.label, rank, worker.pid, str(error))
        if not self._closing:
            with suppress(Exception):
                self._ring.evict(rank)
        calls.deaths.append((rank, error))
        if worker.ring is not None:
            worker.ring._rouse()
        if not steps.take("taking answers", calls.look):
            calls.on_stray()

    def _leaves(self, rank: int, _: RingcastError) -> None:
        worker = self.workers[rank]
        if not worker.ended.is_set():
            if worker.leaving_since is None:
                worker.leaving_since = time.monotonic()
            self._keeper.look()

    def _stacks(self, ranks: Sequence[int]) -> dict[int, str]:
        asked = (self.workers[rank] for rank in ranks)
        return {worker.rank: worker.stacks() for worker in asked if not worker.ended.is_set()}


_crews: Registry[Crew] = Registry()


def _end_all() -> None:
    for crew in _crews.own():
        crew.end(_IN_HASTE_S if _at_exit.process_has_failed() else 5.0, "was closed when its process ended")


_at_exit.on_failure.append(_end_all)


def _pickled(made_of: Any, label: str, by_name: bool) -> bytes:
    """For a process that is not there yet. Raises EncodeError."""
    try:
        if by_name:
            return pickle.dumps(made_of, 5)
    except Exception as error:
        try:
            import cloudpickle
        except ImportError:
            raise EncodeError(f"{label}: the class and arguments cannot be pickled ({error})") from error
    else:
        try:
            import cloudpickle
        except ImportError as error:
            raise EncodeError(
                f"{label}: it is defined in the program itself, which workers do not import, for it was typed in, or "
                "is a __main__.py: put the class into a module, or install cloudpickle"
            ) from error
    try:
        return bytes(cloudpickle.dumps(made_of, 5))
    except Exception as error:
        raise EncodeError(f"{label}: the class and arguments cannot be pickled ({error})") from error

"""The processes of a scenario, forked from one that has imported ringcast and owns no end.

Each does what its plan says, checks what it receives, and sends a Report when it has closed its ends. What it did not
expect is a problem in the report.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from ringcast import Handle, MessageQueue, _core
from ringcast.errors import (
    CapacityError,
    NotReadyError,
    QueueClosedError,
    QueueTimeoutError,
    ReaderDiedError,
    ReaderEvictedError,
    RingcastError,
    SegmentNotFoundError,
    WriterDiedError,
)
from ringcast.instruments import list_queues, sweep
from tests import own_shm
from tests.faults import messages
from tests.faults.board import Board
from tests.faults.plan import Beside, Fault, ReaderPlan, Scenario

Link: TypeAlias = "Connection[Any, Any]"
_PATIENCE_S = 0.25
_PATIENCE_IN_FULL_MEMORY_S = 15.0  # much longer than it is full
_EXIT_CODES = {"return": 0, "sys.exit": 7, "exception": 1}
_TIGHT_BYTES = 6 << 20
_TIGHT_LEASES = 6


@dataclass
class Life:
    """One attachment of a reader. Counts are of messages; times of the monotonic clock, in ns."""

    sent_before: int
    attempted_after: int
    first: int | None = None
    next: int = 0
    end: str = ""
    attached_ns: int = 0
    received_ns: int = 0
    ended_ns: int = 0


@dataclass
class Report:
    """What an actor says when it has closed its ends."""

    lives: list[Life] = field(default_factory=list)
    end: str = ""
    rescued_wakes: int = 0
    deaths_ns: list[tuple[int, int]] = field(default_factory=list)  # a reader's: (call began, error raised)
    problems: list[str] = field(default_factory=list)
    times_reached: dict[str, int] = field(default_factory=dict)


Act: TypeAlias = Callable[[Link, Report], None]


@dataclass
class Actor:
    """An actor as its parent sees it."""

    what: str
    rank: int | None
    fault: Fault | None
    pid: int
    link: Link
    report: Report | None = None
    status: int | None = None  # as waitpid says it
    ended_ns: int = 0
    resume_ns: int | None = None
    was_stopped: bool = False
    killed_by_us: bool = False

    @property
    def planned_code(self) -> int:
        return _EXIT_CODES[self.fault.ends] if self.fault is not None and self.fault.action == "exit" else 0

    @property
    def was_killed(self) -> bool:
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


def start(what: str, rank: int | None, fault: Fault | None, stderr: int, stacks: int, act: Act) -> Actor:
    """Forks a process that runs `act(link, report)`."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid:
        os.close(sending)
        return Actor(what, rank, fault, pid, Connection(receiving, writable=False))
    code = 1
    exits = False
    try:
        os.dup2(stderr, 2)
        logging.getLogger("ringcast").addHandler(logging.NullHandler())  # evictions are planned, and no output
        faulthandler.register(signal.SIGUSR1, file=stacks)
        link: Link = Connection(sending, readable=False)
        report = Report()
        if fault is not None:
            action = {"stop then kill": "stop", "exit": "delay"}.get(fault.action, fault.action)
            _core._arm_fault(fault.point, action, fault.nth, fault.delay_us)  # type: ignore[attr-defined]
        if fault is not None and fault.action == "exit":
            _act_until(fault, act, link, report)
            exits = True
        else:
            _act(act, link, report)
        report.times_reached = _core._times_reached()  # type: ignore[attr-defined]
        link.send(report)
        if not exits:
            atexit._run_exitfuncs()
        code = 0
    except BaseException:
        exits = False
        traceback.print_exc()
    finally:
        if not exits:
            os._exit(code)
    assert fault is not None
    if fault.ends == "exception":
        sys.excepthook = lambda *_: None
        raise _PlannedError
    sys.exit(_EXIT_CODES[fault.ends])  # through the lane's frames to the interpreter's own end


class _PlannedError(BaseException):
    """Ends a process as an error that nobody handles."""


def _act(act: Act, link: Link, report: Report) -> None:
    try:
        act(link, report)
    except BaseException:
        report.problems.append(traceback.format_exc())


def _act_until(fault: Fault, act: Act, link: Link, report: Report) -> None:
    """Acts in a daemon thread, beside others, until one is at the fault's point or the act is over."""
    acting = threading.Thread(target=_act, args=(act, link, report), daemon=True)
    acting.start()
    for what in fault.beside:
        threading.Thread(target=_be_busy, args=(what,), daemon=True).start()
    while acting.is_alive() and _core._times_reached()[fault.point] < fault.nth:  # type: ignore[attr-defined]
        time.sleep(0.0005)


def _be_busy(what: Beside) -> None:
    """Native calls without end, on queues of its own."""
    with suppress(RingcastError):  # from the exit on
        if what == "large":
            with MessageQueue(1) as writer, MessageQueue.create_from_handle(writer.export_handle(), 0) as reader:
                while True:
                    writer.enqueue(np.zeros(1 << 20, np.uint8))
                    reader.dequeue()
        while True:
            if what == "create":
                MessageQueue(1).close(0)
            elif what == "sweep":
                sweep()
            elif what == "list":
                list_queues()
            else:
                with suppress(SegmentNotFoundError):
                    MessageQueue.attach("nobody", timeout=0.001)


def write(scenario: Scenario, name: str | None, board: Board, link: Link, report: Report) -> None:
    """The writer: makes the queue and sends its messages, in spite of readers that die."""
    plan = scenario.writer
    queue = MessageQueue(
        len(scenario.readers),
        name=name,
        max_chunks=scenario.depth,
        max_chunk_bytes=messages.MAX_CHUNK_BYTES,
        max_bytes=_TIGHT_BYTES if scenario.tight else None,
        max_leases=_TIGHT_LEASES if scenario.tight else None,
        on_reader_death="evict" if plan.on_death == "automatic" else "raise",
        wait=plan.wait,
    )
    link.send(queue.export_handle())
    if plan.awaits_readers:
        with suppress(NotReadyError, ReaderDiedError):
            queue.wait_until_ready(_PATIENCE_S)
    evictions = list(plan.evictions)
    number = 0
    while number < plan.messages:
        while evictions and evictions[0][0] <= number:
            _evict(queue, board, evictions.pop(0)[1])
        batch = [messages.make(scenario.seed, n, scenario.mix) for n in range(number, plan.messages)[: plan.batch]]
        board.attempted = number + len(batch)
        sent = _send(queue, scenario, board, batch, report)
        number += sent
        board.sent = number
        if sent < len(batch):
            board.attempted = number
            report.end = "stopped"
            break
        if plan.pause_every and number // plan.batch % plan.pause_every == 0:
            time.sleep(0.001)
    else:
        report.end = "sent all"
    report.rescued_wakes = queue.stats()["rescued_wakes"]
    if plan.closes:
        _evict_the_gone(queue, board)
        with suppress(QueueTimeoutError):  # a rank was killed before it attached, only now
            queue.close()


def _send(queue: MessageQueue, scenario: Scenario, board: Board, batch: list[Any], report: Report) -> int:
    """Sends the batch; fewer than all of it only if a dead reader is to stop the writer. Returns how many."""
    sent = 0
    patience_s = _PATIENCE_IN_FULL_MEMORY_S if scenario.hogged else _PATIENCE_S
    while True:
        began = time.monotonic_ns()
        try:
            if len(batch) == 1:
                (_lend if scenario.writer.lends else MessageQueue.enqueue)(queue, batch[0], patience_s)
                return 1
            return sent + queue.enqueue_many(batch[sent:], timeout=patience_s)
        except CapacityError as error:
            sent += error.sent or 0
            if not scenario.hogged:
                raise
            time.sleep(0.001)  # nobody holds memory that could be waited for
        except QueueTimeoutError as error:
            assert not scenario.hogged, "memory was free again, and the writer did not see it"
            sent += error.sent or 0
            _evict_the_gone(queue, board)
        except ReaderDiedError as error:
            sent += error.sent or 0
            report.deaths_ns.append((began, time.monotonic_ns()))
            if scenario.writer.on_death == "stop":
                return sent
            rank = error.rank
            assert rank is not None
            _evict(queue, board, rank)


def _lend(queue: MessageQueue, message: Any, timeout: float) -> None:
    """Sends it by a loan, if it can be."""
    if isinstance(message, bytes):
        with queue.loan(len(message), timeout) as view:
            view[:] = message
    elif isinstance(message, np.ndarray):
        with queue.loan_array(message.shape, message.dtype, timeout) as array:
            array[:] = message
    else:
        queue.enqueue(message, timeout)


def _evict_the_gone(queue: MessageQueue, board: Board) -> None:
    """Those who have ended and will not come again, some without ever having attached."""
    for rank in range(board.gone.bit_length()):
        if board.gone >> rank & 1:
            _evict(queue, board, rank)


def _evict(queue: MessageQueue, board: Board, rank: int) -> None:
    board.evicted |= 1 << rank
    queue.evict(rank)


def read(
    scenario: Scenario,
    plan: ReaderPlan,
    name: str | None,
    handle: Handle | None,
    board: Board,
    link: Link,
    report: Report,
) -> None:
    """A reader: receives and checks until the end, and attaches again if it is evicted."""
    while board.attempted < plan.joins_after and not board.writer_over:
        time.sleep(0.0005)
    while True:
        sent_before = board.sent
        queue = _attach(plan, name, handle, board)
        if queue is None:
            report.end = "nothing to attach to"
            return
        life = Life(sent_before, board.attempted, attached_ns=time.monotonic_ns())
        report.lives.append(life)
        kept: list[Any] = []
        life.end = _receive_all(scenario, plan, queue, life, kept)
        life.ended_ns = time.monotonic_ns()
        report.rescued_wakes += queue.stats()["rescued_wakes"]
        numbers = [messages.number_of(message) for message in kept]
        if plan.closes or life.end == "evicted":
            queue.close()
        assert [messages.number_of(message) for message in kept] == numbers, "a view changed with the end's closing"
        report.end = life.end
        if life.end != "evicted":
            return


def _attach(plan: ReaderPlan, name: str | None, handle: Handle | None, board: Board) -> MessageQueue | None:
    while True:
        over = board.writer_over
        try:
            options: dict[str, Any] = {"wait": plan.wait, "zero_copy": plan.zero_copy}
            if handle is not None:
                return MessageQueue.create_from_handle(handle, plan.rank, **options)
            assert name is not None
            return MessageQueue.attach(name, plan.rank, timeout=0.05, **options)
        except SegmentNotFoundError:
            if over or handle is not None:
                return None


def _receive_all(scenario: Scenario, plan: ReaderPlan, queue: MessageQueue, life: Life, kept: list[Any]) -> str:
    """Receives until the end, whose kind it returns."""
    try:
        for message in _messages(scenario, plan, queue, life, kept):
            number = messages.number_of(message)
            if life.first is None:
                life.first = life.next = number
            assert number == life.next, f"message {number} came in place of {life.next}"
            life.next += 1
            life.received_ns = time.monotonic_ns()
            if plan.keeps and messages.is_view(message):
                kept.append(message)
                if len(kept) > plan.keeps:
                    messages.spoil(kept.pop(number % len(kept)))
            if plan.leaves_after is not None and life.next - life.first >= plan.leaves_after:
                return "left"
        return "closed"
    except QueueClosedError:
        return "closed"
    except WriterDiedError:
        return "writer died"
    except ReaderEvictedError:
        return "evicted"


def _messages(scenario: Scenario, plan: ReaderPlan, queue: MessageQueue, life: Life, kept: list[Any]) -> Iterator[Any]:
    """The messages, received in the way of the plan."""
    if scenario.tight:
        # A writer that waits for memory gets it back: who keeps views has to let go of them in the end.
        while True:
            try:
                message = queue.dequeue(timeout=0.02)
            except QueueTimeoutError:
                kept[:1] = []
                continue
            yield message
            del message
    elif plan.reading == "iterate":
        for message in queue:  # not `yield from`, which would close the queue with this generator
            yield message
    elif plan.reading == "many":
        while True:
            yield from queue.dequeue_many(5)
    elif plan.reading == "try":
        while True:
            message = queue.try_dequeue()
            if message is None:
                time.sleep(0.0002)
            else:
                yield message
    else:
        while True:
            # The chunk of a message that travels as it is can be checked as it lies there.
            expected = messages.make(scenario.seed, life.next, scenario.mix) if life.first is not None else None
            if plan.reading == "acquire" and isinstance(expected, bytes):
                with queue.acquire_read() as view:
                    message = bytes(view)
                yield message
            else:
                yield queue.dequeue()


def clean(what: str, name: str | None, link: Link, report: Report) -> None:
    """A process that comes later: makes the next queue, or sweeps."""
    if what == "sweep":
        sweep()
    else:
        MessageQueue(1, name=name).close(0)


def hog(board: Board, link: Link, report: Report) -> None:
    """Fills /dev/shm and frees it again, a few times."""
    path = own_shm.SHM / "hog"
    for _ in range(5):
        with path.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        time.sleep(0.03)
        path.unlink()
        if board.writer_over:
            return
        time.sleep(0.01)

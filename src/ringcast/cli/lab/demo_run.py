"""What the demo does, without how it looks: count alone, count with workers, then compare the broadcast itself."""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ringcast import Handle, MessageQueue
from ringcast.cli.common import CommandError
from ringcast.cli.lab.channels import RingcastSender, Sender, StandardSender
from ringcast.cli.lab.demo_corpus import SourceFile, count_tokens
from ringcast.cli.lab.demo_worker import RECEIVE, TOKENIZE, work
from ringcast.cli.lab.measure import Result, measuring_team, run_pass
from ringcast.cli.lab.team import LOOK_SECONDS, Team
from ringcast.errors import PeerError, RingcastError

DEPTH = 64
ITEM_OVERHEAD = 64 << 10  # more than a file's path and the form of its message take
PACE_SECONDS = 0.002

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Counted:
    """The tokens of each file, by its path, and how long it took to count them."""

    tokens: dict[str, int]
    seconds: float

    @property
    def total(self) -> int:
        return sum(self.tokens.values())


def count_alone(files: Sequence[SourceFile], advance: Advance) -> Counted:
    """Count every file's tokens in this process: what the workers' answers are checked against."""
    begun = time.monotonic()
    tokens = {}
    for file in files:
        tokens[file.path] = count_tokens(file.data)
        advance(1)
    return Counted(tokens, time.monotonic() - begun)


class Demo:
    """The workers, and the channels to them. A context manager: leaving it ends them."""

    def __init__(self, files: Sequence[SourceFile], workers: int, compare: bool) -> None:
        self._files = files
        self._stack = ExitStack()
        with self._stack:  # a failure on the way undoes what was done
            largest = max(len(file.data) for file in files) + ITEM_OVERHEAD
            self.senders: list[Sender] = [RingcastSender(workers, depth=DEPTH, largest=largest)]
            self._stack.callback(self.senders[0].close)
            if compare:
                self.senders.append(StandardSender(workers, depth=DEPTH))
                self._stack.callback(self.senders[1].close)
            self.team: Team = self._stack.enter_context(measuring_team(work, workers, self.senders, workers))
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, value, tb)

    def count(self, advance: Advance) -> tuple[Counted, Result]:
        """Broadcast every file to all workers and gather the answers, which flow back meanwhile."""
        begun = time.monotonic()
        with _Answers(len(self.team), advance) as answers:
            result = run_pass(
                self.team, self.senders[0], TOKENIZE, _items(self._files),
                started=lambda: answers.read(self.team.receive_all()),
            )  # fmt: skip
            tokens = answers.gather(self.team)
        return Counted(tokens, time.monotonic() - begun), result

    def broadcast(self, sender: Sender, rounds: int, advance: Advance) -> Result:
        """Every file, so many times, as fast as it goes."""
        return run_pass(self.team, sender, RECEIVE, _items(list(self._files) * rounds, advance))

    def broadcast_paced(self, sender: Sender, messages: int, advance: Advance) -> Result:
        """One file at a time, with a pause after each: the latency of a queue that is not backed up."""
        # Every size in turn, not the largest only.
        chosen = [self._files[at % len(self._files)] for at in range(0, messages * 7, 7)]
        return run_pass(self.team, sender, RECEIVE, _items(chosen, advance, pause=PACE_SECONDS))


def checksum_of(files: Iterable[SourceFile]) -> int:
    """The checksum that a worker has that received all files in order."""
    checksum = 0
    for file in files:
        checksum = zlib.crc32(file.data, checksum)
    return checksum


def _items(
    files: Iterable[SourceFile], advance: Advance = lambda steps: None, pause: float = 0.0
) -> Iterator[dict[str, Any]]:
    """The messages, each made when it is its turn, so that the time in it is that of its sending."""
    for file in files:
        data = np.frombuffer(file.data, dtype=np.uint8)
        yield {"path": file.path, "size": len(file.data), "sent": time.monotonic_ns(), "data": data}
        advance(1)
        if pause:
            time.sleep(pause)


class _Answers:
    """Reads the workers' queues, a thread for each, while the parent still broadcasts: else both sides might wait."""

    def __init__(self, workers: int, advance: Advance) -> None:
        self._arrived: queue.SimpleQueue[tuple[str, int] | RingcastError | None] = queue.SimpleQueue()
        self._workers = workers
        self._advance = advance
        self._queues: list[MessageQueue] = []
        self._threads: list[threading.Thread] = []

    def read(self, handles: Sequence[Handle]) -> None:
        """Begin to read."""
        for handle in handles:
            self._queues.append(MessageQueue.create_from_handle(handle, 0))
            self._threads.append(threading.Thread(target=self._drain, args=(self._queues[-1],), daemon=True))
            self._threads[-1].start()

    def gather(self, team: Team) -> dict[str, int]:
        """All answers, when every worker has closed its queue."""
        tokens: dict[str, int] = {}
        open_queues = self._workers
        while open_queues:
            try:
                answer = self._arrived.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                team.check()
                continue
            if isinstance(answer, PeerError):
                team.explain(answer)
            if isinstance(answer, RingcastError):
                raise answer
            if answer is None:
                open_queues -= 1
            elif answer[0] in tokens:
                raise CommandError(f"two workers answered for {answer[0]}")
            else:
                tokens[answer[0]] = answer[1]
        return tokens

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in self._queues:
            one.shutdown()  # ends the thread's wait
        for thread in self._threads:
            if thread.ident is not None:  # an interruption may have come before it was started
                thread.join()
        for one in self._queues:
            one.close()

    def _drain(self, answers: MessageQueue) -> None:
        try:
            for answer in answers:
                self._advance(1)
                self._arrived.put(answer)
        except RingcastError as error:
            self._arrived.put(error)
        else:
            self._arrived.put(None)

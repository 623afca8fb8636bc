"""A pass: the parent sends messages through one channel, every worker takes them all, and the cost is counted.

Seconds run from the first send until the last worker has taken the last message; CPU seconds are those of the parent
and of all workers together; a latency runs from just before the send until the message is in a worker's hands, decoded.
Times of different processes are compared by the machine's monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.channels import Receive, Sender, Ticket
from ringcast.cli.lab.team import Team

END = None  # the message after the last one of a pass


@dataclass
class Taken:
    """What a worker has taken in one pass."""

    messages: int = 0
    bytes: int = 0
    checksum: int = 0
    latencies: list[int] = field(default_factory=list)  # nanoseconds


@dataclass(frozen=True)
class Order:
    """What the parent asks of each worker: to take all messages of the channel as `kind` says."""

    kind: str
    channel: str


@dataclass(frozen=True)
class _Report:
    taken: Taken
    cpu_seconds: float
    finished: int  # on the monotonic clock, in nanoseconds


@dataclass(frozen=True)
class Result:
    """A pass as a whole."""

    taken: list[Taken]  # by rank
    seconds: float
    cpu_seconds: float

    @property
    def messages_per_second(self) -> float:
        """How many messages a second reached every worker."""
        return self.taken[0].messages / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """How much payload a second reached every worker, counted once."""
        return self.taken[0].bytes / self.seconds

    def latency(self, share: float) -> float:
        """The latency in seconds that this share of all deliveries did not exceed."""
        ordered = sorted(latency for taken in self.taken for latency in taken.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e9 if ordered else 0.0


def run_pass(
    team: Team, sender: Sender, kind: str, messages: Iterable[Any], started: Callable[[], None] = lambda: None
) -> Result:
    """Send the messages and END, and gather what the workers say; `started` is called before the first is sent."""
    team.send_all(Order(kind, sender.name))
    started()
    cpu = time.process_time()
    begun = time.monotonic_ns()
    for message in messages:
        sender.send(team, message)
    sender.send(team, END)
    reports: list[_Report] = team.receive_all()
    cpu = time.process_time() - cpu
    return Result(
        taken=[report.taken for report in reports],
        seconds=(max(report.finished for report in reports) - begun) / 1e9,
        cpu_seconds=cpu + sum(report.cpu_seconds for report in reports),
    )


def serve(
    pipe: Connection[Any, Any], tickets: Mapping[str, Ticket], kinds: Mapping[str, Callable[[Receive], Taken]]
) -> None:
    """A worker: open its channels, say so, then obey orders until the parent closes the pipe."""
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(ticket.open()) for name, ticket in tickets.items()}
        pipe.send("ready")
        while True:
            try:
                order = pipe.recv()
            except EOFError:
                return
            cpu = time.process_time()
            taken = kinds[order.kind](receivers[order.channel])
            pipe.send(_Report(taken, time.process_time() - cpu, time.monotonic_ns()))


@contextmanager
def measuring_team(work: Callable[..., None], workers: int, senders: Sequence[Sender], *own: Any) -> Iterator[Team]:
    """Workers that run `work(pipe, rank, tickets, *own)` and have opened their tickets. They end with the block."""
    with Team(work, [({one.name: one.ticket(rank) for one in senders}, *own) for rank in range(workers)]) as team:
        team.receive_all()
        for sender in senders:
            sender.meet(team)
        yield team

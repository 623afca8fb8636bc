"""A stream of messages from one writer to its readers, timed and checked: the engine of the workloads about rates.

The writer sends the same few messages in turn, pass by pass, for a given time; then a mark ends the stream. The time
runs from the first message that any reader received to the mark at the slowest reader; the rate is of the messages
after the first. A warm-up in the same manner comes before, so that memory has been touched and each library has found
its buffers.

A reader looks at every message of the warm-up, and then at every one (`Traffic.every`), or at the first and last of
each pass; messages differ, and each must be the one whose turn it is. A message that is lost or repeated in between
moves those that follow, and shows there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.subject import Payload, QueueSpec, Receiver, Sender, Subject
from ringcast.cli.lab.workload import check, settle

#: Of the measurement's time, for the warm-up.
_WARM_UP_SHARE = 0.3


def itself(message: Any) -> Any:
    """How to look at a message that is quickly compared."""
    return message


@dataclass(frozen=True)
class Traffic:
    """The messages of a pass, the mark that ends a stream, and how a reader looks at either.

    `nbytes` is what a message counts for. With `batch`, as many as that are sent and received at once.
    """

    messages: Sequence[Any]
    mark: Any
    nbytes: int
    payload: Payload = "bytes"
    look: Callable[[Any], object] = itself
    every: bool = False
    batch: int = 0


@dataclass(frozen=True)
class Delivered:
    """What all readers have received: `messages` each, in so many seconds, for so much CPU time of all processes."""

    messages: int
    nbytes: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def gigabytes(self) -> float:
        """A second, to each reader."""
        return self.rate * self.nbytes / 1e9


def deliver(subject: Subject, spec: QueueSpec, traffic: Traffic, seconds: float, bench: Bench) -> Delivered:
    """Send for so long to all readers of the queue."""
    address = subject.place(spec)

    def writer(member: Member) -> tuple[int, float]:
        sender = subject.sender(spec, address, member.links)
        settle(sender)
        _send(sender, traffic, 0, seconds * _WARM_UP_SHARE)
        sender.send(traffic.mark)
        member.meet()
        before = time.process_time()
        count = _send(sender, traffic, traffic.batch, seconds)
        sender.send(traffic.mark)
        member.meet()
        used = time.process_time() - before
        sender.close()
        return count, used

    def reader(member: Member) -> tuple[int, int, int, float]:
        receiver = subject.receiver(spec, address, member.rank, member.links[0])
        settle(receiver)
        wanted = [traffic.look(message) for message in traffic.messages]
        end = traffic.look(traffic.mark)
        _receive(receiver, traffic, 0, True, wanted, end)
        member.meet()
        before = time.process_time()
        received = _receive(receiver, traffic, traffic.batch, traffic.every, wanted, end)
        used = time.process_time() - before
        member.meet()
        receiver.close()
        return *received, used

    (sent, cpu), *all_received = bench.run(writer, [reader] * spec.n_readers)
    check(all(count == sent for count, *_ in all_received), f"of {sent} messages not all were received")
    begin = min(first for _, first, _, _ in all_received)
    finish = max(last for _, _, last, _ in all_received)
    cpu += sum(used for *_, used in all_received)
    return Delivered(sent - 1, traffic.nbytes, (finish - begin) / 1e9, cpu)


def _send(sender: Sender, traffic: Traffic, batch: int, seconds: float) -> int:
    """Send all messages again and again for so long, once at least; how many were sent."""
    now = time.perf_counter
    send: Callable[[Any], object] = sender.send
    turns: Sequence[Any] = traffic.messages
    if batch:
        assert sender.send_many is not None
        send = sender.send_many
        turns = [list(turns[at : at + batch]) for at in range(0, len(turns), batch)]
    passes = 0
    end = now() + seconds
    while True:
        for each in turns:
            send(each)
        passes += 1
        if now() >= end:
            return passes * len(traffic.messages)


def _receive(
    receiver: Receiver, traffic: Traffic, batch: int, every: bool, wanted: Sequence[object], end: object
) -> tuple[int, int, int]:
    """Receive up to the mark: how many messages came before it, and when the first and the mark came."""
    now, recv, look = time.perf_counter_ns, receiver.recv, traffic.look
    begin = passes = 0
    while True:
        message = recv()
        if not begin:
            begin = now()
        seen = look(message)
        del message
        if seen == end:
            break
        check(seen == wanted[0], f"after {passes} passes of {len(wanted)} messages the next one is not the first")
        if every:
            for expected in wanted[1:]:
                if look(recv()) != expected:
                    check(False, f"after {passes} passes of {len(wanted)} messages one is not the one sent")
        elif len(wanted) > 1:
            last = _last_of(receiver, len(wanted) - 1, batch)
            check(look(last) == wanted[-1], f"pass {passes} does not end with the last message")
        passes += 1
    return passes * len(wanted), begin, now()


def _last_of(receiver: Receiver, count: int, batch: int) -> Any:
    """Receive so many messages, quickly; the last of them."""
    if not batch:
        recv = receiver.recv
        for _ in repeat(None, count - 1):
            recv()
        return recv()
    assert receiver.recv_many is not None
    recv_many = receiver.recv_many
    got: list[Any] = []
    while count:
        got = recv_many(min(batch, count))
        count -= len(got)
    return got[-1]

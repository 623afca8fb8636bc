"""A stream of messages from one writer to its readers, timed and checked: the engine of the rate workloads.

The time runs from the first message that any reader received to the last one that the slowest received. Checked are:
each message of a warm-up pass, in order; and of the timed part the first, the last, and that nothing is between the
last and an end mark, which a lost or repeated message would break.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from ..bench import Bench
from ..crew import Member
from ..peers.base import QueueSpec, Receiver, Sender, Subject
from .base import check, settle


def stream(
    subject: Subject, spec: QueueSpec, messages: Sequence[Any], end: Any, passes: int, batch: int, bench: Bench
) -> float:
    """Messages a second that all readers received. Sends ``messages`` one pass to warm up, then ``passes`` times.

    With ``batch``, many are sent and received at once, as many as that at most.
    """
    address = subject.place(spec)
    count = passes * len(messages)

    def writer(member: Member) -> None:
        sender = subject.sender(spec, address, member.links)
        settle(sender)
        for message in messages:
            sender.send(message)
        member.meet()
        _send(sender, messages, passes, batch)
        sender.send(end)
        member.meet()
        sender.close()

    def reader(member: Member) -> tuple[int, int]:
        receiver = subject.receiver(spec, address, member.rank, member.links[0])
        settle(receiver)
        for number, expected in enumerate(messages):
            check(receiver.recv() == expected, f"message {number} is not the one sent")
        member.meet()
        first, last, times = _receive(receiver, count, batch)
        check(first == messages[0] and last == messages[-1], f"the first or last of {count} messages is another")
        check(receiver.recv() == end, f"more than the {count} messages sent were received")
        member.meet()
        receiver.close()
        return times

    times: list[tuple[int, int]] = bench.run(writer, [reader] * spec.n_readers)[1:]
    begin, finish = min(first for first, _ in times), max(last for _, last in times)
    return (count - 1) / ((finish - begin) / 1e9)


def _send(sender: Sender, messages: Sequence[Any], passes: int, batch: int) -> None:
    if batch:
        assert sender.send_many is not None
        send_many = sender.send_many
        batches = [list(messages[at : at + batch]) for at in range(0, len(messages), batch)]
        for _ in repeat(None, passes):
            for each in batches:
                send_many(each)
        return
    send = sender.send
    for _ in repeat(None, passes):
        for message in messages:
            send(message)


def _receive(receiver: Receiver, count: int, batch: int) -> tuple[Any, Any, tuple[int, int]]:
    """The first message, the last, and when they were received."""
    now = time.perf_counter_ns
    if batch:
        assert receiver.recv_many is not None
        recv_many = receiver.recv_many
        got = recv_many(batch)
        begin = now()
        first, received = got[0], len(got)
        while received < count:
            got = recv_many(min(batch, count - received))
            received += len(got)
        return first, got[-1], (begin, now())
    recv = receiver.recv
    first = last = recv()
    begin = now()
    for _ in repeat(None, count - 1):
        last = recv()
    return first, last, (begin, now())

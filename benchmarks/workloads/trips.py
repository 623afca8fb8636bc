"""A message there and back, again and again: the engine of the workloads about round trips.

Two queues between a driver, which is the first one's writer, and an echo, its reader. Checked are each message of a
warm-up, the last of those timed, and that as many came back as were sent, which a lost or repeated one would break.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice, pairwise, repeat
from typing import Any, TypeVar

from ..bench import Bench
from ..crew import Member
from ..peers.base import QueueSpec, Receiver, Sender, Subject
from .base import check, settle

Found = TypeVar("Found")
Noted = TypeVar("Noted")


def there_and_back(
    subject: Subject,
    there: QueueSpec,
    drive: Callable[[Sender, Receiver], Found],
    answer: Callable[[Receiver, Sender], Noted],
    end: object,
    bench: Bench,
) -> tuple[Found, Noted]:
    """What ``drive`` found and what ``answer`` noted, each in a process of its own. ``end`` goes round last."""
    back = there.second()
    to_there, to_back = subject.place(there), subject.place(back)

    def driver(member: Member) -> Found:
        sender = subject.sender(there, to_there, member.links)
        receiver = subject.receiver(back, to_back, 0, member.links[0])
        settle(sender, receiver)
        member.meet()
        found = drive(sender, receiver)
        sender.send(end)
        check(receiver.recv() == end, "the number of messages that came back is not the number sent")
        member.meet()
        sender.close()
        receiver.close()
        return found

    def echo(member: Member) -> Noted:
        receiver = subject.receiver(there, to_there, 0, member.links[0])
        sender = subject.sender(back, to_back, member.links)
        settle(receiver, sender)
        member.meet()
        noted = answer(receiver, sender)
        last = receiver.recv()
        check(last == end, "the number of messages received is not the number sent")
        sender.send(last)
        member.meet()
        receiver.close()
        sender.close()
        return noted

    found, noted = bench.run(driver, [echo])
    return found, noted


def checked_trips(sender: Sender, receiver: Receiver, messages: Sequence[Any], trips: int) -> None:
    """Warm up, and check every message on its way."""
    for message in islice(cycle(messages), trips):
        sender.send(message)
        check(receiver.recv() == message, "another message came back than was sent")


def timed_trips(sender: Sender, receiver: Receiver, messages: Sequence[Any], trips: int) -> list[int]:
    """The one-way latency of each trip, half of its time, in ns."""
    send, recv, now = sender.send, receiver.recv, time.perf_counter_ns
    message = returned = None
    stamps = [0] * (trips + 1)
    stamps[0] = now()
    for trip, message in enumerate(islice(cycle(messages), trips), 1):
        send(message)
        returned = recv()
        stamps[trip] = now()
    check(returned == message, "another message came back than was sent")
    return [(after - before) // 2 for before, after in pairwise(stamps)]


def echo_all(receiver: Receiver, sender: Sender, trips: int) -> None:
    """Send back what is received."""
    send, recv = sender.send, receiver.recv
    for _ in repeat(None, trips):
        send(recv())

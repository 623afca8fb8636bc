"""A message there and back, again and again: the engine of the workloads about round trips.

A driver is the writer of one queue to all echoes; each echo has a queue of its own back to the driver. A trip is over
when the driver has the message back from every echo. Checked are each message of a warm-up, the last of those timed,
and that as many came back as were sent, which a lost or repeated one would break.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice, pairwise, repeat
from typing import Any, TypeVar

from ringcast.cli.lab.bench import Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, Subject
from ringcast.cli.lab.workload import check, settle

Found = TypeVar("Found")
Noted = TypeVar("Noted")


def there_and_back(
    subject: Subject,
    there: QueueSpec,
    drive: Callable[[Sender, Receiver], Found],
    answer: Callable[[Receiver, Sender], Noted],
    end: object,
    bench: Bench,
) -> tuple[Found, list[Noted]]:
    """What `drive` found and what `answer` noted, each in a process of its own. `end` goes round last."""
    backs = [there.back(rank) for rank in range(there.n_readers)]
    to_there, to_backs = subject.place(there), [subject.place(back) for back in backs]

    def driver(member: Member) -> Found:
        sender = subject.sender(there, to_there, member.links)
        places = zip(backs, to_backs, member.links, strict=True)
        receivers = [subject.receiver(back, to, 0, link) for back, to, link in places]
        settle(sender, *receivers)
        member.meet()
        receiver = receivers[0] if len(receivers) == 1 else _from_all(receivers)
        found = drive(sender, receiver)
        sender.send(end)
        for one in receivers:
            check(one.recv() == end, "the number of messages that came back is not the number sent")
        member.meet()
        sender.close()
        for one in receivers:
            one.close()
        return found

    def echo(member: Member) -> Noted:
        rank = member.rank
        receiver = subject.receiver(there, to_there, rank, member.links[0])
        sender = subject.sender(backs[rank], to_backs[rank], member.links)
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

    found, *noted = bench.run(driver, [echo] * there.n_readers)
    return found, noted


def _from_all(receivers: Sequence[Receiver]) -> Receiver:
    """One message of each, which must be the same."""
    first, *others = [receiver.recv for receiver in receivers]

    def recv() -> Any:
        message = first()
        for other in others:
            check(other() == message, "another message came back from one reader than from the others")
        return message

    return Receiver(recv)


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

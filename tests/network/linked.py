"""Ends of one queue on several machines, as processes that do what they are told.

    with machines(2) as (a, b):
        writer = Writer(a, n_reader=2, n_local_reader=0)
        readers = [writer.reader(b, rank) for rank in (0, 1)]
        writer.does("send", 0, 100)
        assert readers[0].does("take", 0, 100) == 100

Messages are numbered and checksummed; their sizes follow from their numbers, unless a size is given.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ringcast import Handle, MessageQueue
from ringcast.errors import PeerError, QueueClosedError, WriterDiedError
from tests.network.machines import Machine, Worker
from tests.network.proxy import Proxy
from tests.support import DEADLINE_S, Link

TOLD_WITHIN_S = 1.0
SLACK_S = 14.0
"""For a machine that does other things besides; half of what a link that does not come back is waited for."""
MIB = 1 << 20
LONG = os.environ.get("RINGCAST_LINK_LONG", "") == "1"
"""Pauses and messages ten times as long as in a default run."""

_NOISE = random.Random(3).randbytes(MIB + 4096)
_SIZES = [16, 64, 100, 1000, 1104, 1105, 9000, 65_536, 200_000, 262_144, 300_001, MIB]
_WEIGHTS = [10, 30, 20, 10, 4, 4, 10, 3, 3, 2, 2, 2]
_PLAN = random.Random(4).choices(_SIZES, _WEIGHTS, k=997)
HEADER_BYTES = 16


def message(number: int, size: int | None = None) -> bytes:
    """Number, checksum of the rest, and noise."""
    size = _PLAN[number % len(_PLAN)] if size is None else size
    start = number * 61 % 4096
    length = max(0, size - HEADER_BYTES)
    body = (_NOISE * (1 + (start + length) // len(_NOISE)))[start : start + length]
    return number.to_bytes(8, "little") + zlib.crc32(body, number & 0xFFFF).to_bytes(8, "little") + body


def check(number: int, received: Any, size: int | None = None) -> None:
    data = memoryview(received).cast("B")
    found = int.from_bytes(data[:8], "little")
    assert found == number, f"message {found} came where {number} was to come: lost, repeated or out of order"
    expected = max(HEADER_BYTES, _PLAN[number % len(_PLAN)] if size is None else size)
    assert len(data) == expected, f"message {number} has {len(data)} bytes instead of {expected}"
    checksum = zlib.crc32(data[HEADER_BYTES:], number & 0xFFFF)
    assert checksum == int.from_bytes(data[8:16], "little"), f"message {number} is torn"


class Failure(NamedTuple):
    """An error that an end's call raised."""

    kind: str
    text: str
    rank: int | None
    pid: int | None
    at: float
    """By the monotonic clock that all machines share."""
    kinds: tuple[str, ...]
    """And those it is one of."""


class End:
    """A process that holds one end, and what it has said of it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.pid = worker.pid

    def tell(self, what: str, *arguments: Any) -> None:
        """A call, whose outcome `outcome` waits for."""
        self.worker.send((what, arguments))

    def outcome(self, timeout: float = DEADLINE_S) -> Any:
        return self.worker.receive(timeout)

    def does(self, what: str, *arguments: Any, timeout: float = DEADLINE_S) -> Any:
        """What the call returns; it must not fail."""
        self.tell(what, *arguments)
        found = self.outcome(timeout)
        assert not isinstance(found, Failure), f"{what}{arguments} failed: {found.kind}: {found.text}"
        return found

    def fails(self, what: str, *arguments: Any, timeout: float = DEADLINE_S) -> Failure:
        """What the call raises."""
        self.tell(what, *arguments)
        found = self.outcome(timeout)
        assert isinstance(found, Failure), f"{what}{arguments} did not fail, but returned {found!r}"
        return found


class Writer(End):
    """The writer's end. Its readers are not local, unless `n_local_reader` says so."""

    def __init__(
        self, machine: Machine, *, env: dict[str, str] | None = None, ipv6: bool = False, **options: Any
    ) -> None:
        options = {
            "n_local_reader": 0,
            "max_chunk_bytes": MIB,
            "max_chunks": 8,
            "connect_ip": machine.ip6 if ipv6 else machine.ip,
            **options,
        }
        self.machine = machine
        super().__init__(machine.start(_write, options, env=env))
        self.handle: Handle = self.outcome()

    def reader(self, machine: Machine, rank: int, *, proxy: Proxy | None = None, **options: Any) -> Reader:
        """A reader's end of it, on any machine; its link goes through the proxy, if there is one."""
        handle = self.handle if proxy is None else through(proxy, self.handle)
        return Reader(machine, handle, rank, **options)

    def readers(self, machine: Machine, *ranks: int, **options: Any) -> list[Reader]:
        """Several, made at the same time."""
        started = [self.reader(machine, rank, wait=False, **options) for rank in ranks]
        for one in started:
            one.attached()
        return started

    def links(self, machine: Machine) -> list[int]:
        """The links of its job on a machine: one, if there is an end."""
        links, commands = machine.links(), machine.processes()
        return [pid for pid in links if commands.get(pid, "").endswith(f" {self.handle.job}")]

    def gives_up(self) -> None:
        """Closes at once, whoever still lacks what."""
        self.tell("close", 0)
        self.outcome()

    @property
    def address(self) -> tuple[str, int]:
        return address_of(self.handle)


class Reader(End):
    def __init__(
        self,
        machine: Machine,
        handle: Any,
        rank: int,
        *,
        wait: bool = True,
        group: Worker | None = None,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.machine = machine
        super().__init__(machine.start(_read, handle, rank, options, group=group, env=env))
        self.rank: int | None = None
        if wait:
            self.attached()

    def attached(self) -> None:
        found = self.outcome()
        assert not isinstance(found, Failure), f"no reader: {found.kind}: {found.text}"
        self.rank = found

    def refused(self, timeout: float = DEADLINE_S) -> Failure:
        """Of one made without waiting: why it could not be."""
        found = self.outcome(timeout)
        assert isinstance(found, Failure), "the reader attached"
        return found


_ADDRESS = re.compile(r"(\[[0-9a-f:]+\]|[0-9.]+):([0-9]+)")


def address_of(handle: Handle) -> tuple[str, int]:
    """Where the link of a queue's machine listens."""
    found = _ADDRESS.search(handle.remote_address or "")
    assert found is not None, f"no address in {handle.remote_address!r}"
    return found[1].strip("[]"), int(found[2])


def through(proxy: Proxy, handle: Handle) -> Handle:
    """The handle, with the proxy's address for its queue's."""
    ip, port = proxy.address
    return handle._replace(remote_address=_ADDRESS.sub(f"{ip}:{port}", str(handle.remote_address)))


def _write(link: Link, options: dict[str, Any]) -> None:
    queue: MessageQueue[Any] = MessageQueue(**options)
    link.send(queue.export_handle())
    _obey(link, queue)


def _read(link: Link, handle: Any, rank: int, options: dict[str, Any]) -> None:
    try:
        queue: MessageQueue[Any] = MessageQueue.create_from_handle(handle, rank, **options)
    except Exception as error:
        link.send(_failure(error))
        return
    link.send(queue.rank)
    _obey(link, queue)


def _obey(link: Link, queue: MessageQueue[Any]) -> None:
    while True:
        try:
            what, arguments = link.recv()
        except EOFError:
            return
        call: Callable[..., Any] = _CALLS.get(what) or _bound(queue, what)
        try:
            outcome: Any = call(queue, *arguments)
        except AssertionError:
            raise
        except Exception as error:
            outcome = _failure(error)
        link.send(outcome)
        if what == "exit":
            return


def _bound(queue: MessageQueue[Any], what: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(queue, what)
    return lambda _, *arguments: method(*arguments)


def _failure(error: Exception) -> Failure:
    kinds = tuple(kind.__name__ for kind in type(error).__mro__)
    rank, pid = getattr(error, "rank", None), getattr(error, "pid", None)
    return Failure(type(error).__name__, str(error), rank, pid, time.monotonic(), kinds)


def _send(
    queue: MessageQueue[Any], first: int, count: int, size: int | None = None, timeout: float = DEADLINE_S
) -> int:
    for number in range(first, first + count):
        queue.enqueue(message(number, size), timeout=timeout)
    return count


def _take(queue: MessageQueue[Any], first: int, count: int, size: int | None = None) -> int:
    for number in range(first, first + count):
        check(number, queue.dequeue(timeout=DEADLINE_S), size)
    return count


def _take_to_end(queue: MessageQueue[Any], first: int, size: int | None = None) -> tuple[int, Failure]:
    """All there are, and what comes after them."""
    count = 0
    while True:
        try:
            received = queue.dequeue(timeout=DEADLINE_S)
        except (QueueClosedError, PeerError) as error:
            return count, _failure(error)
        check(first + count, received, size)
        count += 1


def _send_until_it_fails(queue: MessageQueue[Any], first: int, size: int | None = None) -> tuple[int, Failure]:
    """How many it has sent."""
    count = 0
    while True:
        try:
            queue.enqueue(message(first + count, size), timeout=DEADLINE_S)
        except PeerError as error:
            return count, _failure(error)
        count += 1


def _await(queue: MessageQueue[Any], first: int, count: int, size: int | None = None) -> int:
    async def take() -> int:
        for number in range(first, first + count):
            check(number, await queue.aget(timeout=DEADLINE_S), size)
        return count

    return asyncio.run(take())


def _take_in_place(queue: MessageQueue[Any], first: int, count: int, size: int | None = None) -> int:
    for number in range(first, first + count):
        with queue.acquire_read(timeout=DEADLINE_S) as chunk:
            check(number, chunk, size)
    return count


def _take_many(queue: MessageQueue[Any], first: int, count: int, size: int | None = None) -> int:
    number = first
    while number < first + count:
        for received in queue.dequeue_many(first + count - number, timeout=DEADLINE_S):
            check(number, received, size)
            number += 1
    return count


def _died(queue: MessageQueue[Any]) -> Failure:
    """What a call that waits is told, when there is nothing more to read."""
    try:
        found = queue.dequeue(timeout=DEADLINE_S)
    except (QueueClosedError, WriterDiedError, PeerError) as error:
        return _failure(error)
    raise AssertionError(f"something came: {found!r:.100}")


def _exit(queue: MessageQueue[Any], *arguments: Any) -> None:
    """End the program; with arguments, after this call."""
    if arguments:
        getattr(queue, arguments[0])(*arguments[1:])


_CALLS: dict[str, Callable[..., Any]] = {
    "send": _send,
    "send_until_it_fails": _send_until_it_fails,
    "take": _take,
    "take_to_end": _take_to_end,
    "take_many": _take_many,
    "take_in_place": _take_in_place,
    "aget": _await,
    "died": _died,
    "exit": _exit,
}

WAYS_TO_TAKE = ("take", "take_many", "take_in_place", "aget")


def as_json(handle: Handle) -> Any:
    return json.loads(json.dumps(handle))

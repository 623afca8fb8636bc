"""A worker that is an actor of Ray's: what runs in its process. Ray calls one method after the other, on one thread.

What it prints comes out where the group is, as Ray has it, with its rank before it: Ray shows an actor's `repr`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from ringcast._extras import needed
from ringcast.net._same_node import answer
from ringcast.queue import Handle, MessageQueue
from ringcast.waiting import Wait
from ringcast.workers import _rank
from ringcast.workers._asking import Telling
from ringcast.workers._birth import RANK_VARIABLE, RING_DEPTH
from ringcast.workers._failures import Failure, packed
from ringcast.workers._serving import Server


class Place(NamedTuple):
    """Where an actor is."""

    answer: str | None
    """What it read in the memory that it was offered."""
    host: str
    pid: int
    ip: str


class Terms(NamedTuple):
    """What all actors of a group are told."""

    calls: Handle
    asks: Handle
    wait: Wait
    allow_callables: bool
    max_bytes: int | None


class Actor:
    """Its object is made, and serves, within calls of Ray's; `serve` ends with the group."""

    def __init__(self, label: str, rank: int) -> None:
        self._label = label
        self._rank = rank
        self._offered = ExitStack()
        os.environ[RANK_VARIABLE] = str(rank)
        _rank.become(rank)

    def __repr__(self) -> str:
        return f"{self._label} rank {self._rank}"

    def come(self, offer: Any, seat: int) -> Place:
        """Does this process share memory with the group's?"""
        ray: Any = needed("ray", "an actor")
        found = answer(self._offered, offer, seat)
        return Place(found, socket.gethostname(), os.getpid(), ray.util.get_node_ip_address())

    def join(self, terms: Terms) -> None:
        """Takes its seats."""
        self._offered.close()
        self._terms = terms
        self._calls: MessageQueue[Any] = MessageQueue.create_from_handle(terms.calls, self._rank, wait=terms.wait)
        self._asks: MessageQueue[Any] = MessageQueue.create_from_handle(terms.asks, self._rank, wait=terms.wait)

    def make(
        self, kind: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], connect_ip: str | None
    ) -> Failure | Handle:
        """The object; then returns the handle of its answers, which others read from `connect_ip`, if it is given."""
        try:
            self._target = kind(*args, **kwargs)
        except Exception as error:
            return packed(error)
        terms = self._terms
        local = 1 if connect_ip is None else 0
        self._answers: MessageQueue[Any] = MessageQueue(
            1, local, max_chunks=RING_DEPTH, max_bytes=terms.max_bytes, connect_ip=connect_ip, wait=terms.wait
        )
        return self._answers.export_handle()

    def serve(self) -> int | None:
        """Until the group closes: None. Or with which status the process was told to end, by sys.exit in a call."""
        telling = Telling(self._asks, self._answers, self._rank)
        try:
            target, self._target = self._target, None
            Server(
                self._calls, self._answers, target, self._rank, self._terms.allow_callables, lambda: 0.0
            ).serve()  # fmt: skip
        except SystemExit as error:
            if error.code is None or isinstance(error.code, int):
                return error.code or 0
            print(error.code, file=sys.stderr)
            return 1
        finally:
            telling.end()
            for end in (self._answers, self._calls, self._asks):
                end.shutdown()
            for end in (self._answers, self._calls, self._asks):
                end.close(0)
        return None

"""What is asked of a queue to be measured: the common face of ringcast and all its peers.

A `Subject` makes the two ends of one queue from one writer to `n_readers` readers, each of which gets every message,
blocking, nothing dropped. The ends carry the library's own bound methods where they fit, so that no wrapper's call is
measured with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

#: `bytes`: messages are exactly `bytes`, sent the quickest way the library has. `object`: any Python object.
#: `array`: NumPy arrays, received as NumPy arrays, the quickest way the library has. `tensor`: torch tensors and
#: lists of them, by plain pickle with protocol 5 where a library knows nothing of them (and where it is
#: multiprocessing, which with torch imported would share the sender's own memory and send no copy at all).
Payload = Literal["bytes", "object", "array", "tensor"]

#: What a subject is to the report. `extra` rows are shown, but are neither ringcast's headline nor the best peer.
Standing = Literal["ringcast", "peer", "extra"]


@dataclass(frozen=True)
class QueueSpec:
    """One queue to be made. `name` is unique on this machine; files go into `workdir`, which is removed later."""

    name: str
    workdir: str
    n_readers: int
    depth: int
    max_bytes: int
    payload: Payload = "bytes"

    def back(self, rank: int) -> QueueSpec:
        """The same from a reader to the writer alone, under another name: the way back of a ping-pong."""
        return replace(self, name=f"{self.name}b{rank}", n_readers=1)


def nothing() -> None:
    """For ends that have nothing to do on `ready` or `close`."""


@dataclass
class Sender:
    """The writer's end. `ready` is None if the library has no notion of it: then a first message shows it."""

    send: Callable[[Any], object]
    close: Callable[[], object] = nothing
    ready: Callable[[], object] | None = None
    send_many: Callable[[list[Any]], object] | None = None


@dataclass
class Receiver:
    """A reader's end. `recv` blocks until there is a message; `recv_many` takes from one to so many messages."""

    recv: Callable[[], Any]
    close: Callable[[], object] = nothing
    ready: Callable[[], object] | None = None
    recv_many: Callable[[int], list[Any]] | None = None


class Subject(Protocol):
    """A queue library, or one way to use it.

    A queue is made in three steps: `place` in a process that will have neither end (what it returns is inherited by,
    or sent to, the processes that have), then `sender` and `receiver` there. `links` are pipes between the writer
    and each reader, for what the two must tell each other first.
    """

    @property
    def key(self) -> str:
        """Its name in the JSON and on the command line."""

    @property
    def label(self) -> str:
        """Its name in tables and plots."""

    @property
    def module(self) -> str:
        """What must be importable for it."""

    @property
    def package(self) -> str | None:
        """The distribution that brings it; None for the standard library."""

    @property
    def standing(self) -> Standing:
        """What it is to the report."""

    @property
    def unfit(self) -> Mapping[str, str]:
        """Workloads that it cannot take part in, with the reason."""

    @property
    def only(self) -> tuple[str, ...]:
        """The workloads that it is a row of; none named: all."""

    def place(self, spec: QueueSpec) -> Any:
        """Make what both ends need to find each other."""

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """Make the writer's end, in the writer's process."""

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """Make a reader's end, in that reader's process."""

    def sweep(self) -> None:
        """Remove what killed processes of this run left on the machine."""


@dataclass(frozen=True)
class SubjectBase:
    """What most subjects share; see `Subject`."""

    key: str
    label: str
    module: str
    package: str | None = None
    standing: Standing = "peer"
    unfit: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def sweep(self) -> None:
        """Most leave nothing."""


#: Everything that this run makes outside its own folder carries this prefix, so that it can be found and removed.
RUN_PREFIX = f"rcbench{os.getpid()}_"

"""What is measured by workloads of its own, and is no queue from one writer to readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase


@dataclass(frozen=True)
class NoQueue(SubjectBase):
    """Is named in `only` by the workloads that know how to use it; nobody asks it for the ends of a queue."""

    def place(self, spec: QueueSpec) -> Any:
        """Never called."""
        raise NotImplementedError  # no workload but those of `only` takes it

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """Never called."""
        raise NotImplementedError  # as above

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """Never called."""
        raise NotImplementedError  # as above

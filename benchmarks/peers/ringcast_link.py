"""ringcast across machines: two links between the ends, over loopback, each beside a /dev/shm of its own.

The reader's process hides /dev/shm behind an empty one before it makes an end, so that the machines share nothing but
the network: as on two machines, each side has a link process. Those are pinned to no CPU. "link" is sealed, as it is
by default; "link-plain" has `encrypt=False`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast import MessageQueue
from ringcast.cli.lab.ringcast_queue import Ringcast
from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender
from tests import own_shm

#: The workloads across machines: what is a row of them is a row of no other.
ACROSS = ("link_latency", "link_rate", "link_bytes")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Link(Ringcast):
    """See the module."""

    encrypt: bool = True

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end; the reader is told which /dev/shm not to use."""
        (link,) = links
        link.send(_shm())
        return super().sender(spec, address, links)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end, on another machine than the writer's."""
        if link.recv() == _shm() and (reason := own_shm.enter()):
            raise RuntimeError(f"no /dev/shm of its own for the reader: {reason}")
        return super().receiver(spec, address, rank, link)

    def writer(self, spec: QueueSpec, **options: Any) -> MessageQueue:
        """One without local readers."""
        return super().writer(spec, n_local_reader=0, connect_ip=LOOPBACK, encrypt=self.encrypt, **options)


def _shm() -> int:
    """Which /dev/shm this process has."""
    return own_shm.SHM.stat().st_dev


_COMMON: dict[str, Any] = {"module": "ringcast", "package": "ringcast", "only": ACROSS}

SUBJECTS = (
    Link("link", "ringcast link, encrypted", standing="ringcast", **_COMMON),
    Link("link-plain", "ringcast link, encrypt=False", standing="extra", encrypt=False, **_COMMON),
)

"""torch.distributed's broadcast_object_list over gloo: what the link's objects travel by without it.

The writer is rank 0 of the process's one group, the reader rank 1; the way back of a round trip is a broadcast from
rank 1 in the same group. Objects are pickled by torch, arrays too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase

from .ringcast_link import ACROSS


@dataclass(frozen=True)
class Gloo(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """A file where the two meet."""
        return f"file://{spec.workdir}/{spec.name}.gloo"

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end."""
        group, source = _group(address, 0)

        def send(message: object) -> None:
            group.broadcast_object_list([message], src=source)

        return Sender(send, _leave)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """The reader's end."""
        group, own = _group(address, 1)
        source = 1 - own

        def recv() -> Any:
            got = [None]
            group.broadcast_object_list(got, src=source)
            return got[0]

        return Receiver(recv, _leave)


def _group(address: str, rank: int) -> tuple[Any, int]:
    """torch.distributed, and the rank here: as given to a process's first end, and the same for its second."""
    import torch.distributed as dist

    if not dist.is_initialized():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    return dist, dist.get_rank()


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


SUBJECTS = (Gloo("gloo", "gloo broadcast_object_list", "torch.distributed", "torch", only=ACROSS),)

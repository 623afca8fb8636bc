"""Whatever kind of process group a user has, as ranks that have met: ours, or one of torch.distributed.

Of torch's only the store is used, by a connection of our own, and no collective: one that some rank never joins would
leave the group of no use to anybody. So its backend does not matter.
"""

from __future__ import annotations

import os
import secrets
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ringcast import _arguments
from ringcast._extras import needed
from ringcast.errors import ArgumentError, GroupError
from ringcast.net._client import Client
from ringcast.net._deadline import DEFAULT_TIMEOUT_S, Deadline, checked_timeout
from ringcast.net._group import Group
from ringcast.net._meeting import meet
from ringcast.net._stateless import StatelessProcessGroup

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


class TorchGroup(Protocol):
    """A torch.distributed.ProcessGroup, said without a need for torch."""

    def rank(self) -> int: ...
    def size(self) -> int: ...


AnyGroup: TypeAlias = StatelessProcessGroup | TorchGroup | None
"""None is the default group of torch.distributed, as torch has it."""

_met: weakref.WeakKeyDictionary[Any, Group] = weakref.WeakKeyDictionary()
_times: dict[tuple[str, bytes], int] = {}
"""How many groups of a name this process has had in a store: after torch.distributed was ended and begun again, names
return, sometimes in the same one. In another store all begin anew, also those who come in the place of others."""


def ranks_of(pg: Any, timeout: float | None, *, trust_store: bool = False) -> tuple[Group, float]:
    """The ranks of a group, which meet at its first use, and the seconds that a collective has.

    Raises ArgumentError, and what `meet` raises.
    """
    if isinstance(pg, StatelessProcessGroup):
        return pg._group, pg._seconds(timeout)
    seconds = checked_timeout(timeout, DEFAULT_TIMEOUT_S)
    needed("torch", "a process group")
    import torch.distributed as dist

    if pg is None and dist.is_available() and dist.is_initialized():
        pg = dist.group.WORLD
    if not dist.is_available() or not isinstance(pg, dist.ProcessGroup):
        expected = "a StatelessProcessGroup, or a group of torch.distributed that this process is in"
        raise _arguments.refuse("pg", expected, pg)
    group = _met.get(pg)
    if group is None:
        group = _met[pg] = _meet_over_torch(pg, Deadline(seconds), trust_store)
    return group, seconds


def _meet_over_torch(pg: Any, deadline: Deadline, trust_store: bool) -> Group:
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    torch_distributed: Any = dist  # it declares not all that it offers
    rank, size = dist.get_rank(pg), dist.get_world_size(pg)
    if rank < 0:
        raise ArgumentError("this process is not in the process group pg")
    find = getattr(distributed_c10d, "_get_process_group_store", None)
    if find is None:
        raise GroupError("this release of PyTorch does not tell a group's store: use a StatelessProcessGroup")
    store = find(pg)
    name = str(getattr(pg, "group_name", ""))
    which = name, b""

    def connect() -> Store:
        nonlocal which
        own = store.clone() if hasattr(store, "clone") else store
        which = name, torch_distributed.PrefixStore("ringcast", own).compare_set("store", "", secrets.token_hex(8))
        prefixed: Store = torch_distributed.PrefixStore(f"ringcast/{_times.get(which, 0)}", own)
        return prefixed

    client = Client(connect, f"the store of process group {name!r}", deadline)
    try:
        group = meet(client, rank, {"world_size": size}, size, deadline, trusted=trust_store)
    except BaseException:
        client.close()
        raise
    _times[which] = _times.get(which, 0) + 1
    group.store_ip = _host_of(store)
    return group


def _host_of(store: Any) -> str | None:
    """Where a store of torch's is, if it is at one place and says so."""
    while not hasattr(store, "host") and hasattr(store, "underlying_store"):
        store = store.underlying_store
    return getattr(store, "host", None) or os.environ.get("MASTER_ADDR")

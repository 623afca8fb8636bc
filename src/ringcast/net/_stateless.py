"""StatelessProcessGroup: ranks that meet at an address, without torch.distributed's global state."""

from __future__ import annotations

import logging
import socket
import time
import weakref
from datetime import timedelta
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ringcast import _arguments
from ringcast._extras import needed
from ringcast.errors import ArgumentError, GroupError, GroupTimeoutError, RankError
from ringcast.net import _addresses
from ringcast.net._addresses import Address, UnknownHostError
from ringcast.net._client import Client
from ringcast.net._deadline import DEFAULT_TIMEOUT_S, Deadline, checked_timeout
from ringcast.net._group import Group
from ringcast.net._leaving import DEFAULT_LINGER_S, Leaving
from ringcast.net._meeting import meet
from ringcast.net._records import about

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store
    from typing_extensions import Self

_LOOK_UP_AGAIN_S = 0.5

log = logging.getLogger("ringcast.group")


class StatelessProcessGroup:
    """Ranks that have met in a store that rank 0 holds; made by `create`. Needs PyTorch, for its TCPStore.

    All calls but `send_obj` and `recv_obj` are collectives: all ranks make them, in the same order and with the same
    arguments, each within `timeout` seconds (by default the group's). Whoever keeps a collective from going on is named
    in its error: GroupTimeoutError (did not come), GroupMismatchError (is at another collective, or came with other
    arguments), GroupPeerError (has ended, left, or was started again alone; or the store is gone), GroupError (failed).
    What is late finds what it needs: after a GroupTimeoutError the group goes on.

    Objects that JSON holds travel as JSON. Others are pickled, which is refused unless `RINGCAST_SECRET` is set, the
    same on all ranks (then everything is sealed), or the store's address is a loopback one, or the group was made with
    `trust_store=True`.

    >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
    ...     group.all_gather_obj({"rank": group.rank})
    [{'rank': 0}]
    """

    def __init__(self, group: Group, timeout: float, store: Store | None) -> None:
        self._group = group
        self._timeout = timeout
        self._leaving = Leaving(group, store)
        self._finalizer = weakref.finalize(self, self._leaving.drop)
        self._finalizer.atexit = False

    @classmethod
    def create(
        cls,
        host: str,
        port: int,
        rank: int,
        world_size: int,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        listen_socket: socket.socket | None = None,
        trust_store: bool = False,
    ) -> Self:
        """Meet the other ranks. Rank 0 listens at host and port and keeps what passes between ranks; others connect.

        Args:
            host: an address of rank 0's machine that all can reach, or its name; IPv4 or IPv6, no wildcard. A name that
                leads to a loopback address on its own machine stands for the address of the default route there; one
                that is not known yet is waited for.
            port: which one; 0, any free one, only where there is one rank.
            rank: of this process.
            world_size: how many ranks there are.
            timeout: in seconds, of this call and of each collective that names none of its own.
            listen_socket: rank 0 listens with this socket, which is bound already and becomes the store's; others
                ignore it.
            trust_store: objects that JSON does not hold may be pickled although others could reach the store.

        Raises ArgumentError, MissingPackageError, GroupError (rank 0 cannot listen there), GroupTimeoutError (names the
        ranks that did not come), GroupMismatchError, GroupPeerError.

        >>> import socket
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> listening = socket.create_server(("127.0.0.1", 0))
        >>> port = listening.getsockname()[1]
        >>> def work(rank):  # as a process of its own would
        ...     with StatelessProcessGroup.create(
        ...         "127.0.0.1", port, rank, world_size=2, timeout=60, listen_socket=listening
        ...     ) as group:
        ...         return group.broadcast_obj({"from": group.rank}, src=1)
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(pool.map(work, range(2)))
        [{'from': 1}, {'from': 1}]
        """
        world_size = _arguments.checked("world_size", world_size)
        rank = checked_rank("rank", rank, world_size)
        port = _arguments.checked("port", port, 0, 65535)
        if port == 0 and world_size > 1:
            raise ArgumentError("port must be known to all ranks: 0 would be known to rank 0 alone")
        trust_store = _arguments.flag("trust_store", trust_store)
        seconds = checked_timeout(timeout)
        deadline = Deadline(seconds)
        needed("torch", "a StatelessProcessGroup, for its store,")
        store: Store | None = None
        if rank == 0:
            store, address = _host(host, port, listen_socket, deadline)
        else:
            address = _await_host(_resolved(host, port, deadline), deadline)
        where = f"the group's store at {_addresses.shown(address)}, which rank 0 holds,"
        client = Client(lambda: _connected(address, deadline), where, deadline, host=0)
        try:
            addresses = [address, *_resolved(host, port, deadline)]
            trusted = trust_store or all(_addresses.is_loopback(ip) for ip, _ in addresses)
            group = meet(client, rank, {"world_size": world_size}, world_size, deadline, trusted=trusted)
        except GroupTimeoutError as error:
            client.close()
            if rank == 0 and _addresses.is_loopback(address[0]) and _addresses.is_this_machine(host):
                raise about(GroupTimeoutError(f"{error}. {_unreachable(host, address)}"), *error.ranks) from error
            raise
        except BaseException:
            client.close()
            raise
        group.store_ip = next(ip for ip, _ in addresses if not _addresses.is_wildcard(ip))
        return cls(group, seconds, store)

    @property
    def rank(self) -> int:
        """This process's, from 0 to `world_size` - 1."""
        return self._group.rank

    @property
    def world_size(self) -> int:
        """How many ranks the group has."""
        return self._group.size

    def broadcast_obj(self, obj: Any = None, src: int = 0, *, timeout: float | None = None) -> Any:
        """Collective: what rank `src` gave, on all ranks. It returns there as soon as the others can have it.

        Raises GroupError and its kinds, EncodeError, DecodeError.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     group.broadcast_obj("the same everywhere", src=0)
        'the same everywhere'
        """
        src = checked_rank("src", src, self.world_size)
        with self._group.enter("broadcast", {"src": src}, self._seconds(timeout), "object") as here:
            if self.rank == src:
                here.say_object("object", obj)
                return obj
            return here.objects("object", [src])[0]

    def all_gather_obj(self, obj: Any, *, timeout: float | None = None) -> list[Any]:
        """Collective: what each rank gave, by rank. Raises GroupError and its kinds, EncodeError, DecodeError.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     group.all_gather_obj([1, 2])
        [[1, 2]]
        """
        with self._group.enter("all_gather", {}, self._seconds(timeout), "object") as here:
            here.say_object("object", obj)
            return here.objects("object", range(self.world_size))

    def barrier(self, timeout: float | None = None) -> None:
        """Collective: returns once all ranks have come. Raises GroupError and its kinds.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     group.barrier()
        """
        with self._group.enter("barrier", {}, self._seconds(timeout), "here") as here:
            here.exchange("here", b"")

    def send_obj(self, obj: Any, dst: int, *, timeout: float | None = None) -> None:
        """Send to one rank, which need not wait for it yet. Raises GroupError and its kinds, EncodeError.

        A message whose sending has begun when the time is over, or Ctrl-C comes, may still be sent; no other one is
        lost by that.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     group.send_obj("to myself", dst=0)
        ...     group.recv_obj(src=0)
        'to myself'
        """
        dst = checked_rank("dst", dst, self.world_size)
        self._group.send(obj, dst, Deadline(self._seconds(timeout)))

    def recv_obj(self, src: int, *, timeout: float | None = None) -> Any:
        """The next object that rank `src` has sent, or sends, to this one; in the order in which it sends them.

        After a time-out the next call waits for the same one. Raises GroupError and its kinds, DecodeError.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     try:
        ...         group.recv_obj(src=0, timeout=0.1)
        ...     except TimeoutError:
        ...         print("nothing was sent")
        nothing was sent
        """
        src = checked_rank("src", src, self.world_size)
        return self._group.receive(src, Deadline(self._seconds(timeout)))

    def close(self, linger: float = DEFAULT_LINGER_S) -> None:
        """Leave the group. Rank 0, which holds the store, waits up to `linger` seconds for the others to leave before.

        Queues that were made over the group need it no more. Who drops it leaves it, too, and rank 0 then waits for the
        others beside the program; at the interpreter's exit it is closed. In a forked child this does nothing.

        >>> group = StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1)
        >>> group.close()
        >>> group.barrier()
        Traceback (most recent call last):
        ringcast.errors.GroupError: the connection to the group's store at ... is closed
        """
        seconds = _arguments.seconds("linger", linger)
        self._leaving.leave(DEFAULT_LINGER_S if seconds is None else seconds)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(DEFAULT_LINGER_S if error is None else 0.2)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} rank {self.rank} of {self.world_size}>"

    def _seconds(self, timeout: float | None) -> float:
        return checked_timeout(timeout, self._timeout)


def checked_rank(what: str, rank: Any, world_size: int) -> int:
    found = _arguments.checked(what, rank, -_arguments.INT32_MAX)
    if not 0 <= found < world_size:
        raise RankError(f"{what}={found} is not a rank of this group, which has 0 to {world_size - 1}")
    return found


def _resolved(host: str, port: int, deadline: Deadline) -> list[Address]:
    """A host's addresses. A name that is not known yet is waited for: in a cluster it comes later than its machine."""
    told = False
    while True:
        try:
            return _addresses.resolved(host, port)
        except UnknownHostError as error:
            if deadline.left == 0:
                raise about(GroupTimeoutError(f"waited {deadline.seconds} s, but {error}"), 0) from error
            if not told:
                log.warning("%s; it is waited for, for %.3g s at most", error, deadline.left)
                told = True
        time.sleep(min(_LOOK_UP_AGAIN_S, deadline.left))  # nothing tells that a name is known


def _host(host: str, port: int, given: socket.socket | None, deadline: Deadline) -> tuple[Store, Address]:
    """Rank 0's store. torch binds every address of the machine, so it gets a socket that listens at one."""
    listening = _addresses.listening(_resolved(host, port, deadline)) if given is None else given
    ip, port = listening.getsockname()[:2]
    try:
        store: Store = _distributed().TCPStore(
            ip, port, None, is_master=True, timeout=timedelta(seconds=max(1.0, deadline.left)),
            wait_for_workers=False, master_listen_fd=listening.fileno(),
        )  # fmt: skip
    except RuntimeError as error:
        if given is None:
            listening.close()
        raise about(GroupError(f"rank 0 cannot hold the group's store at {ip}:{port}: {error}"), 0) from error
    listening.detach()  # the store's, from now on
    return store, (ip, port)


def _unreachable(host: str, address: Address) -> str:
    return (
        f"Rank 0 listens at {_addresses.shown(address)}, for that is {host!r} on its own machine (see /etc/hosts), and "
        "there is no default route that would tell a better one: no other machine reaches it; give its address as host"
    )


def _await_host(addresses: list[Address], deadline: Deadline) -> Address:
    """The first address at which rank 0 listens. torch would wait for it where no signal's handler runs."""
    while True:
        for address in addresses:
            try:
                socket.create_connection(address, timeout=min(max(deadline.left, 0.05), 2.0)).close()
                return address
            except OSError as error:
                why = error
        if deadline.left == 0:
            tried = ", ".join(map(_addresses.shown, addresses))
            raise about(
                GroupTimeoutError(f"waited {deadline.seconds} s, and rank 0 does not listen at {tried} ({why})"), 0
            )
        time.sleep(min(0.05, deadline.left))


def _connected(address: Address, deadline: Deadline) -> Store:
    seconds = timedelta(seconds=max(1.0, deadline.left))
    store: Store = _distributed().TCPStore(
        address[0], address[1], None, is_master=False, timeout=seconds, wait_for_workers=False
    )
    return store


def _distributed() -> Any:
    """It declares not all that it offers."""
    return import_module("torch.distributed")

"""How a process group makes its queues: two collective constructors, which MessageQueue has from here.

What they do is in `ringcast.net._queues`; a process that is in no group does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ringcast._end import QueueEnd, T
from ringcast._handle import Handle
from ringcast.waiting import OnFull, OnReaderDeath, OnReaderLeave, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from ringcast.net._any_group import AnyGroup

DEFAULT_FULL_DEADLINE_S = 1.0
DEFAULT_LINK_TIMEOUT_S = 30.0

CodecName: TypeAlias = Literal["pickle", "msgpack", "raw"]


class OfGroups(QueueEnd[T]):
    """An end that a process group can make. Use MessageQueue."""

    @classmethod
    def create_from_process_group(
        cls,
        pg: AnyGroup,
        max_chunk_bytes: int,
        max_chunks: int,
        writer_rank: int = 0,
        external_writer_handle: Handle | None = None,
        blocking: bool = True,
        *,
        timeout: float | None = None,
        trust_store: bool = False,
        name: str | None = None,
        max_bytes: int | None = None,
        max_leases: int | None = None,
        codec: CodecName = "pickle",
        on_reader_death: OnReaderDeath = "raise",
        on_full: OnFull = "block",
        full_deadline: float = DEFAULT_FULL_DEADLINE_S,
        on_reader_leave: OnReaderLeave = "log",
        connect_ip: str | None = None,
        link_timeout: float = DEFAULT_LINK_TIMEOUT_S,
        encrypt: bool = True,
        copy: bool | None = None,
        zero_copy: bool = False,
        allow_pickle: bool | None = None,
        message_type: Any = None,
        wait: Wait = None,
    ) -> Self:
        """Collective over a process group: the end of this rank, of one queue from `writer_rank` to all others.

        Args:
            pg: a StatelessProcessGroup, or a group of torch.distributed, of which only the store is used.
            max_chunk_bytes: as MessageQueue has it.
            max_chunks: as MessageQueue has it.
            writer_rank: the rank, in the group, that writes.
            external_writer_handle: on `writer_rank`, the handle of a queue that a process outside of the group writes:
                then all ranks read it, each as its own rank.
            blocking: wait until all have attached, as wait_until_ready does.
            timeout: in seconds, for all of it; default the group's, for one of torch.distributed 300.
            trust_store: with torch.distributed, attributes of a subclass that JSON does not hold may be pickled without
                `RINGCAST_SECRET`.
            copy, zero_copy, allow_pickle, message_type, wait: as create_from_handle has them, for readers; the others,
                and `wait`, as MessageQueue has them, for the writer.

        Raises ArgumentError; GroupError, which names the ranks that did not come, came with other arguments, have ended
        or failed; LinkError where ranks on other machines cannot be reached; NotReadyError.

        >>> import socket
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> listening = socket.create_server(("127.0.0.1", 0))
        >>> port = listening.getsockname()[1]
        >>> def work(rank):  # as a process of its own would
        ...     with StatelessProcessGroup.create("127.0.0.1", port, rank, 2, listen_socket=listening) as group:
        ...         queue = MessageQueue.create_from_process_group(group, 1 << 20, 4, writer_rank=1)
        ...     with queue:
        ...         return queue.broadcast_object("from rank 1" if rank == 1 else None)
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(pool.map(work, range(2)))
        ['from rank 1', 'from rank 1']
        """
        from ringcast.net._queues import one_to_all

        for_writer = {
            "name": name, "max_bytes": max_bytes, "max_leases": max_leases, "codec": codec,
            "on_reader_death": on_reader_death, "on_full": on_full, "full_deadline": full_deadline,
            "on_reader_leave": on_reader_leave, "link_timeout": link_timeout, "encrypt": encrypt, "wait": wait,
        }  # fmt: skip
        for_readers = {
            "copy": copy, "zero_copy": zero_copy, "allow_pickle": allow_pickle, "message_type": message_type,
            "wait": wait,
        }  # fmt: skip
        kind: Any = cls
        made: Self = one_to_all(
            kind, pg, max_chunk_bytes, max_chunks, writer_rank, external_writer_handle, blocking, timeout, trust_store,
            _chosen(OfGroups.create_from_process_group, for_writer) | _if_given("connect_ip", connect_ip), for_readers,
        )  # fmt: skip
        return made

    @classmethod
    def create_from_process_group_single_reader(
        cls,
        pg: AnyGroup,
        max_chunk_bytes: int,
        max_chunks: int,
        reader_rank: int = 0,
        blocking: bool = False,
        *,
        timeout: float | None = None,
        trust_store: bool = False,
        max_bytes: int | None = None,
        max_leases: int | None = None,
        codec: CodecName = "pickle",
        on_reader_death: OnReaderDeath = "raise",
        on_full: OnFull = "block",
        full_deadline: float = DEFAULT_FULL_DEADLINE_S,
        on_reader_leave: OnReaderLeave = "log",
        connect_ip: str | None = None,
        link_timeout: float = DEFAULT_LINK_TIMEOUT_S,
        encrypt: bool = True,
        wait: Wait = None,
    ) -> tuple[Self, list[Handle]]:
        """Collective, the mirror image: each rank writes a queue of its own, and `reader_rank` reads them all.

        Returns the writer's end of this rank's queue, and on `reader_rank` the handles of all ranks' queues, by rank,
        for `create_from_handle(handle, 0)`; elsewhere an empty list. With `blocking` all ranks but `reader_rank`, which
        has to have its handles first, wait until it has attached. The other arguments are those of
        create_from_process_group, and it raises the same.

        >>> with StatelessProcessGroup.create("127.0.0.1", 0, rank=0, world_size=1) as group:
        ...     own, handles = MessageQueue.create_from_process_group_single_reader(group, 1 << 20, 4)
        >>> ends = [MessageQueue.create_from_handle(handle, 0) for handle in handles]
        >>> own.enqueue("from rank 0")
        >>> [end.dequeue() for end in ends]
        ['from rank 0']
        """
        from ringcast.net._queues import all_to_one

        for_writer = {
            "max_bytes": max_bytes, "max_leases": max_leases, "codec": codec, "on_reader_death": on_reader_death,
            "on_full": on_full, "full_deadline": full_deadline, "on_reader_leave": on_reader_leave,
            "link_timeout": link_timeout, "encrypt": encrypt, "wait": wait,
        }  # fmt: skip
        kind: Any = cls
        made: tuple[Self, list[Handle]] = all_to_one(
            kind, pg, max_chunk_bytes, max_chunks, reader_rank, blocking, timeout, trust_store,
            _chosen(OfGroups.create_from_process_group_single_reader, for_writer) | _if_given("connect_ip", connect_ip),
        )  # fmt: skip
        return made


def _chosen(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the defaults of this call: a subclass need not take the others."""
    defaults: Mapping[str, Any] = getattr(call, "__kwdefaults__", {})
    return {name: value for name, value in options.items() if value is not defaults[name]}


def _if_given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}

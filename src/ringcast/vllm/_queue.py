"""The queue that vLLM's executors and workers get: ringcast's, with the signatures and the habits of vLLM's own.

What it does otherwise than a MessageQueue made by hand, and why:

- What is received is a private, writable copy: vLLM keeps arrays, and writes into them, and its `enqueue` has no
  time-out that would end a wait for a reader that keeps views.
- Rings are deeper than asked for: with several stages and asynchronous transfers a worker may have more replies under
  way than the 10 that vLLM makes room for. Messages that nobody sends take no memory.
- A message may be as large as memory allows: pixel values have hundreds of MB. What shared memory has no room for comes
  in pieces.
- Once all are there the memory gives up its name: vLLM replaces no reader, and often kills its processes all at once,
  which then leaves nothing. So `ringcast ls` shows only queues that somebody is still awaited for.
- Whoever makes an end has the scheduler's shortest time slices from then on: an engine's processes wait for each other
  many times a step, for messages and in collectives, and each time would wait until another one's slice is over.
- Whether readers share memory is found by vLLM's own collective, so that in a group in which a process has no plugin
  all are at the same step, and it is told what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringcast import _handle, queue
from ringcast.codec.objects import encode_pickle
from ringcast.errors import CapacityError, DecodeError, MessageTooLargeError, QueueClosedError
from ringcast.vllm import _places, _switch
from ringcast.vllm._pieces import Assembly, Pieces, send_in_pieces

if TYPE_CHECKING:
    from typing_extensions import Self

VLLM_CHUNK_BYTES = 24 << 20
VLLM_CHUNKS = 10
LEAST_DEPTH = 128
BUDGET_BYTES = 4 << 30
"""Taken as messages need it, given back after a burst. What needs more comes in pieces."""

_log = logging.getLogger("vllm.ringcast")


class Handle(_handle.Handle):
    """A handle that tells vLLM's own queue, which reads other fields of it than ours does, what is wrong."""

    __slots__ = ()

    @property
    def buffer_handle(self) -> tuple[int, int, int, str]:
        """What vLLM's own reader asks for first on the writer's machine. Raises RuntimeError."""
        raise _one_side_only()

    @property
    def remote_addr_ipv6(self) -> bool:
        """What vLLM's own reader asks for first on another machine. Raises RuntimeError."""
        raise _one_side_only()


def _one_side_only() -> RuntimeError:
    return RuntimeError(
        "this handle is of a ringcast queue, but in this process vLLM's own queue is in use: the plugin is not "
        "switched on here, or has left vLLM's queue in place, which the log says. Switch it on for all of the "
        "engine's processes, on all machines (VLLM_PLUGINS=ringcast, which Ray's workers get, too), or for none"
    )


class MessageQueue(queue.MessageQueue[Any]):
    """One end of a queue between vLLM's processes. `register` puts it in the place of vLLM's own."""

    _begun: Assembly | None = None
    """On a reader, a message of which some pieces are still to come."""

    def __init__(
        self,
        n_reader: int,
        n_local_reader: int,
        local_reader_ranks: Sequence[int] | None = None,
        max_chunk_bytes: int = VLLM_CHUNK_BYTES,
        max_chunks: int = VLLM_CHUNKS,
        connect_ip: str | None = None,
        enable_shm_tensor_arena: bool = False,  # our blocks are such an arena, always
    ) -> None:
        super().__init__(
            n_reader,
            n_local_reader,
            local_reader_ranks,
            max_chunk_bytes,
            max(max_chunks, LEAST_DEPTH),
            (connect_ip or _address()) if n_reader > n_local_reader else None,
            max_bytes=max(BUDGET_BYTES, 4 * max_chunk_bytes),
            wait=_switch.wait(),
        )
        _switch.shorten_slices()

    def export_handle(self) -> Handle:
        """What `create_from_handle` needs in another process."""
        return Handle(*super().export_handle())

    def reader_attributes(self) -> Mapping[str, Any]:
        """None: what vLLM sets on an end is that end's."""
        return {}

    @classmethod
    def create_from_handle(cls, handle: Any, rank: int) -> Self:  # type: ignore[override]
        """A reader's end; of vLLM's own kind, as all that this process makes from then on, if the handle is."""
        if hasattr(handle, "local_subscribe_addr"):
            stock: Self = _places.give_back(
                "the handle of a queue came from a process in which the plugin is not in use; switch it on for all of "
                "the engine's processes, or for none"
            ).create_from_handle(handle, rank)
            return stock
        _switch.shorten_slices()
        return super().create_from_handle(handle, rank, copy=True, wait=_switch.wait())

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Collective: returns on every side once all readers are there. Then the memory needs no name any more, unless
        a link brings its messages to other machines."""
        super().wait_until_ready(timeout)
        if self.role == "writer" and self._linking is None and self._segment is not None:
            self._segment.unlink()

    def enqueue(self, obj: Any, timeout: float | None = None) -> None:
        """Send `obj`; after this end was shut down, do nothing: a thread may still have results that nobody wants.

        One thread at a time, as vLLM does.
        """
        timeout = _left(timeout)
        try:
            try:
                super().enqueue(obj, timeout)
            except (CapacityError, MessageTooLargeError):
                send_in_pieces(self, super().enqueue, encode_pickle(obj), timeout)
        except QueueClosedError:
            if not self.closed:
                raise
            _log.debug("%r: a message was dropped that came after shutdown()", self)

    def dequeue(self, timeout: float | None = None, indefinite: bool = False) -> Any:  # type: ignore[override]
        """Receive the next message. One thread at a time, as vLLM does."""
        timeout = _left(timeout)
        if self._begun is None:
            message = super().dequeue(timeout, None, indefinite)
            if type(message) is not Pieces:
                return message
            self._begun = Assembly(message)
        return self._rest_of(self._begun, timeout)

    def _rest_of(self, begun: Assembly, timeout: float | None) -> Any:
        """After a time-out, or an interruption, the next call goes on."""
        begun.receive(super().dequeue, timeout)
        try:
            message = begun.message()
        except DecodeError:
            self._begun = None
            raise
        self._begun = None
        return message

    @classmethod
    def create_from_process_group(  # type: ignore[override]
        cls,
        pg: Any,
        max_chunk_bytes: int,
        max_chunks: int,
        writer_rank: int = 0,
        external_writer_handle: Any = None,
        blocking: bool = True,
    ) -> Self:
        """Collective: the end of this rank of a queue from `writer_rank` to all others; if a process outside of the
        group writes it, all read."""
        from vllm.distributed.parallel_state import in_the_same_node_as

        rank, size = _place_in(pg)
        shares = in_the_same_node_as(pg, source_rank=writer_rank)
        if rank != writer_rank:
            end = cls.create_from_handle(_broadcast(pg, None, writer_rank), rank)
        elif external_writer_handle is not None:
            end = cls.create_from_handle(external_writer_handle, rank)
            _broadcast(pg, external_writer_handle, writer_rank)
        else:
            local = [one for one, is_here in enumerate(shares) if is_here and one != writer_rank]
            end = cls(size - 1, len(local), local, max_chunk_bytes, max_chunks)
            _broadcast(pg, end.export_handle(), writer_rank)
        if blocking:
            end.wait_until_ready()
        return end

    @classmethod
    def create_from_process_group_single_reader(  # type: ignore[override]
        cls, pg: Any, max_chunk_bytes: int, max_chunks: int, reader_rank: int = 0, blocking: bool = False
    ) -> tuple[Self, list[Handle]]:
        """Collective: each rank writes a queue, and `reader_rank`, a rank of the world, gets the handles of all."""
        import torch.distributed as dist
        from vllm.distributed.parallel_state import in_the_same_node_as

        rank, size = _place_in(pg)
        reader = dist.get_group_rank(pg, reader_rank)
        is_local = in_the_same_node_as(pg, source_rank=reader)[rank]
        end = cls(1, int(is_local), None, max_chunk_bytes, max_chunks)
        handles: list[Any] | None = [None] * size if rank == reader else None
        dist.gather_object(end.export_handle(), handles, dst=reader_rank, group=pg)
        if blocking and rank != reader:  # who has to have the handles first
            end.wait_until_ready()
        return end, handles or []


def _left(timeout: float | None) -> float | None:
    """A time-out as ours takes it: some releases of vLLM pass what is left of a deadline that is over."""
    return timeout if timeout is None else max(0.0, timeout)


def _place_in(pg: Any) -> tuple[int, int]:
    """This process's rank in a group, and how many there are: of torch.distributed, or vLLM's StatelessProcessGroup."""
    import torch.distributed as dist

    if isinstance(pg, dist.ProcessGroup):
        return dist.get_rank(pg), dist.get_world_size(pg)
    return pg.rank, pg.world_size


def _broadcast(pg: Any, obj: Any, source: int) -> Any:
    """What `source`, a rank of the group, has given."""
    import torch.distributed as dist

    if not isinstance(pg, dist.ProcessGroup):
        return pg.broadcast_obj(obj, source)
    box = [obj]
    dist.broadcast_object_list(box, src=dist.get_global_rank(pg, source), group=pg)
    return box[0]


def _address() -> str:
    """This machine's, as vLLM has it."""
    from vllm.utils.network_utils import get_ip

    return str(get_ip())

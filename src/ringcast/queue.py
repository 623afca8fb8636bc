"""MessageQueue: one process broadcasts Python objects, every reader gets each of them once, whole, in order.

The writer makes the queue; readers make their ends from its handle, or find it by name:

    queue = MessageQueue(n_reader=2)                            # the scheduler
    handle = queue.export_handle()                              # picklable: pass it to the workers
    reader = MessageQueue.create_from_handle(handle, rank=0)    # in a worker

    queue = MessageQueue(n_reader=2, name="sched")              # or meet by name
    reader = MessageQueue.attach("sched")

A handle promises each of its ranks every message from the first on (of a named queue: from its first export on),
however late it attaches. Who attaches by name alone begins with the next message; `wait_until_ready` on the writer
waits for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ringcast import _arguments, _names, _segment
from ringcast._attributes import own_attributes, travelling
from ringcast._end import QueueEnd
from ringcast._handle import Handle, checked_handle
from ringcast._joining import Patience, find_living, take_rank
from ringcast.codec import Codec
from ringcast.codec import codec as make_codec
from ringcast.errors import ArgumentError, NotReadyError, QueueClosedError, SegmentNotFoundError
from ringcast.waiting import OnFull, OnReaderDeath, OnReaderLeave, Wait, WaitSettings, reader_policy

if TYPE_CHECKING:
    from typing_extensions import Self

    from ringcast import _core

DEFAULT_MAX_CHUNKS = 10
DEFAULT_ATTACH_TIMEOUT_S = 10.0
DEFAULT_FULL_DEADLINE_S = 1.0
DEFAULT_RANK_TIMEOUT_S = 1.0

CodecName: TypeAlias = Literal["pickle", "msgpack", "raw"]

__all__ = ["Handle", "MessageQueue"]


class MessageQueue(QueueEnd):
    """One end of a broadcast queue. Calling the class makes the queue and is the writer's end.

    Subclasses may have an `__init__` of their own, which makes the writer's end. Readers are made without it; what they
    get instead is told at `reader_attributes`.

    Args:
        n_reader: readers in all, at least 1.
        n_local_reader: how many of them are on this machine; default all. Others are not supported yet.
        local_reader_ranks: the ranks of those; default 0 .. n_local_reader - 1.
        max_chunk_bytes: the largest usual message, in bytes as encoded: what acquire_write gives if not asked for a
            size. Larger ones travel just as well, as long as they fit max_bytes; statistics count them. Default 24 MiB,
            or what max_bytes has room for.
        max_chunks: how many messages may be unread by the slowest reader before the writer waits.
        connect_ip: the address that remote readers connect to; must be None for now.
        name: a name by which readers find the queue, unique among this user's queues.
        max_bytes: the most shared memory that the queue may ever take, for everything; default the ring itself and
            256 MiB for large messages, or twice max_chunk_bytes if that is more. What is not used is not committed,
            and given back after a burst.
        max_leases: how many messages that do not fit inline (about 1 KiB) may be unread or held by readers' views at a
            time before the writer waits; default max_chunks and up to 1,024 more, fewer if max_bytes is very small.
        codec: how objects other than `bytes` travel: "pickle" (default); "msgpack", which runs no code when it is
            read; or "raw", bytes-like objects only. NumPy arrays by themselves travel as they are, except with "raw".
        on_reader_death: what a call does that has to wait for a reader whose process died: "raise" ReaderDiedError
            (default), or "evict" it and go on. Until then a restarted reader goes on where the dead one was; afterwards
            it can take the rank, and begins with the next message. A reader that an exception ends counts as dead.
        on_full: what a call does when a reader that lives has kept the queue full for `full_deadline` seconds:
            "block" (default) for as long as the call's own timeout allows, "raise" QueueFullError, or "evict" that
            reader, which finds out by ReaderEvictedError. Evictions are logged.
        full_deadline: in seconds; 0 acts at once. Unused with on_full="block".
        on_reader_leave: what happens when a reader that a handle promised messages to has left in order, and more is
            sent: "log" it once (default), or "raise" ReaderLeftError from the next call that sends, once. Either way
            `stats()["missed"]` counts what nobody has read for its rank, and who takes the rank begins at the head.
        wait: how to wait: "adaptive" (default) stays awake where messages come at most 0.45 ms apart, else sleeps;
            "busy", or Busy(window), stays awake for the first 2 ms, or `window` seconds, of each wait; "spin", "yield",
            "park", a SpinTimer or a SpinSleepTimer. The environment variable RINGCAST_WAIT sets the default.

    Raises ArgumentError, SegmentExistsError (the name is taken), CapacityError (shared memory is full).
    """

    def __init__(
        self,
        n_reader: int,
        n_local_reader: int | None = None,
        local_reader_ranks: Sequence[int] | None = None,
        max_chunk_bytes: int | None = None,
        max_chunks: int = DEFAULT_MAX_CHUNKS,
        connect_ip: str | None = None,
        *,
        name: str | None = None,
        max_bytes: int | None = None,
        max_leases: int | None = None,
        codec: CodecName = "pickle",
        on_reader_death: OnReaderDeath = "raise",
        on_full: OnFull = "block",
        full_deadline: float = DEFAULT_FULL_DEADLINE_S,
        on_reader_leave: OnReaderLeave = "log",
        wait: Wait = None,
    ) -> None:
        policy = reader_policy(on_reader_death, on_full, full_deadline, on_reader_leave)
        waits = WaitSettings.of(wait)
        chosen = make_codec(_arguments.choice("codec", codec, ("pickle", "msgpack", "raw")))
        n_reader = _segment.checked_readers(n_reader)
        n_local_reader = n_reader if n_local_reader is None else _arguments.checked("n_local_reader", n_local_reader, 0)
        if n_local_reader > n_reader:
            raise ArgumentError(f"n_local_reader={n_local_reader} is more than n_reader={n_reader}")
        if n_reader > n_local_reader or connect_ip is not None:
            # Deliberate: readers on other machines come with the TCP leg.
            raise NotImplementedError(
                f"readers on other machines are not supported yet: n_reader={n_reader}, "
                f"n_local_reader={n_local_reader}, connect_ip={connect_ip!r}"
            )
        ranks = list(range(n_local_reader))
        if local_reader_ranks is not None:
            ranks = _arguments.ranks("local_reader_ranks", local_reader_ranks)
        if len(ranks) != n_local_reader:
            raise ArgumentError(f"local_reader_ranks must be {n_local_reader} different ranks, not {ranks}")
        made = _segment.create(name, n_reader, ranks, max_chunk_bytes, max_chunks, max_bytes, max_leases)
        self._open(made, writer=True, rank=None, waits=waits, codec=chosen, policy=policy)

    def export_handle(self) -> Handle:
        """What `create_from_handle` needs in another process. Raises QueueClosedError once this end is closed.

        From the first call on, each rank is promised every message that is sent, whether or not it has attached.
        """
        memory = self._segment
        if memory is None or self.closed:
            raise QueueClosedError(f"{self._context} is closed{self._why_closed}: a handle of it would lead nowhere")
        self._promise()
        self._exported = True
        ring = (memory.n_reader, memory.max_chunk_bytes, memory.max_chunks, memory.name)
        attributes = () if type(self) is MessageQueue else travelling(self, self.reader_attributes())
        return Handle(memory.name, memory.epoch, tuple(memory.ranks), ring, attributes=attributes)

    def reader_attributes(self) -> Mapping[str, Any]:
        """For subclasses: what a reader gets as attributes, by name, that is made from a handle of this end.

        `create_from_handle` does not run the subclass's `__init__`, which makes a queue. By default the attributes of
        this object itself travel in the handle, as they are when it is exported; those that cannot be pickled, or only
        to more than a MiB, stay behind, which is logged. Override it to choose. A reader made by `attach` gets none.
        """
        return own_attributes(self)

    @classmethod
    def create_from_handle(
        cls,
        handle: Handle,
        rank: int,
        *,
        timeout: float | None = DEFAULT_RANK_TIMEOUT_S,
        copy: bool | None = None,
        zero_copy: bool = False,
        allow_pickle: bool | None = None,
        message_type: Any = None,
        wait: Wait = None,
    ) -> Self:
        """A reader's end, for `rank`.

        Args:
            handle: what `export_handle` returned, also after a way through JSON.
            timeout: how many seconds to wait for a reader that still has the rank: one that is about to leave.
            copy: whether received arrays are copies of this process alone. None (default): what is below 64 KiB
                is, and so is whatever comes while this reader, or all together, view a good part of the shared memory,
                so that one who keeps what it gets does not stop the writer; the rest are read-only views. True: all
                are copies, and writable. False: all of 64 KiB and more are views, however many are kept.
            zero_copy: torch tensors of 64 KiB and more are views, too, instead of copies, and all that is received may
                be changed in place: it lies in a copy-on-write mapping of the shared memory, so that nobody else sees
                it.
            allow_pickle: False refuses pickled messages with PickleRefusedError and goes on to the next. Default
                the environment variable RINGCAST_ALLOW_PICKLE, 1 or 0, else True.
            message_type: the msgspec Struct, or other type, that MessagePack messages are converted to.

        Raises ArgumentError, SegmentNotFoundError (the queue was closed, or all its readers had attached), RankError,
        RankTakenError.
        """
        handle = checked_handle(handle)
        rank = _checked_rank(rank)
        patience = Patience(_arguments.seconds("timeout", timeout))
        waits = WaitSettings.of(wait)
        zero_copy = _arguments.flag("zero_copy", zero_copy)
        codec = _reader_codec(allow_pickle, message_type, copy, zero_copy)
        try:
            memory = _segment.attach(handle.segment, zero_copy=zero_copy)
        except SegmentNotFoundError as error:
            raise SegmentNotFoundError(
                f"{_names.label(handle.segment)} of this handle does not exist: its writer has closed it or died, or "
                "its MessageQueue object was garbage collected because nothing referred to it any more (keep that "
                "object, not only the handle, for as long as readers may come), or all of its readers had attached, "
                "after which an unnamed queue takes no more"
            ) from error
        if memory.epoch != handle.epoch:
            raise SegmentNotFoundError(
                f"{memory.label} of this handle was closed; another queue has its name now (epoch {memory.epoch:#x}, "
                f"not {handle.epoch:#x})"
            )
        end = take_rank(
            lambda it: cls.open(it, writer=False, rank=rank, waits=waits, codec=codec), memory, rank, patience
        )
        assert end is not None
        if cls is not MessageQueue:
            vars(end).update(handle.attributes)
        return end

    @classmethod
    def attach(
        cls,
        name: str,
        rank: int | None = None,
        timeout: float | None = DEFAULT_ATTACH_TIMEOUT_S,
        *,
        copy: bool | None = None,
        zero_copy: bool = False,
        allow_pickle: bool | None = None,
        message_type: Any = None,
        wait: Wait = None,
    ) -> Self:
        """A reader's end of the queue with this name; waits at most `timeout` seconds for it to be made, and for the
        rank to be free.

        Takes the lowest free rank if none is given; the other arguments are those of `create_from_handle`.
        Raises ArgumentError, SegmentNotFoundError, RankError, RankTakenError.
        """
        if name is None:
            raise _arguments.refuse("name", "a queue's name", name)
        real_name = _names.segment_name(name)
        rank = None if rank is None else _checked_rank(rank)
        patience = Patience(_arguments.seconds("timeout", timeout))
        waits = WaitSettings.of(wait)
        zero_copy = _arguments.flag("zero_copy", zero_copy)
        codec = _reader_codec(allow_pickle, message_type, copy, zero_copy)

        def look() -> _core.Segment:
            return _segment.attach(real_name, zero_copy=zero_copy)

        while True:
            memory = find_living(name, real_name, look, patience, rank)
            end = take_rank(
                lambda it: cls.open(it, writer=False, rank=rank, waits=waits, codec=codec),
                memory, rank, patience, only_living=True,
            )  # fmt: skip
            if end is not None:
                return end

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Collective: returns on every side once all readers have attached and the writer has confirmed it.

        Raises NotReadyError after `timeout` seconds; its `missing` names the ranks that have not attached.
        """
        missing = tuple(self._await_ready(timeout))
        if missing:
            who = ", ".join(map(str, missing))
            raise NotReadyError(
                f"{self._context}: waited {timeout} s, but "
                + (f"rank {who} has not attached" if len(missing) == 1 else f"ranks {who} have not attached"),
                missing,
            )

    def broadcast_object(self, obj: Any = None) -> Any:
        """On the writer: send `obj` and return it. On a reader: receive."""
        if self.role == "writer":
            self.enqueue(obj)
            return obj
        return self.dequeue()


def _checked_rank(rank: Any) -> int:
    """Any int: whether the queue has it, it is asked."""
    return _arguments.checked("rank", rank, -_arguments.INT32_MAX, _arguments.INT32_MAX)


def _reader_codec(allow_pickle: Any, message_type: Any, copy: Any, zero_copy: bool) -> Codec:
    allowed = None if allow_pickle is None else _arguments.flag("allow_pickle", allow_pickle)
    copies = None if copy is None else _arguments.flag("copy", copy)
    return make_codec("pickle", allow_pickle=allowed, message_type=message_type, copy=copies, zero_copy=zero_copy)

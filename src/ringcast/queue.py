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

The calls that carry messages are native methods, declared here: see `ringcast._end.native`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ringcast import _arguments, _core, _names, _segment
from ringcast._attributes import own_attributes, travelling
from ringcast._end import T, native
from ringcast._extras import needed
from ringcast._handle import Handle, checked_handle
from ringcast._joining import Patience, find_living, take_rank
from ringcast._of_groups import DEFAULT_FULL_DEADLINE_S, DEFAULT_LINK_TIMEOUT_S, CodecName, OfGroups
from ringcast.codec import Codec
from ringcast.codec import codec as make_codec
from ringcast.errors import (
    ArgumentError,
    LinkDiedError,
    NotReadyError,
    QueueClosedError,
    RankTakenError,
    SegmentNotFoundError,
)
from ringcast.waiting import OnFull, OnReaderDeath, OnReaderLeave, Wait, WaitSettings, reader_policy

if TYPE_CHECKING:
    from typing_extensions import Self

    from ringcast.net.link._desk import Place

DEFAULT_MAX_CHUNKS = 10
DEFAULT_ATTACH_TIMEOUT_S = 10.0
DEFAULT_RANK_TIMEOUT_S = 1.0

Default = TypeVar("Default")

__all__ = ["Handle", "MessageQueue"]


class MessageQueue(OfGroups[T]):
    """One end of a broadcast queue. Calling the class makes the queue and is the writer's end.

    >>> queue = MessageQueue(n_reader=1)
    >>> reader = MessageQueue.create_from_handle(queue.export_handle(), rank=0)
    >>> queue.enqueue({"step": 1})
    >>> reader.dequeue()
    {'step': 1}
    >>> queue.close()

    In the examples of the methods, `queue` and `reader` are these two. `MessageQueue[Step]` says to type checkers what
    the messages are; at run time it is the same class.

    Subclasses may have an `__init__` of their own, which makes the writer's end. Readers are made without it; what they
    get instead is told at `reader_attributes`.

    Args:
        n_reader: readers in all, at least 1.
        n_local_reader: how many of them are on this machine; default all. The others read through a link, over TCP:
            everything is kept for them until they have come, too.
        local_reader_ranks: the ranks of those; default 0 .. n_local_reader - 1.
        max_chunk_bytes: the largest usual message, in bytes as encoded: what acquire_write gives if not asked for a
            size. Larger ones travel just as well, as long as they fit max_bytes; statistics count them. Default 24 MiB,
            or what max_bytes has room for.
        max_chunks: how many messages may be unread by the slowest reader before the writer waits.
        connect_ip: the address of this machine that the machines of remote readers connect to; default
            `RINGCAST_HOST_IP`, else that of the route to a group's store, or of the default route. Unused where all
            readers are local.
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
        full_deadline: in seconds; 0 acts at once. Counted from the first call that found no room, also if that call's
            own timeout was shorter, or it does not wait. Unused with on_full="block".
        on_reader_leave: what happens when a reader that a handle promised messages to has left in order, and more is
            sent: "log" it once (default), or "raise" ReaderLeftError from the next call that sends, once. Either way
            `stats()["missed"]` counts what nobody has read for its rank, and who takes the rank begins at the head.
        link_timeout: for how many seconds a machine of remote readers may be out of reach, before its readers count as
            dead: 0, at the first cut. Whoever waits is told of a cut within 5 s.
        encrypt: False sends messages to other machines in the clear, though still proven to come from this queue.
        wait: how to wait: "adaptive" (default) stays awake where messages come at most 0.45 ms apart, else sleeps;
            "busy", or Busy(window), stays awake for the first 2 ms, or `window` seconds, of each wait; "spin", "yield",
            "park", a SpinTimer or a SpinSleepTimer. The environment variable RINGCAST_WAIT sets the default.

    Raises ArgumentError, SegmentExistsError (the name is taken), CapacityError (shared memory is full); with readers on
    other machines MissingPackageError, and `export_handle` raises LinkError.
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
        link_timeout: float = DEFAULT_LINK_TIMEOUT_S,
        encrypt: bool = True,
        wait: Wait = None,
    ) -> None:
        policy = reader_policy(on_reader_death, on_full, full_deadline, on_reader_leave)
        waits = WaitSettings.of(wait)
        chosen = make_codec(_arguments.choice("codec", codec, ("pickle", "msgpack", "raw")))
        n_reader = _segment.checked_readers(n_reader)
        n_local_reader = n_reader if n_local_reader is None else _arguments.checked("n_local_reader", n_local_reader, 0)
        if n_local_reader > n_reader:
            raise ArgumentError(f"n_local_reader={n_local_reader} is more than n_reader={n_reader}")
        if connect_ip is not None and not isinstance(connect_ip, str):
            raise _arguments.refuse("connect_ip", "an IP address as text, or None", connect_ip)
        patience = _arguments.seconds("link_timeout", link_timeout)
        if patience is None:
            raise ArgumentError("link_timeout must be finite: a machine that never comes back would hold everybody up")
        encrypt = _arguments.flag("encrypt", encrypt)
        if n_reader > n_local_reader:
            needed("cryptography", "a queue with readers on other machines")
        ranks = list(range(n_local_reader))
        if local_reader_ranks is not None:
            ranks = _arguments.ranks("local_reader_ranks", local_reader_ranks)
        if len(ranks) != n_local_reader:
            raise ArgumentError(f"local_reader_ranks must be {n_local_reader} different ranks, not {ranks}")
        made = _segment.create(name, n_reader, ranks, max_chunk_bytes, max_chunks, max_bytes, max_leases)
        self._open(made, writer=True, rank=None, waits=waits, codec=chosen, policy=policy)
        if n_reader > n_local_reader:
            self._exporting = threading.RLock()
            self._linking = {
                "connect_ip": connect_ip, "towards": None, "link_timeout": patience, "encrypt": encrypt,
                "policy": policy,
            }  # fmt: skip

    def export_handle(self) -> Handle:
        """What `create_from_handle` needs in another process: picklable, and may travel as JSON.

        From the first call on, each rank is promised every message that is sent, whether or not it has attached. A
        handle keeps nothing alive: keep the queue for as long as readers may come. Raises QueueClosedError once this
        end is closed; with readers on other machines LinkError, and LinkDiedError once the link has died.

        >>> import json
        >>> late = MessageQueue(n_reader=1)
        >>> text = json.dumps(late.export_handle())
        >>> late.enqueue("sent before anybody was there")
        >>> MessageQueue.create_from_handle(json.loads(text), rank=0).dequeue()
        'sent before anybody was there'
        """
        memory = self._segment
        if memory is None or self.closed:
            raise self._leads_nowhere()
        self._promise()
        self._exported = True
        ring = (memory.n_reader, memory.max_chunk_bytes, memory.max_chunks, memory.name)
        attributes = () if type(self) is MessageQueue else travelling(self, self.reader_attributes())
        handle = Handle(memory.name, memory.epoch, tuple(memory.ranks), ring, attributes=attributes)
        return handle if self._linking is None else self._reachable(handle, memory)

    def _reachable(self, handle: Handle, memory: _core.Segment) -> Handle:
        """The handle, by which other machines find the queue, too: from now on its link listens for them."""
        from ringcast.net.link._ends import export

        with self._exporting:
            if self._linked is None:
                assert self._linking is not None
                exported = export(memory, **self._linking)
                self._link, self._linked = exported.place, exported
                if self._segment is None:  # another thread has closed it meanwhile, before there was a place to leave
                    self._leave_link()
                    raise self._leads_nowhere()
                exported.place.tell_of_its_life(self)
        exported = self._linked
        if (death := exported.place.death) is not None:
            raise LinkDiedError(
                f"{self._context}: {death}, so a handle would lead nobody here; make the queue anew, and give its "
                "readers the new handle"
            )
        ip, port = exported.address
        is_ipv6 = ":" in ip
        return handle._replace(
            remote_address=f"tcp://[{ip}]:{port}" if is_ipv6 else f"tcp://{ip}:{port}",
            remote_address_is_ipv6=is_ipv6,
            job=exported.job,
            key=None if exported.key is None else exported.key.hex(),
            encrypt=exported.encrypt,
        )

    def _leads_nowhere(self) -> QueueClosedError:
        return QueueClosedError(f"{self._context} is closed{self._why_closed}: a handle of it would lead nowhere")

    def reader_attributes(self) -> Mapping[str, Any]:
        """For subclasses: what a reader gets as attributes, by name, that is made from a handle of this end.

        `create_from_handle` does not run the subclass's `__init__`, which makes a queue. By default the attributes of
        this object itself travel in the handle, as they are when it is exported; those that cannot be pickled, or only
        to more than a MiB, stay behind, which is logged. Override it to choose. A reader made by `attach` gets none.

        >>> class Jobs(MessageQueue):
        ...     def __init__(self, n_reader):
        ...         super().__init__(n_reader)
        ...         self.kind = "jobs"
        >>> jobs = Jobs(n_reader=1)
        >>> Jobs.create_from_handle(jobs.export_handle(), rank=0).kind
        'jobs'
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
        """A reader's end, for `rank`. A rank that is not one of the handle's local ranks reads on another machine than
        the writer's; -1 is any of those.

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
        RankTakenError, and for a remote rank LinkError, within 10 s, that says what is in the way.

        >>> wide = MessageQueue(n_reader=2)
        >>> handle = wide.export_handle()
        >>> ends = [MessageQueue.create_from_handle(handle, rank) for rank in range(2)]
        >>> wide.enqueue("to all")
        >>> [end.dequeue() for end in ends]
        ['to all', 'to all']
        """
        handle = checked_handle(handle)
        rank = _checked_rank(rank)
        patience = Patience(_arguments.seconds("timeout", timeout))
        waits = WaitSettings.of(wait)
        zero_copy = _arguments.flag("zero_copy", zero_copy)
        codec = _reader_codec(allow_pickle, message_type, copy, zero_copy)
        link: Place | None = None
        if rank not in handle.local_reader_ranks and (handle.remote_address is not None or rank < 0):
            from ringcast.net._deadline import Deadline
            from ringcast.net.link._ends import JOINED_WITHIN_S, attached, join

            within = Deadline(max(timeout or 0.0, JOINED_WITHIN_S))
            while link is None:
                try:
                    link, memory, rank = join(handle, rank, within, zero_copy=zero_copy)
                except RankTakenError:  # by one that is about to leave?
                    if not patience.nap():
                        raise
            handle = handle._replace(segment=memory.name, epoch=memory.epoch)
        try:
            memory = memory if link is not None else _segment.attach(handle.segment, zero_copy=zero_copy)
        except SegmentNotFoundError as error:
            raise SegmentNotFoundError(
                f"{_names.label(handle.segment)} of this handle does not exist: its writer has closed it or died, or "
                "its MessageQueue object was garbage collected because nothing referred to it any more (keep that "
                "object, not only the handle, for as long as readers may come), or all of its readers had attached, "
                "after which an unnamed queue takes no more; or its writer has another /dev/shm than this process: "
                "containers share one with docker run --ipc=host, or with a volume mounted there in both"
            ) from error
        if memory.epoch != handle.epoch:
            raise SegmentNotFoundError(
                f"{memory.label} of this handle was closed; another queue has its name now (epoch {memory.epoch:#x}, "
                f"not {handle.epoch:#x})"
            )
        try:
            end = take_rank(
                lambda it: cls._of(it, writer=False, rank=rank, waits=waits, codec=codec), memory, rank, patience
            )
        except BaseException:
            if link is not None:
                link.close()
            raise
        assert end is not None
        end._link = link
        if link is not None:
            attached(link)
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

        Takes the lowest free rank if none is given, and begins with the next message that is sent, if the queue has
        given out no handle. The other arguments are those of `create_from_handle`.
        Raises ArgumentError, SegmentNotFoundError, RankError, RankTakenError.

        >>> camera = MessageQueue(n_reader=4, name="camera")
        >>> viewer = MessageQueue.attach("camera")
        >>> viewer.rank
        0
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
                lambda it: cls._of(it, writer=False, rank=rank, waits=waits, codec=codec),
                memory, rank, patience, only_living=True,
            )  # fmt: skip
            if end is not None:
                return end

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Collective: returns on every side once all readers have attached and the writer has confirmed it.

        Raises NotReadyError after `timeout` seconds, whose `missing` names the ranks that have not attached, as far as
        they are known: those of readers of other machines are once these have come for them;
        QueueClosedError, WriterDiedError, ReaderEvictedError; on the writer ReaderDiedError, also where this machine's
        link has died and nobody can come from other machines any more.

        >>> lonely = MessageQueue(n_reader=2)
        >>> try:
        ...     lonely.wait_until_ready(timeout=0)
        ... except NotReadyError as error:
        ...     error.missing
        (0, 1)
        """
        missing = self._await_ready(timeout)
        if missing:
            known = tuple(rank for rank in missing if rank != _core.NOBODY)
            ranks = ", ".join(map(str, known))
            who = [f"rank {ranks} has not attached" if len(known) == 1 else f"ranks {ranks} have not attached"]
            if elsewhere := len(missing) - len(known):
                told = f"{elsewhere} reader{'' if elsewhere == 1 else 's'} of other machines"
                who = [*(who if known else []), f"{told} {'has' if elsewhere == 1 else 'have'} not come"]
            raise NotReadyError(f"{self._context}: waited {timeout} s, but {', and '.join(who)}", known)

    def broadcast_object(self, obj: Any = None) -> T:
        """On the writer: send `obj` and return it. On a reader: receive. Raises what `enqueue` and `dequeue` raise.

        >>> queue.broadcast_object("the same everywhere") == reader.broadcast_object()
        True
        """
        if self.role == "writer":
            message: T = obj
            self.enqueue(message)
            return message
        return self.dequeue()

    @native
    def enqueue(self, obj: T, timeout: float | None = None) -> None:
        """Send `obj` to every reader; wait while the queue is full, at most `timeout` seconds (None: without limit).

        An object that is exactly `bytes` travels as it is, a NumPy array or torch tensor as header and elements (one
        copy, into shared memory), anything else through the queue's codec. `obj` may be changed as soon as the call has
        returned.
        Raises QueueTimeoutError, QueueFullError, QueueClosedError, MessageTooLargeError, EncodeError, CapacityError,
        ReaderDiedError, ReaderLeftError; whatever it raises, nothing has been sent.

        >>> queue.enqueue({"step": 1}, timeout=1.0)
        >>> reader.dequeue()
        {'step': 1}
        """
        super().enqueue(obj, timeout)

    @native
    def try_enqueue(self, obj: T, /) -> bool:
        """Send `obj` if there is room now; False if there is not. Raises what `enqueue` raises, but no time-out.

        >>> small = MessageQueue(n_reader=1, max_chunks=1)
        >>> handle = small.export_handle()  # from here on its reader is waited for
        >>> small.try_enqueue("fits"), small.try_enqueue("does not")
        (True, False)
        """
        return super().try_enqueue(obj)

    @native
    def enqueue_many(self, objs: Iterable[T], timeout: float | None = None) -> int:
        """Send each of `objs` in order; `timeout` seconds are for all of them together. Returns how many were sent.

        Readers are woken now and then instead of for each. If it raises, the exception's `sent` tells how many were
        sent before; an exception that `objs` itself raises gets such an attribute, too, unless it has one or takes
        none, and, from Python 3.11 on, a note. Raises what `enqueue` raises.

        >>> queue.enqueue_many({"step": step} for step in range(3))
        3
        >>> reader.dequeue_many(10)
        [{'step': 0}, {'step': 1}, {'step': 2}]
        """
        return super().enqueue_many(objs, timeout)

    @native
    def dequeue(
        self, timeout: float | None = None, cancel: threading.Event | None = None, indefinite: bool = False
    ) -> T:
        """Receive the next message; wait for it at most `timeout` seconds (None: without limit).

        Setting the event `cancel` ends the wait from another thread, within 0.1 s. `indefinite=True` says that a long
        wait is expected and is not to be logged. A received array of 64 KiB or more is a read-only view of shared
        memory, which is the reader's until the last view of it is gone; see `copy` at `create_from_handle`.
        Raises QueueTimeoutError, WaitCancelledError, QueueClosedError (the writer closed and all is read, or this end
        was shut down), WriterDiedError, ReaderEvictedError, DecodeError (that message is consumed). An interruption
        while the object is rebuilt leaves the message to the next call; a MemoryError does so once.

        >>> queue.enqueue("hello")
        >>> reader.dequeue(timeout=1.0)
        'hello'
        """
        return super().dequeue(timeout, cancel, indefinite)

    if TYPE_CHECKING:

        @overload
        def try_dequeue(self) -> T | None: ...
        @overload
        def try_dequeue(self, default: Default) -> T | Default: ...

    @native
    def try_dequeue(self, default: Any = None) -> Any:
        """Receive the next message if there is one, else return `default`. Raises what `dequeue` raises.

        >>> reader.try_dequeue("nothing")
        'nothing'
        """
        return super().try_dequeue(default)

    @native
    def dequeue_many(
        self,
        max_n: int,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        indefinite: bool = False,
    ) -> list[T]:
        """Wait for a message as `dequeue` does, then take all that are there, at most `max_n`.

        A call that a signal's exception ends has handed out nothing, and the next one begins with what it had taken. A
        message that cannot be rebuilt is the error of the call that comes to it first. Raises what `dequeue` raises.

        >>> queue.enqueue_many("abc")
        3
        >>> reader.dequeue_many(2), reader.dequeue_many(2)
        (['a', 'b'], ['c'])
        """
        return super().dequeue_many(max_n, timeout, cancel, indefinite)

    @native
    def qsize(self) -> int:
        """On a reader, how many messages it has not read; on the writer, how many the slowest reader has not.

        Raises QueueClosedError.

        >>> queue.enqueue("unread")
        >>> queue.qsize(), reader.qsize()
        (1, 1)
        """
        return super().qsize()

    @native
    def evict(self, rank: int) -> bool:
        """Go on without the reader of `rank`, which finds out by ReaderEvictedError; False if there is none.

        For the writer. What the reader holds views of stays as it is; it may attach again. Raises QueueClosedError,
        RoleError.

        >>> queue.evict(0)
        True
        """
        return super().evict(rank)


def _checked_rank(rank: Any) -> int:
    """Any int: whether the queue has it, it is asked."""
    return _arguments.checked("rank", rank, -_arguments.INT32_MAX, _arguments.INT32_MAX)


def _reader_codec(allow_pickle: Any, message_type: Any, copy: Any, zero_copy: bool) -> Codec:
    allowed = None if allow_pickle is None else _arguments.flag("allow_pickle", allow_pickle)
    copies = None if copy is None else _arguments.flag("copy", copy)
    return make_codec("pickle", allow_pickle=allowed, message_type=message_type, copy=copies, zero_copy=zero_copy)

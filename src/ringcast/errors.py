"""Every error that ringcast raises, under one root, each also the built-in it resembles.

    RingcastError
    ├── ArgumentError (ValueError)             an argument that makes no sense: a size, a count, a time-out, a handle
    │   ├── ArgumentTypeError (TypeError)      one of a type that cannot be meant
    │   └── RankError                          not a rank of this queue
    ├── QueueTimeoutError (TimeoutError)       the time-out passed
    │   ├── NotReadyError                      wait_until_ready: some ranks are not there
    │   ├── EndTimeoutError                    Selector: one of its ends has given nothing for its deadline
    │   └── QueueFullError                     on_full="raise": the queue stayed full for full_deadline
    ├── CallTimeoutError (TimeoutError)        a call of a worker group missed its deadline; `stacks` says where it was
    ├── RemoteError (RuntimeError)             what a worker raised, as text: its traceback, or all that could travel
    ├── WaitCancelledError (RuntimeError)      the wait's `cancel` event was set
    ├── QueueClosedError (RuntimeError)        the writer closed and all is read, or this end was shut down
    ├── RoleError (RuntimeError)               a reader's call on the writer's end, or the reverse
    ├── BusyError (RuntimeError)               nested use of one end by one thread
    ├── ForkedError (RuntimeError)             a parent's end used in a forked child
    ├── RankTakenError (RuntimeError)          another living reader has the rank
    ├── MissingPackageError (ImportError)      an optional package is not installed; says which extra has it
    ├── GroupError (RuntimeError)              a process group's collective failed; `ranks` says because of whom
    │   ├── GroupTimeoutError (TimeoutError)   some ranks did not come in time
    │   ├── GroupMismatchError (ValueError)    ranks have other arguments, another release, or are at another collective
    │   ├── GroupPeerError (ConnectionError)   a rank died, or was started again alone; or the group's store is gone
    │   └── GroupSecurityError (PermissionError)   a pickle that anybody could have sent, or not the same secret
    ├── LinkError (ConnectionError)            no link to the writer's machine could be made; the message says why
    ├── PeerError (ConnectionError)
    │   ├── WriterDiedError                    the writer's process died; all it had published has been read
    │   │   └── LinkDiedError                  what relays its messages to this machine is gone, or the wire; likewise
    │   ├── ReaderDiedError                    a reader that the writer waits for died, or was ended by an exception
    │   ├── ReaderLeftError                    on_reader_leave="raise": a promised reader has left; nothing was sent
    │   ├── ReaderEvictedError                 the writer stopped waiting for this reader
    │   └── WorkerDiedError                    a worker of a group ended; `exitcode` says how
    ├── MessageError
    │   ├── MessageTooLargeError (ValueError)  larger than the queue takes; nothing was sent
    │   ├── EncodeError (TypeError, PicklingError)   the object cannot be sent; nothing was
    │   ├── ViewsAliveError (BufferError)      a view of a chunk outlives its `with` block; nothing was sent
    │   ├── DecodeError (ValueError)           the received object cannot be rebuilt; it is consumed
    │   │   └── PickleRefusedError             a pickled message, and this reader unpickles nothing; it is consumed
    │   └── CorruptError (ValueError)          shared memory holds what no writer wrote
    ├── PoolError                              the KV pool's; a cache never fails an engine: catch this, and recompute
    │   ├── PoolConnectError (ConnectionError)     no pool of this name, no living server, no seat, another layout
    │   ├── PoolTimeoutError (TimeoutError)        the server has not answered in time; nothing was done
    │   ├── ServerDiedError (ConnectionError)      it died, and no other took the pool over within `regain`
    │   ├── PoolClosedError (RuntimeError)         the server has closed the pool, or this end was closed
    │   ├── LeaseExpiredError (RuntimeError)       a lease that was aborted, given back, or is another client's
    │   ├── TokenError (ValueError)                a token of other memory, or damaged, or whose part is taken
    │   ├── LayoutError (ValueError)               tensors, chunks and layout do not fit each other; nothing was copied
    │   └── TierError (OSError)                    a tier cannot be opened, or cannot promise that it is cleared
    └── SegmentError (OSError)
        ├── SegmentNotFoundError (FileNotFoundError)
        ├── SegmentExistsError (FileExistsError)
        ├── SegmentPermissionError (PermissionError)
        ├── SegmentMismatchError (ValueError)  made by another release, damaged, or not ringcast's
        ├── CapacityError (MemoryError)        shared memory is full
        └── SystemCallError                    anything else that the system refused; `errno` says what

A message says what was tried, on which queue, by whom, what was found and what to do.
"""

from __future__ import annotations

from pickle import PicklingError


class RingcastError(Exception):
    """The root: `except RingcastError` catches all that this library raises by itself."""

    sent: int | None = None
    """For errors from `enqueue_many`: how many of its messages were sent before the error."""


class ArgumentError(RingcastError, ValueError):
    """An argument makes no sense. The message names it, what it must be and what it was."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is of a type that cannot be meant: text where a number is wanted, or True where a count is."""


class RankError(ArgumentError):
    """The rank is not one of the queue's local ranks."""


class QueueTimeoutError(RingcastError, TimeoutError):
    """A time-out passed. Nothing was sent or received."""


class NotReadyError(QueueTimeoutError):
    """`wait_until_ready` ran out of time. `missing` holds the ranks that have not attached."""

    def __init__(self, message: str, missing: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class EndTimeoutError(QueueTimeoutError):
    """An end of a selector has given nothing for as long as its deadline allows. It stays registered.

    `end` is the end and `key` what it was registered with.
    """

    def __init__(self, message: str, key: object = None, end: object = None) -> None:
        super().__init__(message)
        self.key = key
        self.end = end


class QueueFullError(QueueTimeoutError):
    """The queue stayed full for as long as `full_deadline` allows. Nothing was sent."""


class CallTimeoutError(RingcastError, TimeoutError):
    """A call of a worker group missed its deadline, or workers did not start in time. Late answers are dropped."""

    ranks: tuple[int, ...] = ()
    """The ranks that have not answered."""
    stacks: dict[int, str]
    """What their threads were doing when the deadline passed, as far as they could still say so."""

    def __init__(self, message: str = "", ranks: tuple[int, ...] = (), stacks: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.stacks = stacks or {}


class RemoteError(RingcastError, RuntimeError):
    """What a worker raised, as text: the cause of an exception that keeps its type, with its traceback there; or in the
    place of one that cannot travel.
    """

    rank: int | None = None
    """The worker's rank in its group."""
    kind: str | None = None
    """The type of what was raised there."""


class WaitCancelledError(RingcastError, RuntimeError):
    """The `cancel` event of a wait was set."""


class QueueClosedError(RingcastError, RuntimeError):
    """Nothing more will come: the writer closed and everything is read, or this end was shut down."""


class RoleError(RingcastError, RuntimeError):
    """Only the writer sends, only readers receive."""


class BusyError(RingcastError, RuntimeError):
    """One thread used an end inside another use of the same end; or a chunk is not open any more, or open already."""


class ForkedError(RingcastError, RuntimeError):
    """An end belongs to the process that made it, and is useless in a child forked from that process."""


class RankTakenError(RingcastError, RuntimeError):
    """A living reader holds the rank, or all of them are held, and did not leave within the time-out."""

    rank: int | None = None
    """The rank that was asked for, if one was."""
    pid: int | None = None
    """The process of a reader that holds it."""


class MissingPackageError(RingcastError, ImportError):
    """A package that this call needs is not installed. The message names the extra that brings it; `name` the package.

    Where an object cannot be sent or rebuilt for that reason, it is the cause of an EncodeError or DecodeError.
    """


class GroupError(RingcastError, RuntimeError):
    """A collective of a process group failed. The other ranks get an error, too, at the latest by their deadlines."""

    ranks: tuple[int, ...] = ()
    """The ranks that the error is about, in the group."""


class GroupTimeoutError(GroupError, TimeoutError):
    """Some ranks did not come to a collective before its deadline; `ranks` names them. The group can be used on."""


class GroupMismatchError(GroupError, ValueError):
    """Ranks came with other arguments or another release, or are at another collective than this rank."""


class GroupPeerError(GroupError, ConnectionError):
    """A rank's process has ended or was started again without the others; or the group's store is gone."""


class GroupSecurityError(GroupError, PermissionError):
    """An object was not sent, or not read, because anybody might have put it there; or ranks have different secrets."""


class LinkError(RingcastError, ConnectionError):
    """A link to another machine could not be made: no route, refused, another key or release, or the writer is gone."""


class PeerError(RingcastError, ConnectionError):
    """The other side is gone, or has dropped this one."""

    rank: int | None = None
    """The reader's rank, if the error is about a reader."""
    pid: int | None = None
    """The process that is gone, or was dropped. Its number may mean another process in another pid namespace."""


class WriterDiedError(PeerError):
    """The writer's process died without closing. Everything it published had been delivered first."""


class LinkDiedError(WriterDiedError):
    """The link process that relays this queue here, or the connection to the writer's machine, is gone.

    What had arrived has been delivered. The writer itself may be well.
    """


class ReaderDiedError(PeerError):
    """A reader that the writer has to wait for died without leaving its seat, or was ended by an exception."""


class ReaderLeftError(PeerError):
    """A reader that a handle promised messages to has left in order. Nothing was sent; the next call goes on."""


class ReaderEvictedError(PeerError):
    """The writer stopped waiting for this reader, which may have missed messages since."""


class WorkerDiedError(PeerError):
    """A worker of a group ended, or never started. Its calls fail; `respawn(rank)` brings it back."""

    exitcode: int | None = None
    """Its exit status, or minus the number of the signal that ended it; None if the system did not tell."""


class MessageError(RingcastError):
    """Something about one message."""


class MessageTooLargeError(MessageError, ValueError):
    """The encoded message is larger than all the memory the queue may take. Nothing was taken or sent."""


class EncodeError(MessageError, TypeError, PicklingError):
    """The codec cannot encode the object. Nothing was sent; the queue works on."""


class ViewsAliveError(MessageError, BufferError):
    """Arrays, tensors or views of a chunk outlive its block, and could change what readers see. Nothing was sent."""


class DecodeError(MessageError, ValueError):
    """The codec cannot rebuild the received object. The message is consumed; the queue works on.

    That holds for what raises SystemExit or its like each time it is rebuilt, too, and for what raises a MemoryError
    again when it is received again. Ctrl-C, and what a signal's handler raises, consume nothing.
    """


class PickleRefusedError(DecodeError):
    """The message is pickled, and this reader was told to unpickle nothing. The message is consumed."""


class CorruptError(MessageError, ValueError):
    """Shared memory holds lengths or offsets that no writer of this library produces."""


class PoolError(RingcastError):
    """The root of all that a KV pool raises once its arguments make sense. The bytes in the pool are as they were."""


class PoolConnectError(PoolError, ConnectionError):
    """A pool cannot be connected to. Its cause says why, where the system did: not found, another version, no right."""


class PoolTimeoutError(PoolError, TimeoutError):
    """The server did not answer in time, because it is stopped or busy. What was asked has not been done."""


class ServerDiedError(PoolError, ConnectionError):
    """The pool's server died, and no other has taken the pool over. What is stored can still be retrieved."""


class PoolClosedError(PoolError, RuntimeError):
    """The pool was closed by its server, or this client or server was."""


class LeaseExpiredError(PoolError, RuntimeError):
    """The lease is over: committed, aborted, cleared, or never this client's. Nothing was changed."""


class TokenError(PoolError, ValueError):
    """These bytes join no lease: of other memory, damaged, none at all, or their part is taken. Nothing was joined."""


class LayoutError(PoolError, ValueError):
    """Tensors, chunks and the layout do not fit each other: bytes would go to wrong places. Nothing was copied."""


class TierError(PoolError, OSError):
    """A tier cannot be opened, or cannot promise that it is cleared. Its jobs never raise: what fails is not there."""

    pid: int | None = None
    """The process that has it in use."""


class SegmentError(RingcastError, OSError):
    """A shared-memory segment cannot be made or used."""


class SegmentNotFoundError(SegmentError, FileNotFoundError):
    """No segment has this name: its queue was closed, or never made."""


class SegmentExistsError(SegmentError, FileExistsError):
    """A living queue, or something foreign, has this name; or what a dead one left there is still being removed."""

    pid: int | None = None
    """The process whose living queue has it."""


class SegmentPermissionError(SegmentError, PermissionError):
    """The segment belongs to another user, or others may write to it."""


class SegmentMismatchError(SegmentError, ValueError):
    """The segment was made by another release, is damaged, or is not ringcast's."""


class CapacityError(SegmentError, MemoryError):
    """Shared memory has not enough room. The message gives needed and free bytes, and the remedy."""


class SystemCallError(SegmentError):
    """The operating system refused something else; `errno` says why."""

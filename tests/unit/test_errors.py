"""The exception tree: one root, and each also the built-in that it resembles."""

from __future__ import annotations

import inspect
import pickle
from pickle import PicklingError

import pytest

from ringcast import errors

BUILT_INS: dict[str, tuple[type[BaseException], ...]] = {
    "ArgumentError": (ValueError,),
    "ArgumentTypeError": (ValueError, TypeError),
    "QueueTimeoutError": (TimeoutError,),
    "NotReadyError": (TimeoutError,),
    "EndTimeoutError": (TimeoutError,),
    "QueueFullError": (TimeoutError,),
    "CallTimeoutError": (TimeoutError,),
    "RemoteError": (RuntimeError,),
    "WaitCancelledError": (RuntimeError,),
    "QueueClosedError": (RuntimeError,),
    "RoleError": (RuntimeError,),
    "BusyError": (RuntimeError,),
    "ForkedError": (RuntimeError,),
    "RankError": (ValueError,),
    "RankTakenError": (RuntimeError,),
    "MissingPackageError": (ImportError,),
    "GroupError": (RuntimeError,),
    "GroupTimeoutError": (TimeoutError,),
    "GroupMismatchError": (ValueError,),
    "GroupPeerError": (ConnectionError,),
    "GroupSecurityError": (PermissionError,),
    "LinkError": (ConnectionError,),
    "PeerError": (ConnectionError,),
    "WriterDiedError": (ConnectionError,),
    "LinkDiedError": (ConnectionError,),
    "ReaderDiedError": (ConnectionError,),
    "ReaderLeftError": (ConnectionError,),
    "ReaderEvictedError": (ConnectionError,),
    "WorkerDiedError": (ConnectionError,),
    "MessageError": (),
    "MessageTooLargeError": (ValueError,),
    "EncodeError": (TypeError, PicklingError),
    "ViewsAliveError": (BufferError,),
    "PickleRefusedError": (ValueError,),
    "DecodeError": (ValueError,),
    "CorruptError": (ValueError,),
    "PoolError": (),
    "PoolConnectError": (ConnectionError,),
    "PoolTimeoutError": (TimeoutError,),
    "ServerDiedError": (ConnectionError,),
    "PoolClosedError": (RuntimeError,),
    "LeaseExpiredError": (RuntimeError,),
    "TokenError": (ValueError,),
    "LayoutError": (ValueError,),
    "TierError": (OSError,),
    "SegmentError": (OSError,),
    "SegmentNotFoundError": (FileNotFoundError,),
    "SegmentExistsError": (FileExistsError,),
    "SegmentPermissionError": (PermissionError,),
    "SegmentMismatchError": (ValueError,),
    "CapacityError": (MemoryError,),
    "SystemCallError": (OSError,),
}


def own_errors() -> dict[str, type[errors.RingcastError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.RingcastError) and kind is not errors.RingcastError
    }


def test_every_error_is_listed_here_and_in_the_drawing_of_the_tree() -> None:
    assert set(own_errors()) == set(BUILT_INS)
    assert errors.__doc__ is not None
    for name in BUILT_INS:
        assert f"─ {name}" in errors.__doc__


@pytest.mark.parametrize("name", sorted(BUILT_INS))
def test_an_error_is_also_the_built_in_it_resembles(name: str) -> None:
    kind = own_errors()[name]
    for built_in in BUILT_INS[name]:
        assert issubclass(kind, built_in)


@pytest.mark.parametrize("name", sorted(BUILT_INS))
def test_an_error_keeps_its_message_through_pickle(name: str) -> None:
    error = own_errors()[name]("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "what happened"
    assert copy.sent is None


def test_not_ready_names_the_missing_ranks_also_after_pickling() -> None:
    error = errors.NotReadyError("late", (2, 5))
    assert pickle.loads(pickle.dumps(error)).missing == (2, 5)


def test_groups_of_errors_can_be_caught_together() -> None:
    assert issubclass(errors.NotReadyError, errors.QueueTimeoutError)
    for name in ("WriterDiedError", "LinkDiedError", "ReaderDiedError", "ReaderLeftError", "ReaderEvictedError"):
        assert issubclass(own_errors()[name], errors.PeerError)
    assert issubclass(errors.LinkDiedError, errors.WriterDiedError)
    for name in ("GroupTimeoutError", "GroupMismatchError", "GroupPeerError"):
        assert issubclass(own_errors()[name], errors.GroupError)
    for name in ("SegmentNotFoundError", "SegmentExistsError", "CapacityError"):
        assert issubclass(own_errors()[name], errors.SegmentError)

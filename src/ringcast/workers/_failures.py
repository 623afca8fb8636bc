"""How an exception travels from a worker: pickled where that works on both sides, always with its traceback as text.

It keeps its type; where it was is its cause, and rank, host and process are a note. What cannot be pickled, or rebuilt
here, and what must not be raised here as it is (KeyboardInterrupt, StopIteration), arrives as a RemoteError.
"""

from __future__ import annotations

import builtins
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ringcast._interruptions import NotRebuilt, Tries
from ringcast.errors import RemoteError, WorkerDiedError

_MOST_TEXT = 1 << 16


class Failure(NamedTuple):
    """An exception as it travels."""

    pickled: bytes | None
    kind: str
    text: str
    traceback: str
    host: str
    pid: int


def packed(error: BaseException) -> Failure:
    """In the worker, where it was raised."""
    try:
        text = str(error)
    except BaseException as broken:
        text = f"<its __str__ raised {type(broken).__name__}>"
    try:
        told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as broken:
        told = f"<its traceback could not be formatted: {type(broken).__name__}>"
    pickled: bytes | None = None
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        with suppress(NotRebuilt):
            pickled = Tries(lacked_memory=True).rebuilt(partial(_pickled, error))
    kind = type(error).__qualname__
    return Failure(pickled, kind, _shortened(text), _shortened(told), socket.gethostname(), os.getpid())


def _shortened(text: str) -> str:
    """Its beginning, where an error says what it is and a traceback where it was, and its end."""
    left_out = len(text) - _MOST_TEXT
    if left_out <= 0:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n... {left_out} characters ...\n{text[-half:]}"


def _pickled(error: Exception) -> bytes | None:
    """None: what it would be rebuilt as is something else."""
    pickled = pickle.dumps(error, 5)
    return pickled if type(pickle.loads(pickled)) is type(error) else None


def unpacked(failure: Failure, rank: int, doing: str) -> BaseException:
    """In the group, to be raised."""
    error: BaseException | None = None
    if failure.pickled is not None:
        with suppress(NotRebuilt):
            error = Tries(lacked_memory=True).rebuilt(partial(pickle.loads, failure.pickled))
    if not isinstance(error, Exception):
        error = _text_of(failure, rank, f"{failure.kind}: {failure.text}")
    note(error, f"raised by rank {rank} (host {failure.host}, pid {failure.pid}) {doing}")
    _set(error, "__cause__", _text_of(failure, rank, f"on rank {rank}:\n{failure.traceback}"))
    return error


def _text_of(failure: Failure, rank: int, text: str) -> RemoteError:
    error = RemoteError(text)
    error.rank, error.kind = rank, failure.kind
    return error


def note(error: BaseException, text: str) -> None:
    """Adds what is known beside the exception: a note or, before Python 3.11, a line of its text."""
    if sys.version_info >= (3, 11):
        notes = getattr(error, "__notes__", None)
        _set(error, "__notes__", [*(notes if isinstance(notes, list) else ()), text])
    elif error.args and isinstance(error.args[0], str):
        _set(error, "args", (f"{error.args[0]}\n{text}", *error.args[1:]))
    else:
        _set(error, "args", (*error.args, text))


def _set(error: BaseException, name: str, value: object) -> None:
    """Also of one that refuses it, as frozen data classes do; not of one without room for it."""
    with suppress(AttributeError, TypeError):
        BaseException.__setattr__(error, name, value)


def one_of(errors: Sequence[BaseException], what: str) -> BaseException:
    """The exception to raise for several: a group of them, but one death for all that died."""
    deaths = [error for error in errors if isinstance(error, WorkerDiedError)]
    if len(deaths) > 1:
        for other in deaths[1:]:
            note(deaths[0], str(other))
        errors = [error for error in errors if error is deaths[0] or error not in deaths]
    if len(errors) == 1:
        return errors[0]
    group: Any
    if sys.version_info >= (3, 11):
        group = builtins.ExceptionGroup
    else:
        try:
            from exceptiongroup import ExceptionGroup as group
        except ImportError:
            for other in errors[1:]:
                note(errors[0], f"and {type(other).__name__}: {other}")
            return errors[0]
    text = f"{len(errors)} ranks failed in {what}"
    kinds = {type(error) for error in errors}
    error: BaseException
    if len(kinds) == 1:  # who expects that of one rank gets it of several, too
        with suppress(Exception):  # not every class can be combined with another, or made so
            error = type(group.__name__, (group, kinds.pop()), {})(text, list(errors))
            return error
    error = group(text, list(errors))
    return error

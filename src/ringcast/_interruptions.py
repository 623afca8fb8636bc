"""Does an exception say something of the object that was being pickled or rebuilt, or did it only come meanwhile?

An interruption must lose no message, and a message must hold nobody up. Ctrl-C, and what a signal's handler raises, are
interruptions. Another exception that ends programs, such as SystemExit, may be either: a thread can be sent one, and a
module that is imported for an object may call `sys.exit`. So the object is rebuilt once more, at once: it is the
object's doing if one comes out of it again. Want of memory may be over at the next call; once a message.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from types import CodeType, TracebackType
from typing import Any


class Cause(IntEnum):
    """Whose doing an exception is. The native core knows the numbers."""

    OBJECT = 0
    INTERRUPTION = 1
    WANT_OF_MEMORY = 2
    DOUBTFUL = 3
    """The object's, if it comes again."""


def cause_of(error: BaseException, trace: TracebackType | None) -> int:
    """A Cause."""
    if isinstance(error, MemoryError) or _is_torch_s_memory_error(error):
        return Cause.WANT_OF_MEMORY
    if isinstance(error, KeyboardInterrupt) and _hears_ctrl_c():
        return Cause.INTERRUPTION
    if _from_signal_handler(trace):
        return Cause.INTERRUPTION
    return Cause.OBJECT if isinstance(error, Exception) else Cause.DOUBTFUL


def interrupts(error: BaseException, trace: TracebackType | None) -> bool:
    """May it be something else than the object's doing?"""
    return cause_of(error, trace) != Cause.OBJECT


class NotRebuilt(Exception):
    """What came out of an object's rebuilding, its cause, is the object's doing."""


class Tries:
    """To rebuild one message, by Python's own means. As the native core does it."""

    def __init__(self, *, lacked_memory: bool = False) -> None:
        self._lacked_memory = lacked_memory

    def rebuilt(self, load: Callable[[], Any]) -> Any:
        """What `load` makes of it. Raises NotRebuilt, or what is no doing of the message's, as it came."""
        try:
            return load()
        except BaseException as error:
            cause = cause_of(error, error.__traceback__)
            if cause == Cause.DOUBTFUL:
                try:
                    load()
                except BaseException as again:
                    self._judge(again, cause_of(again, again.__traceback__))
                    raise
            else:
                self._judge(error, cause)
            raise

    def _judge(self, error: BaseException, cause: int) -> None:
        if cause == Cause.INTERRUPTION:
            return
        if cause == Cause.WANT_OF_MEMORY and not self._lacked_memory:
            self._lacked_memory = True
            return
        from ringcast._mishaps import shown  # which imports logging

        raise NotRebuilt(shown(error)) from error


def _hears_ctrl_c() -> bool:
    """Its handler in C leaves no frame, and runs in the main thread alone."""
    unheard = (signal.SIG_IGN, signal.SIG_DFL)
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) not in unheard


def _is_torch_s_memory_error(error: BaseException) -> bool:
    """PyTorch has a class for want of a device's memory only; what is wanted of the system is a RuntimeError."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _from_signal_handler(trace: TracebackType | None) -> bool:
    """Is a frame of `trace` one of a handler that is in force?"""
    if trace is None:
        return False
    codes = {_code(signal.getsignal(each)) for each in signal.valid_signals()} - {None}
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """None: nothing written in Python."""
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = type.__getattribute__(type(handler), "__call__") if callable(handler) else None
    return getattr(getattr(handler, "__func__", handler), "__code__", None)

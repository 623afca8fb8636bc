"""Does an exception say something of the object that was being pickled or rebuilt, or did it only come meanwhile?"""

from __future__ import annotations

import signal
from functools import partial
from types import CodeType, TracebackType
from typing import Any


def interrupts(error: Exception, trace: TracebackType | None) -> bool:
    """Did it come out of a signal's handler, or for want of memory?"""
    return isinstance(error, MemoryError) or _is_torch_s_memory_error(error) or _from_signal_handler(trace)


def _is_torch_s_memory_error(error: Exception) -> bool:
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

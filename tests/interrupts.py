"""A signal, Ctrl-C or one with a handler of its own, or another thread's turn, at a chosen instruction."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FrameType
from typing import Any


def _interrupt() -> None:
    raise KeyboardInterrupt


def _can_be_interrupted(code: CodeType, before: int | None, at: int) -> bool:
    """Does the interpreter look for signals between these two instructions? Until 3.10, between nearly all."""
    if sys.version_info < (3, 11):
        return True
    if before is None:
        return True
    last, this = dis.opname[code.co_code[before]], dis.opname[code.co_code[at]]
    return last in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD") or this == "RESUME"


class Interrupt:
    """Raises KeyboardInterrupt, or calls another handler, the n-th time that a signal could come in some functions."""

    def __init__(
        self, functions: Collection[Callable[..., Any]], n: int, handler: Callable[[], object] = _interrupt
    ) -> None:
        self._codes = {getattr(function, "__code__", None) for function in functions}
        self._left = n
        self._handler = handler
        self._before: dict[int, int] = {}  # by frame, which is not kept
        self.struck = ""
        """Where, once it has."""

    def run(self, function: Callable[[], object]) -> bool:
        """False: it ended before that."""
        sys.settrace(self._trace)
        try:
            function()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes = True
        if event == "return":
            self._before.pop(id(frame), None)
        elif event == "opcode":
            before, self._before[id(frame)] = self._before.get(id(frame)), frame.f_lasti
            self._left -= _can_be_interrupted(frame.f_code, before, frame.f_lasti)
            if self._left < 0:
                sys.settrace(None)
                frame.f_trace = None
                self.struck = f"{frame.f_code.co_name}, line {frame.f_lineno}, instruction {frame.f_lasti}"
                self._handler()
                return None
        return self._trace


class Meanwhile:
    """Has another thread do something before the n-th instruction of some functions, or of what is written in them."""

    def __init__(self, functions: Collection[Callable[..., Any]], n: int, what: Callable[[], object]) -> None:
        codes = (getattr(function, "__code__", None) for function in functions)
        self._codes = {inner for code in codes if code is not None for inner in _with_inner(code)}
        self._left = n
        self._what = what
        self._has_happened = False

    def run(self, function: Callable[[], object]) -> bool:
        """False: it ended before that."""
        sys.settrace(self._trace)
        try:
            function()
        finally:
            sys.settrace(None)
        return self._has_happened

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if self._has_happened or frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self._left -= 1
            if self._left < 0:
                self._has_happened = True
                other = threading.Thread(target=self._what)
                other.start()
                other.join()
        return self._trace


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """With its comprehensions and nested functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)

"""Ctrl-C at a chosen instruction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


class Interrupt:
    """Raises KeyboardInterrupt before the n-th instruction of some functions, as a signal could."""

    def __init__(self, functions: Collection[Callable[..., Any]], n: int) -> None:
        self._codes = {getattr(function, "__code__", None) for function in functions}
        self._left = n

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
        if event == "opcode":
            self._left -= 1
            if self._left < 0:
                sys.settrace(None)
                frame.f_trace = None
                raise KeyboardInterrupt
        return self._trace

"""Keys of a terminal, one at a time, without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from types import TracebackType

_SEQUENCES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[5~": "page up",
    b"\x1b[6~": "page down", b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace",
}  # fmt: skip
_ESCAPE_S = 0.05
"""Who presses the key Escape sends nothing after it for so long."""


class Keyboard:
    """The terminal at the standard input while `with` lasts; Ctrl-C interrupts as ever."""

    def __enter__(self) -> Keyboard:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        self._pressed: deque[str] = deque()
        tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def key(self, until: float) -> str | None:
        """The next one: a character, or "enter", "escape", "backspace", "up", "down", "page up", "page down".

        None: there was none until then, by the monotonic clock. Raises EOFError if the terminal is gone.
        """
        if not self._pressed and self._readable(until - time.monotonic()):
            typed = os.read(self._fd, 1024)
            if not typed:
                raise EOFError
            if typed == b"\x1b" and self._readable(_ESCAPE_S):
                typed += os.read(self._fd, 1024)
            self._pressed.extend(_keys(typed))
        return self._pressed.popleft() if self._pressed else None

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], max(0.0, seconds))[0])


def _keys(typed: bytes) -> list[str]:
    found = []
    while typed:
        sequence = next((one for one in _SEQUENCES if typed.startswith(one)), None)
        if sequence is not None:
            found.append(_SEQUENCES[sequence])
            typed = typed[len(sequence) :]
        elif typed.startswith(b"\x1b"):
            found.append("escape")
            typed = typed[1:] if len(typed) == 1 or typed[1:2] == b"\x1b" else b""
        else:
            text = typed.decode(errors="replace")
            found.append(text[0])
            typed = text[1:].encode()
    return found

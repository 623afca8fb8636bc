"""A line that says how far a run is: redrawn on a terminal, one line a tenth of the way elsewhere, or nothing.

No thread draws it: processes are forked beside it.
"""

from __future__ import annotations

import shutil
import time
from typing import TextIO

_BAR = 24


class Progress:
    """Counts steps and shows them on `out`."""

    def __init__(self, out: TextIO, quiet: bool = False) -> None:
        """Nothing is shown before `begin`."""
        self._out = out
        self._terminal = out.isatty()
        self._quiet = quiet and not self._terminal
        self._total = 0
        self._done = 0
        self._begun = time.monotonic()
        self._tenth = -1

    def begin(self, total: int) -> None:
        """So many steps are to come."""
        self._total, self._done, self._begun = total, 0, time.monotonic()

    def step(self, what: str) -> None:
        """A step begins."""
        share = self._done / max(1, self._total)
        spent = time.monotonic() - self._begun
        self._done += 1
        if self._terminal:
            left = f"{spent / share - spent:4.0f} s left" if share > 0.02 else ""
            bar = "█" * round(share * _BAR) + "░" * (_BAR - round(share * _BAR))
            line = f"{bar} {share:4.0%} {left:>11}  {what}"
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r\x1b[K{line[:width]}")
            self._out.flush()
        elif not self._quiet and int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            self._out.write(f"{share:4.0%} after {spent:.0f} s: {what}\n")
            self._out.flush()

    def end(self) -> None:
        """All steps are done, or the run was broken off."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

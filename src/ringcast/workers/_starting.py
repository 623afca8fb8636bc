"""How long the start of workers may take: a time-out, and until then a line in the log now and then that says who is
waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ringcast import _reports

START_TIMEOUT_S = 600.0
"""Models of hundreds of gigabytes are loaded within it."""
_TELL_EVERY_S = 30.0
_SLICE_S = 0.25


class Patience:
    """Of one start."""

    def __init__(self, timeout: float | None, label: str, check: Callable[[], None] = lambda: None) -> None:
        self.label = label
        self.timeout = timeout
        self._check = check
        """Raises what else ends it."""
        self._begun = time.monotonic()
        self._tell_at = self._begun + _TELL_EVERY_S

    def slice(self) -> float:
        """So long may be waited at a time."""
        if self.timeout is None:
            return _SLICE_S
        return max(0.0, min(_SLICE_S, self._begun + self.timeout - time.monotonic()))

    def over(self, late: Sequence[int], doing: str) -> bool:
        """Is it? Else what is waited for is logged, if it is time to."""
        self._check()
        now = time.monotonic()
        if self.timeout is not None and now - self._begun >= self.timeout:
            return True
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY_S
            _reports.start_waits(self.label, list(late), now - self._begun, doing)
        return False

    def told(self, late: Sequence[int], doing: str) -> str:
        """The error's text, when it is over."""
        return f"{self.label}: {ranks(late)} not ready within {self.timeout} s, {doing}"


def ranks(some: Sequence[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in some)

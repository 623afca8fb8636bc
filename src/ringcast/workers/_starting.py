"""How long the start of workers may take: a time-out, and until then a line in the log now and then that says who is
waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

START_TIMEOUT_S = 600.0
"""Models of hundreds of gigabytes are loaded within it."""
_TELL_EVERY_S = 30.0
_SLICE_S = 0.25

_logger = logging.getLogger("ringcast")


class Patience:
    """Of one start."""

    def __init__(self, timeout: float | None, label: str) -> None:
        self.label = label
        self.timeout = timeout
        self._begun = time.monotonic()
        self._tell_at = self._begun + _TELL_EVERY_S

    def slice(self) -> float:
        """So long may be waited at a time."""
        if self.timeout is None:
            return _SLICE_S
        return max(0.0, min(_SLICE_S, self._begun + self.timeout - time.monotonic()))

    def over(self, late: Sequence[int], doing: str) -> bool:
        """Is it? Else what is waited for is logged, if it is time to."""
        now = time.monotonic()
        if self.timeout is not None and now - self._begun >= self.timeout:
            return True
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY_S
            facts = {"waited_s": now - self._begun, "waiting_for": list(late)}
            _logger.warning(
                "%s: %s not ready after %.0f s, %s", self.label, ranks(late), now - self._begun, doing,
                extra={"ringcast": facts},
            )  # fmt: skip
        return False

    def told(self, late: Sequence[int], doing: str) -> str:
        """The error's text, when it is over."""
        return f"{self.label}: {ranks(late)} not ready within {self.timeout} s, {doing}"


def ranks(some: Sequence[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in some)

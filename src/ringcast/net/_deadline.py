"""One deadline for a whole collective, whatever it consists of."""

from __future__ import annotations

import time
from typing import Any

from ringcast import _arguments
from ringcast.errors import ArgumentError

DEFAULT_TIMEOUT_S = 300.0
"""How long ranks wait for each other: loading a model takes some of them minutes longer than others."""


class Deadline:
    """When the time is over that began with this object."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._end - time.monotonic())


def checked_timeout(value: Any, default: float = DEFAULT_TIMEOUT_S) -> float:
    """A time-out of a collective: None is the default, and there is always one. Raises ArgumentError."""
    if value is None:
        return default
    seconds = _arguments.seconds("timeout", value)
    if seconds is None:
        raise ArgumentError("timeout must be finite: a rank that never comes would keep all others for ever")
    return seconds

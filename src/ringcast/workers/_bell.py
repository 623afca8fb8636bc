"""Wakes a thread that sleeps in a selector."""

from __future__ import annotations

import os
import selectors
import threading
from contextlib import suppress


class Bell:
    """Belongs to one thread. Others ring, signal handlers among them, in the midst of ringing, too.

    So the thread needs no lock of it, not even at its end: who has waited for that end closes the bell.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._lock = threading.RLock()
        self._heard, self._rung = os.pipe()
        os.set_blocking(self._rung, False)
        selector.register(self._heard, selectors.EVENT_READ, self)

    def ring(self) -> None:
        with self._lock:
            if self._rung >= 0:
                with suppress(OSError):  # full: it is awake; or a signal handler has closed it
                    os.write(self._rung, b".")

    def hear(self) -> None:
        """For its thread, once the selector says that it has rung."""
        os.read(self._heard, 4096)

    def close(self) -> None:
        """Any number of times, after the thread has ended."""
        with self._lock:
            descriptors, self._heard, self._rung = (self._heard, self._rung), -1, -1
            for descriptor in descriptors:
                if descriptor >= 0:
                    os.close(descriptor)

    def __del__(self) -> None:
        """Nobody could wait for its thread, which took too long to end."""
        with suppress(AttributeError):  # there was no descriptor left for it
            self.close()

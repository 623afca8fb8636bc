"""The numbers of the messages from one rank to another: each is used for one message, none is left out, none twice.

A number is somebody's from before its message is sent, or waited for, until it is known whether it was. Whoever gives
up, in whichever line an interruption finds him, gives back what is his; that he cannot give back what has been used
meanwhile, in another thread, is the point.
"""

from __future__ import annotations

import threading

_USED = object()


class Numbers:
    """From 1 on. A holder is any object, and holds one number."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may send, too
        self._past = 0  # all numbers up to it are used
        self._holders: dict[int, object] = {}

    def take(self, holder: object) -> int:
        """The lowest that is neither used nor anybody else's."""
        with self._lock:
            number = self._past + 1
            while self._holders.setdefault(number, holder) is not holder:
                number += 1
            return number

    def hand_over(self, holder: object, to: object) -> bool:
        """False: it was given back."""
        with self._lock:
            number = self._of(holder)
            if number is not None:
                self._holders[number] = to
            return number is not None

    def use(self, holder: object) -> None:
        """The message is there."""
        with self._lock:
            number = self._of(holder)
            if number is not None:
                self._holders[number] = _USED
            while self._holders.get(self._past + 1) is _USED:
                self._past += 1
                del self._holders[self._past]

    def give_back(self, holder: object) -> None:
        """Unless it was used or handed over, it is the next one's."""
        with self._lock:
            number = self._of(holder)
            if number is not None:
                del self._holders[number]

    def _of(self, holder: object) -> int | None:
        return next((number for number, one in self._holders.copy().items() if one is holder), None)

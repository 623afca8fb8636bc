"""How a process leaves a group that it has made: closed, dropped, or still open when the process ends.

The others hear of it, and rank 0, whose store they use, waits for them to leave before. A group that nobody has any
more may be in the midst of a collective elsewhere: its last step is over here as soon as all have said their part, and
there once that was read.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

from ringcast._dropping import in_background
from ringcast._registry import Registry
from ringcast.errors import GroupError
from ringcast.net._deadline import Deadline
from ringcast.net._group import Group

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

DEFAULT_LINGER_S = 5.0


class Leaving:
    """Of one group; in the registry until it has left."""

    def __init__(self, group: Group, store: Store | None) -> None:
        self.group = group
        self.store = store
        """The host's own, which ends with it."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal's handler may close, in the middle of it
        _staying.add(self)

    def leave(self, seconds: float) -> None:
        """Any number of times."""
        if self._pid != os.getpid():
            return  # a forked child is in no group: it neither leaves nor ends the store
        with self._lock:
            if self not in _staying:
                return
            try:
                deadline = Deadline(seconds)
                self.group.say_bye(deadline)
                if self.store is not None:
                    self.group.wait_for_byes(deadline)
            except GroupError:
                pass  # the store is gone already
            finally:  # whoever is tired of waiting for the others has left, too
                self.group.client.close()
                self.store = None
                _staying.discard(self)

    def drop(self) -> None:
        """For finalizers."""
        in_background(self.leave, DEFAULT_LINGER_S)


_staying: Registry[Leaving] = Registry(keep=True)


@atexit.register
def _leave_all() -> None:
    for one in _staying.own():
        one.leave(DEFAULT_LINGER_S)

"""What workers print, line by line, as the group's own output, each line with its worker's rank before it.

Read from pipes in the place of their descriptors 1 and 2, so that what native code prints is among it.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
from collections import deque
from contextlib import suppress

from ringcast.workers._bell import Bell
from ringcast.workers._worker import Worker

_PIECE = 1 << 16
_LONGEST = 1 << 13
"""A line that is longer is shown in pieces."""
_LAST_S = 1.0
_AFTER_S = 0.2
"""For how long output is waited for that a dead worker's own children may still write."""


class _Source:
    def __init__(self, descriptor: int, prefix: str, is_error: bool, worker: Worker) -> None:
        self.descriptor = descriptor
        self.prefix = prefix
        self.is_error = is_error
        self.worker = worker
        self.rest = b""


class Echo:
    """A thread that sleeps until a worker prints."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._bell = Bell(self._selector)
        self._coming: deque[_Source] = deque()
        self._over = self._gone = False
        self._thread = threading.Thread(target=self._run, name="ringcast-echo", daemon=True)
        self._thread.start()

    def add(self, worker: Worker) -> None:
        """Before it is started."""
        prefix = f"[{self._name} rank {worker.rank}] "
        for is_error, descriptor in enumerate(worker.outputs):
            os.set_blocking(descriptor, False)
            self._coming.append(_Source(descriptor, prefix, bool(is_error), worker))
        if self._gone:
            self._turn_away()  # for nobody else does
        else:
            self._bell.ring()

    def close(self) -> None:
        """All workers have ended: shows the last of it. Any number of times."""
        self._over = True
        self._bell.ring()
        self._thread.join(_LAST_S)
        if not self._thread.is_alive():
            self._bell.close()

    def _run(self) -> None:
        while True:
            events = self._selector.select(_AFTER_S if self._over else None)
            for key, _ in events:
                if isinstance(key.data, _Source):
                    self._read(key.data)
                else:
                    self._bell.hear()
            while self._coming:
                source = self._coming.popleft()
                self._selector.register(source.descriptor, selectors.EVENT_READ, source)
            if self._over and (not events or len(self._selector.get_map()) == 1):
                break
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Source):
                self._end(key.data)
        self._gone = True
        self._turn_away()  # who has come since
        self._selector.close()

    def _turn_away(self) -> None:
        with suppress(IndexError):
            while True:
                os.close(self._coming.popleft().descriptor)

    def _read(self, source: _Source) -> None:
        try:
            piece = os.read(source.descriptor, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._end(source)
            return
        *lines, source.rest = (source.rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(source.rest) > _LONGEST:
            lines.append(source.rest)
            source.rest = b""
        _show(source, lines)

    def _end(self, source: _Source) -> None:
        self._selector.unregister(source.descriptor)
        os.close(source.descriptor)
        if source.rest:
            _show(source, [source.rest])
            source.rest = b""


def _show(source: _Source, lines: list[bytes]) -> None:
    text = "".join(f"{source.prefix}{line.decode(errors='replace')}\n" for line in lines)
    stream = sys.stderr if source.is_error else sys.stdout
    if stream is not None:
        with suppress(BaseException):  # whoever read it is gone, or it is a program's own and broken
            stream.write(text)
            stream.flush()

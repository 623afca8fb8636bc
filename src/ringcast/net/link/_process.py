"""The link process: it serves the ends that hold places at its desk, and ends when none is left.

`Link.handlers` says who does what is asked, by the word "op". A handler runs on the desk's thread, so it must not wait:
what takes time is done by a thread of its own, which calls `desk.answer` at its end, and the handler returns LATER.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from ringcast._version import __version__
from ringcast.errors import ArgumentError, LinkError, RingcastError
from ringcast.net.link import _log
from ringcast.net.link._desk import Desk, Request, desk_name, leave_nothing_of_the_dead
from ringcast.net.link._log import LinkLog
from ringcast.net.link._service import Service, in_background

LINGER_S = 2.0
"""So long the link stays when its last end has left: the next queue of the job comes soon, or not at all."""
LOOK_S = 0.25
"""How often it looks who is still there."""
LATER = object()
"""What a handler returns that answers by itself."""

log = logging.getLogger("ringcast.link")
Handler = Callable[[Request], Any]


class Link:
    """What the link process does at its desk."""

    def __init__(self, desk: Desk, told: LinkLog | None = None) -> None:
        self.desk = desk
        self._told = told
        self.service = Service(desk.held)
        self.handlers: dict[str, Handler] = {
            "ping": self._ping,
            "write": self._write,
            "read": self._read,
            "look": self._look,
            "log": self._log,
        }

    def run(self, first_end_s: float | None = None) -> None:
        """Serve until nobody has held a place for LINGER_S and every stream is over. The first end is waited for,
        `first_end_s` at most."""
        patience, since = first_end_s, time.monotonic()
        while True:
            served = self.desk.wait(LOOK_S) and self._serve()
            self.service.look()
            if self._told is not None:
                self._told.look()
            now = time.monotonic()
            if served or self.desk.in_use() or self.service.is_busy:
                patience, since = LINGER_S, now
            elif patience is not None and now - since >= patience and self.desk.close_if_unused():
                return

    def _serve(self) -> bool:
        requests = self.desk.requests()
        for request in requests:
            try:
                result = self._handle(request)
            except RingcastError as error:
                log.warning("an end is refused: %s", error)
                self.desk.refuse(request, error)
            except Exception as error:  # not all that was asked: there are keys in it
                log.exception("the link process failed at a request to %r", request.what["op"])
                self.desk.refuse(request, LinkError(f"the link process failed: {type(error).__name__}: {error}"))
            else:
                if result is not LATER:
                    self.desk.answer(request, result)
        return bool(requests)

    def _handle(self, request: Request) -> Any:
        op = request.what.get("op") if isinstance(request.what, dict) else None
        handler = self.handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            raise ArgumentError(f"the link process knows no request {op!r}")
        return handler(request)

    def _write(self, request: Request) -> Any:
        return self._logged(self.service.write(request.place, request.what))

    def _look(self, request: Request) -> None:
        self.service.look()

    def _read(self, request: Request) -> Any:
        in_background(
            lambda: self._logged(self.service.read(request.place, request.what)),
            lambda result: self.desk.answer(request, result),
            lambda error: self.desk.refuse(request, error),
        )
        return LATER

    def _ping(self, request: Request) -> dict[str, Any]:
        return {"pid": os.getpid(), "release": __version__}

    def _log(self, request: Request) -> dict[str, Any]:
        return self._logged({"last": [] if self._told is None else self._told.last})

    def _logged(self, answer: dict[str, Any]) -> dict[str, Any]:
        """With the file that this link writes its log to, or None."""
        return {**answer, "log": None if self._told is None else self._told.path}


def main(
    job: str,
    log_to_stderr: bool = False,
    *,
    on_ready: Callable[[], None] = lambda: None,
    first_end_s: float | None = None,
) -> None:
    """Be the link of this job, until it is over.

    Raises SegmentExistsError if a living one has the desk, and LinkError if its log cannot be written.
    """
    desk_name(job)
    told = _log.begin(job, to_stderr=log_to_stderr)
    try:
        desk = Desk.create(job)
        try:
            release = f"ringcast {__version__}, Python {sys.version.split()[0]}, host {socket.gethostname()}"
            log.info("the link of job '%s' is up: %s", job, release)
            on_ready()
            leave_nothing_of_the_dead()  # of the link before this one
            Link(desk, told).run(first_end_s)
            log.info("no end is left: the link of job '%s' ends", job)
        except KeyboardInterrupt:
            log.warning("the link of job '%s' ends: it was interrupted", job)
            raise
        except BaseException:
            log.critical("the link of job '%s' ends by a fault", job, exc_info=True)
            raise
        finally:
            desk.close()
    finally:
        told.close()

"""The link's log: of the loggers `ringcast.*` in its process, as lines in a file, on the standard error, and in memory.

A link has no terminal, and outlives whoever started it. So the file that RINGCAST_LINK_LOG names is its log, which the
links of all jobs may share: a line is one write at the file's end. Without it there are the last lines, which the link
tells whoever asks it for them.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import stat
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from ringcast.errors import LinkError

if TYPE_CHECKING:
    StreamLog: TypeAlias = logging.LoggerAdapter[logging.Logger]

VARIABLE = "RINGCAST_LINK_LOG"
MOST_BYTES = 8 << 20
"""Of a file, which then becomes the older one, with .1 at its name's end; the one before that is gone."""
KEPT_LINES = 100
_KEPT_CHARACTERS = 500
MOST_ALIKE = 20
ALIKE_WITHIN_S = 60.0
"""Of lines that say the same of somebody else no more than so many in so long: anybody can make some of them come."""

log = logging.getLogger("ringcast.link")


def path_wanted() -> str | None:
    """The file that the environment names, seen from this process's folder. Raises LinkError."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    try:
        return os.path.abspath(given)
    except OSError as error:
        raise LinkError(
            f"{VARIABLE}={given!r}: this process's folder is not known ({error}): say the whole path"
        ) from error


def of_stream(stream: str, host: str) -> StreamLog:
    """The log of what happens to one stream, which goes to, or comes from, that host."""
    return logging.LoggerAdapter(log, {"stream": stream, "host": host})


class LogFile:
    """A file that lines are appended to. `write` never waits for another process, and never raises."""

    def __init__(self, path: str) -> None:
        """Raises LinkError if nothing can be written there."""
        self.path = path
        self._descriptor = -1
        self._lost = 0
        try:
            self._open()
        except OSError as error:
            raise LinkError(f"{VARIABLE}={path!r}: a link's log cannot be written there: {error.strerror}") from error

    def write(self, text: str) -> None:
        try:
            self._follow()
            if self._lost:
                text = f"({self._lost} lines could not be written here)\n{text}"
            data = text.encode(errors="backslashreplace")
            written = os.write(self._descriptor, data)
            if written < len(data):
                self._lost += 1
                os.write(self._descriptor, b"\n")
                return
            self._lost = 0
        except OSError:  # a full disk, a folder that is gone: the streams go on, and the next line says so
            self._lost += 1

    def close(self) -> None:
        if self._descriptor >= 0:
            faulthandler.disable()
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "it is no ordinary file")
        before, self._descriptor = self._descriptor, descriptor
        faulthandler.enable(descriptor)
        if before >= 0:
            os.close(before)

    def _follow(self) -> None:
        """The file of that name, also if somebody has renamed or removed the one that was open; and never too much."""
        if self._descriptor < 0 or not self._is_named():
            self._open()
        if os.fstat(self._descriptor).st_size < MOST_BYTES:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another link is about to
        if self._is_named():  # else another one has
            os.rename(self.path, f"{self.path}.1")
        self._open()

    def _is_named(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        return False


class LinkLog(logging.Handler):
    """The log of this process, which is the link of this job."""

    def __init__(self, job: str, file: LogFile | None, *, to_stderr: bool = False) -> None:
        super().__init__()
        self.file = file
        self._job = job
        self._to_stderr = to_stderr
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._alike: dict[tuple[str, str], _Alike] = {}  # by what is said, and of which stream

    @property
    def path(self) -> str | None:
        return None if self.file is None else self.file.path

    @property
    def last(self) -> list[str]:
        """The last lines; of each, its beginning."""
        with self._turn():
            return list(self._last)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_new(record):
            return
        try:
            line = self._line(record)
        except Exception as error:  # of a record that is wrong, which is no reason to lose it
            line = self._head(record) + f" {record.msg!r} (which cannot be written: {error!r})"
        self._put(line)

    def look(self, now: float | None = None) -> None:
        """Say what was left out, once its time is over."""
        now = time.monotonic() if now is None else now
        with self._turn():
            for key, alike in [one for one in self._alike.items() if one[1].until <= now]:
                del self._alike[key]
                if alike.left_out:
                    self._put(f"{self._head(alike.last)} ({alike.left_out} lines like this one were left out) {key[0]}")

    def close(self) -> None:
        logging.getLogger("ringcast").removeHandler(self)
        self.look(float("inf"))
        if self.file is not None:
            self.file.close()
        super().close()

    def _turn(self) -> threading.RLock:
        assert self.lock is not None
        return self.lock

    def _is_new(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self.look(now)
        key = (str(record.msg), getattr(record, "stream", ""))
        alike = self._alike.setdefault(key, _Alike(now + ALIKE_WITHIN_S))
        alike.count += 1
        alike.last = record
        return alike.count <= MOST_ALIKE

    def _head(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        stream, host = getattr(record, "stream", "-"), getattr(record, "host", "-")
        return f"{when} {record.levelname} job={self._job} pid={os.getpid()} stream={stream} host={_on_a_line(host)}"

    def _line(self, record: logging.LogRecord) -> str:
        line = f"{self._head(record)} {_on_a_line(record.getMessage())}"
        if record.exc_info:
            lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
            line += "".join(f"\n    {_on_a_line(one)}" for one in lines)
        return line

    def _put(self, line: str) -> None:
        self._last.append(line[:_KEPT_CHARACTERS])
        if self.file is not None:
            self.file.write(line + "\n")
        if self._to_stderr:
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)


class _Alike:
    """Lines that say the same."""

    last: logging.LogRecord

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = 0

    @property
    def left_out(self) -> int:
        return max(0, self.count - MOST_ALIKE)


def _on_a_line(text: Any) -> str:
    """What others have said may not look like a line of ours."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def begin(job: str, *, to_stderr: bool = False) -> LinkLog:
    """What is logged in this process from now on, and every exception that nobody catches, is in the log.

    Raises LinkError if the file that is wanted cannot be written.
    """
    path = path_wanted()
    handler = LinkLog(job, None if path is None else LogFile(path), to_stderr=to_stderr)
    logger = logging.getLogger("ringcast")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)

    def uncaught(of: threading.ExceptHookArgs) -> None:
        if of.exc_type is not SystemExit and of.exc_value is not None:
            name = "a thread" if of.thread is None else f"the thread {of.thread.name}"
            log.error("%s has ended by a fault", name, exc_info=of.exc_value)

    threading.excepthook = uncaught
    return handler

"""What users' code does that it should not, for tests of what becomes of the threads in which it does so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


class Mute(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class MuteForGood(Exception):
    """The same, and who asks is to end."""

    def __str__(self) -> str:
        raise SystemExit


MISHAPS: list[Callable[[], BaseException]] = [SystemExit, KeyboardInterrupt, Mute, MuteForGood]


@contextmanager
def filtered(name: str, says: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """A logger with a filter of the user's."""
    log = logging.getLogger(name)
    log.addFilter(says)
    try:
        yield
    finally:
        log.removeFilter(says)


@contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None can be had whose name begins as those of this package do."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("ringcast"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield

"""What threads of the library's own do about what users' code raises in them: they tell it, and go on.

Such code may raise anything, SystemExit included, which is nobody's wish to end a thread that he does not know of. What
it raises may have a `__str__` that raises, too, and so may what is to be logged, or who logs it. Nothing here raises.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def shown(error: BaseException) -> str:
    """Its kind and its text, which can be encoded."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as broken:
        text = f"<its __str__ raised {type(broken).__name__}>"
    return f"{kind}: {text}".encode(errors="backslashreplace").decode()


def named(value: object) -> str:
    """As it calls itself, if it can."""
    try:
        return repr(value)
    except BaseException:
        return f"<{type(value).__name__}>"


def tell(
    log: logging.Logger,
    message: str,
    *arguments: object,
    error: BaseException | None = None,
    level: int = logging.WARNING,
) -> None:
    """Logs it, with the traceback of `error` if that is given, whatever handlers and filters do."""
    with suppress(BaseException):
        log.log(level, message, *arguments, exc_info=error)


def hand_over(threads: ThreadPoolExecutor, do: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Has one of the threads `do` it; `otherwise` is done here if they have ended or none can be had. One of both."""
    begun = threading.Lock()

    def run() -> None:
        if begun.acquire(blocking=False):
            do()

    try:
        threads.submit(run)
    except RuntimeError:  # where no thread could be started it has been queued, and another may have it by now
        if begun.acquire(blocking=False):
            otherwise()


class Promise(Future[T]):
    """A future of which every callback is called, also after one that raises SystemExit in a thread of ours."""

    def add_done_callback(self, fn: Callable[[Future[T]], Any]) -> None:
        """As Future has it."""
        adder = threading.get_ident()

        def call(future: Future[T]) -> None:
            try:
                fn(future)
            except BaseException as error:
                if isinstance(error, Exception) or threading.get_ident() == adder:
                    raise  # the first are logged by Future, and the user's own thread is his to end
                tell(
                    logging.getLogger("ringcast.pool"), "a callback of a future's raised %s", shown(error), error=error
                )

        super().add_done_callback(call)

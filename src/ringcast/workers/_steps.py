"""What a thread of a group does, one step at a time, so that it goes on whatever becomes of one.

Steps run code of users': what answers are rebuilt by, handlers of logs, streams.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ringcast.workers._calls import Calls

_logger = logging.getLogger("ringcast.workers")


class Steps:
    """Of one group's threads."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._failing: dict[tuple[int, str], type[BaseException]] = {}

    def take(self, what: str, step: Callable[..., Any], *arguments: Any) -> Any:
        """What the step returns. None: it has failed, which is logged; once, if it fails so again and again.

        Ctrl-C, and what else comes to the main thread by a signal, is raised.
        """
        failing, key = self._failing, (threading.get_ident(), what)
        try:
            result = step(*arguments)
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            if failing.get(key) is not type(error):
                failing[key] = type(error)
                with suppress(Exception):  # of a handler of logs
                    _logger.exception("%s: %s failed; the group goes on", self._calls.label, what)
            return None
        failing.pop(key, None)
        return result

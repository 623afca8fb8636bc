"""What the environment says: `RINGCAST_VLLM`, `VLLM_PLUGINS`, `RINGCAST_VLLM_WINDOW`, and vLLM's interval of warnings.

vLLM calls every plugin that is installed unless `VLLM_PLUGINS` names some: being called is no wish to be used.
"""

from __future__ import annotations

import logging
import os

from ringcast.errors import ArgumentError
from ringcast.waiting import Busy, Wait

_SWITCH = "RINGCAST_VLLM"
_WINDOW = "RINGCAST_VLLM_WINDOW"
_INTERVAL, _VLLM_INTERVAL = "RINGCAST_WARNING_INTERVAL", "VLLM_RINGBUFFER_WARNING_INTERVAL"


def is_on() -> bool:
    """Is the queue wanted? Raises ArgumentError."""
    said = os.environ.get(_SWITCH, "")
    if said not in ("", "0", "1"):
        raise ArgumentError(f"the environment variable {_SWITCH} is {said!r}; it must be 0, 1 or unset")
    return said == "1" if said else "ringcast" in os.environ.get("VLLM_PLUGINS", "").split(",")


def wait() -> Wait:
    """How ends wait: awake for 2 ms, or for so many seconds as the environment says. Raises ArgumentError."""
    text = os.environ.get(_WINDOW, "")
    if not text:
        return "busy"
    try:
        return Busy(float(text))
    except ValueError as error:  # ArgumentError is one
        raise ArgumentError(
            f"the environment variable {_WINDOW} is {text!r}; it must be seconds, from 0 to 60"
        ) from error


def log_as_vllm_does() -> None:
    """From now on this process's queues tell what they have to tell where vLLM does, and long waits as often."""
    interval = os.environ.get(_VLLM_INTERVAL, "")
    if interval.isdecimal() and int(interval) > 0:
        os.environ.setdefault(_INTERVAL, interval)
    ours = logging.getLogger("ringcast")
    if not ours.handlers:  # else somebody has said where they go
        ours.addHandler(_ToVllm())
        ours.propagate = False


class _ToVllm(logging.Handler):
    """Gives records to vLLM's logger, whatever handlers that has by then."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = logging.getLogger("vllm.ringcast")
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

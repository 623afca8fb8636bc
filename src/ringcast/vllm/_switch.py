"""What the environment says: `RINGCAST_VLLM`, `VLLM_PLUGINS`, `RINGCAST_VLLM_WINDOW`, `RINGCAST_VLLM_SLICE`, and
vLLM's interval of warnings.

vLLM calls every plugin that is installed unless `VLLM_PLUGINS` names some: being called is no wish to be used.
"""

from __future__ import annotations

import logging
import os

from ringcast.errors import ArgumentError
from ringcast.waiting import LEAST_SLICE_S, MOST_SLICE_S, Busy, set_time_slice

_SWITCH = "RINGCAST_VLLM"
_WINDOW = "RINGCAST_VLLM_WINDOW"
_SLICE = "RINGCAST_VLLM_SLICE"
# Between an engine's short waits, for a step's next call (0.1 to 0.2 ms), and its long ones, for a step's rest (1 ms
# and more): who stays awake for those takes the CPU time of those that compute.
_WINDOW_S = 0.0005
_INTERVAL, _VLLM_INTERVAL = "RINGCAST_WARNING_INTERVAL", "VLLM_RINGBUFFER_WARNING_INTERVAL"


def is_on() -> bool:
    """Is the queue wanted? Raises ArgumentError."""
    said = os.environ.get(_SWITCH, "")
    if said not in ("", "0", "1"):
        raise ArgumentError(f"the environment variable {_SWITCH} is {said!r}; it must be 0, 1 or unset")
    return said == "1" if said else "ringcast" in os.environ.get("VLLM_PLUGINS", "").split(",")


def wait() -> Busy:
    """How ends wait: awake for 0.5 ms, or for so many seconds as the environment says. Raises ArgumentError."""
    text = os.environ.get(_WINDOW, "")
    if not text:
        return Busy(_WINDOW_S)
    try:
        return Busy(float(text))
    except ValueError as error:  # ArgumentError is one
        raise ArgumentError(
            f"the environment variable {_WINDOW} is {text!r}; it must be seconds, from 0 to 60"
        ) from error


def time_slice() -> float:
    """Seconds that a thread of the engine runs at a time while others want its CPU; 0: as the system has it.
    Raises ArgumentError."""
    text = os.environ.get(_SLICE, "")
    try:
        seconds = float(text) if text else LEAST_SLICE_S
    except ValueError:
        seconds = -1.0
    if seconds != 0 and not LEAST_SLICE_S <= seconds <= MOST_SLICE_S:
        raise ArgumentError(
            f"the environment variable {_SLICE} is {text!r}; it must be seconds, from {LEAST_SLICE_S:g} to "
            f"{MOST_SLICE_S:g}, or 0 to leave it alone"
        )
    return seconds


def shorten_slices() -> None:
    """This process is one of the engine's: its threads are to wake at once. Once is enough."""
    global _shortened
    seconds = time_slice()
    if _shortened or seconds == 0:
        return
    _shortened = True
    if not set_time_slice(seconds):
        logging.getLogger("vllm.ringcast").debug(
            "ringcast: the threads of process %d keep the system's time slices: it has no others (before Linux 6.12), "
            "or does not let them be set",
            os.getpid(),
        )


_shortened = False


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

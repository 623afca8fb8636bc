"""How an end waits: strategies by name, the reference's timers, and what a writer does about readers in its way.

The strategies themselves run natively, without the interpreter's lock; here they are only chosen. `RINGCAST_WAIT` names
the default, `RINGCAST_WARNING_INTERVAL` the seconds between two log lines about one wait.
"""

from __future__ import annotations

import os
import time
from typing import Literal, NamedTuple, TypeAlias

from ringcast import _core
from ringcast._arguments import choice, number
from ringcast._core import memory_fence
from ringcast.errors import ArgumentError

__all__ = ["Busy", "SpinSleepTimer", "SpinTimer", "Wait", "WaitSettings", "memory_fence", "set_time_slice"]

DEFAULT_WAIT = "adaptive"
DEFAULT_WARNING_INTERVAL_S = 60.0
_MOST_BUSY_S = 60.0
LEAST_SLICE_S, MOST_SLICE_S = 0.0001, 0.1
"""Linux's own bounds."""
NativeStrategy: TypeAlias = "tuple[int, int, int, bool]"


class Busy:
    """Waits awake for the first `window` seconds of each wait, giving way to others meanwhile, then as "adaptive" does.

    For ends that must answer at once, and whose waits are longer than "adaptive" stays awake for. `wait="busy"` is the
    same with the default window. Where every CPU has other work, it parks like "adaptive".
    Raises ArgumentError unless the window is from 0 to 60 seconds.

    >>> from ringcast import MessageQueue
    >>> queue = MessageQueue(n_reader=1, wait=Busy(window=0.01))
    """

    def __init__(self, window: float = _core.BUSY_WINDOW_NS / 1e9) -> None:
        window = number("window", window)
        if not 0 <= window <= _MOST_BUSY_S:
            raise ArgumentError(f"Busy needs a window from 0 to {_MOST_BUSY_S:g} seconds, not {window!r}")
        self.window = window

    def __repr__(self) -> str:
        return f"Busy({self.window!r})"


def set_time_slice(seconds: float | None) -> bool:
    """How long the scheduler lets each thread of this process run while others want its CPU. None: the system's own.

    For processes that wait for each other many times a second while other threads have work, too. The scheduler runs a
    thread with a short slice sooner when it wakes, and others sooner after it; its share of CPU time stays the same.

    It holds for all threads that the process has, for those that they start, and for processes started from then on.
    No queue calls it: whether a process wants it is for its program to say. It needs no privilege.

    False, and nothing is changed, if the system has no such slices (before Linux 6.12; macOS) or does not let them be
    set. Raises ArgumentError unless `seconds` is from 0.0001 to 0.1.

    >>> has_slices = set_time_slice(0.001)
    >>> set_time_slice(None) == has_slices
    True
    """
    if seconds is None:
        return _core.set_time_slice(0)
    seconds = number("seconds", seconds)
    if not LEAST_SLICE_S <= seconds <= MOST_SLICE_S:
        raise ArgumentError(
            f"a time slice is from {LEAST_SLICE_S:g} to {MOST_SLICE_S:g} seconds, or None for the system's own, "
            f"not {seconds!r}"
        )
    return _core.set_time_slice(round(seconds * 1e9))


class SpinTimer:
    """Waits by giving way to other threads and processes between looks: wakes fast, uses a core.

    As a strategy (`wait=SpinTimer()`) it is the same as "yield". vLLM's has the same name and calls.

    >>> timer = SpinTimer()
    >>> timer.spin()
    """

    def record_activity(self) -> None:
        """Something arrived.

        >>> SpinTimer().record_activity()
        """

    def spin(self) -> None:
        """Nothing is there: wait a moment.

        >>> SpinTimer().spin()
        """
        os.sched_yield()


class SpinSleepTimer(SpinTimer):
    """Gives way for `busy_loop_s` seconds without activity, then sleeps `wait_sleep_s` seconds at a time.

    As a strategy of a queue the sleeps are parks: a message wakes them at once, `wait_sleep_s` only bounds them.
    Raises ArgumentError. vLLM's has the same name and calls.

    >>> timer = SpinSleepTimer(busy_loop_s=1.0, wait_sleep_s=0.01)
    >>> timer.record_activity()
    """

    def __init__(self, busy_loop_s: float = 3.0, wait_sleep_s: float = 0.1) -> None:
        busy_loop_s, wait_sleep_s = number("busy_loop_s", busy_loop_s), number("wait_sleep_s", wait_sleep_s)
        if not busy_loop_s >= 0 or not wait_sleep_s > 0:
            raise ArgumentError(
                f"SpinSleepTimer needs busy_loop_s >= 0 and wait_sleep_s > 0, not {busy_loop_s} and {wait_sleep_s}"
            )
        self.busy_loop_s = busy_loop_s
        self.wait_sleep_s = wait_sleep_s
        self._last_activity = time.monotonic()

    def record_activity(self) -> None:
        """Something arrived: the busy time starts again.

        >>> SpinSleepTimer().record_activity()
        """
        self._last_activity = time.monotonic()

    def spin(self) -> None:
        """Nothing is there: give way, or sleep if it has been quiet for long.

        >>> SpinSleepTimer().spin()
        """
        if time.monotonic() - self._last_activity >= self.busy_loop_s:
            time.sleep(self.wait_sleep_s)
        else:
            super().spin()


Wait: TypeAlias = "str | Busy | SpinTimer | None"


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9) if seconds < _core.FOREVER_NS / 2e9 else _core.FOREVER_NS


class WaitSettings(NamedTuple):
    """How an end waits, checked: made before anything else is, so that a wrong value leaves nothing behind."""

    strategy: NativeStrategy
    report_interval_ns: int

    @classmethod
    def of(cls, wait: Wait) -> WaitSettings:
        """From a strategy or its name and the environment. Raises ArgumentError."""
        return cls(strategy(wait), report_interval_ns())


OnReaderDeath: TypeAlias = Literal["raise", "evict"]
OnFull: TypeAlias = Literal["block", "raise", "evict"]
OnReaderLeave: TypeAlias = Literal["log", "raise"]
_ON_READER_DEATH = ("raise", "evict")  # in the order of the core's ReaderPolicy, as are the next two
_ON_FULL = ("block", "raise", "evict")
_ON_READER_LEAVE = ("log", "raise")

NativePolicy: TypeAlias = "tuple[int, int, int, int]"
PATIENT: NativePolicy = (0, 0, 0, 0)
"""The policy of writers that block, and of readers, who have none."""


def reader_policy(on_reader_death: str, on_full: str, full_deadline: float, on_reader_leave: str) -> NativePolicy:
    """The native form of what a writer does about readers: (dead, slow, left, patience in ns). Raises ArgumentError."""
    for name, value, choices in (
        ("on_reader_death", on_reader_death, _ON_READER_DEATH),
        ("on_full", on_full, _ON_FULL),
        ("on_reader_leave", on_reader_leave, _ON_READER_LEAVE),
    ):
        choice(name, value, choices)
    full_deadline = number("full_deadline", full_deadline)
    if not full_deadline >= 0:
        raise ArgumentError(f"full_deadline must be zero or more seconds, not {full_deadline!r}")
    return (
        _ON_READER_DEATH.index(on_reader_death),
        _ON_FULL.index(on_full),
        _ON_READER_LEAVE.index(on_reader_leave),
        _nanoseconds(full_deadline),
    )


def strategy(wait: Wait) -> NativeStrategy:
    """The native form of a strategy: (spin ns, yield ns, park ns at a time, adaptive)."""
    source = "wait"
    if wait is None:
        wait = os.environ.get("RINGCAST_WAIT", DEFAULT_WAIT)
        source = "the environment variable RINGCAST_WAIT"
    if isinstance(wait, SpinSleepTimer):
        park_ns = min(_nanoseconds(wait.wait_sleep_s), _core.LONGEST_PARK_NS)
        return (0, _nanoseconds(wait.busy_loop_s), max(park_ns, 1), False)
    if isinstance(wait, SpinTimer):
        wait = "yield"
    if isinstance(wait, Busy):
        spin_ns, _, park_ns, adaptive = _core.STRATEGIES["busy"]
        return (spin_ns, _nanoseconds(wait.window), park_ns, adaptive)
    if not isinstance(wait, str) or wait not in _core.STRATEGIES:
        names = ", ".join(_core.STRATEGIES)
        raise ArgumentError(f"{source} is {wait!r}; it must be one of {names}, or a Busy, SpinTimer or SpinSleepTimer")
    return _core.STRATEGIES[wait]


def report_interval_ns() -> int:
    """Nanoseconds between two log lines about one wait."""
    text = os.environ.get("RINGCAST_WARNING_INTERVAL", "")
    try:
        seconds = float(text) if text else DEFAULT_WARNING_INTERVAL_S
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ArgumentError(
            f"the environment variable RINGCAST_WARNING_INTERVAL is {text!r}; it must be seconds above 0"
        )
    return min(_nanoseconds(seconds), _core.FOREVER_NS // 4)

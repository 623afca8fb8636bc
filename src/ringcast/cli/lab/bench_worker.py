"""The workers of `ringcast bench`: how each kind of message is taken.

NumPy is imported with the module, so that the first array is not measured with that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ringcast.cli.lab.channels import Receive, Ticket
from ringcast.cli.lab.measure import END, Taken, serve

STAMPED = "stamped"  # bytes that begin with the time of sending
PLAIN = "plain"  # bytes
ARRAYS = "arrays"  # NumPy arrays

STAMP_BYTES = 8
PAGE_BYTES = 4096


def work(pipe: Connection[Any, Any], rank: int, tickets: Mapping[str, Ticket]) -> None:
    """A worker's whole life."""
    serve(pipe, tickets, {STAMPED: _take_stamped, PLAIN: _take_plain, ARRAYS: _take_arrays})


def stamp() -> bytes:
    """The time, as a message of STAMPED begins with it."""
    return time.monotonic_ns().to_bytes(STAMP_BYTES, "little")


def _take_stamped(receive: Receive) -> Taken:
    taken = Taken()
    while (message := receive()) is not END:
        taken.latencies.append(time.monotonic_ns() - int.from_bytes(message[:STAMP_BYTES], "little"))
        taken.messages += 1
    return taken


def _take_plain(receive: Receive) -> Taken:
    messages = 0
    while receive() is not END:
        messages += 1
    return Taken(messages=messages)


def _take_arrays(receive: Receive) -> Taken:
    taken = Taken()
    while (array := receive()) is not END:
        taken.checksum += int(np.sum(array[::PAGE_BYTES]))  # touches every page
        taken.messages += 1
        taken.bytes += array.nbytes
    return taken

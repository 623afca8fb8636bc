"""Producing in place: ringcast's `loan_array` against `enqueue` of an array, one reader.

"filled" copies a source into the loan, a stand-in for producing it there, and the only copy.
"only stamped" writes the first and the last element alone, and so shows what is left of the transport itself: its rate
counts bytes that nobody wrote. Every reader touches every page; checked are the first and the last element.
"""

from __future__ import annotations

from typing import Any

from ..bench import Bench
from ..measure import Outcome
from ..peers.base import Subject
from ..settings import Settings
from .base import Case
from .payload import PAGE_BYTES, Array, PayloadWorkload, Traffic, deliver, floor, mark, sized_cases, sources


class Loan(PayloadWorkload):
    """See the module."""

    key = "loan"
    title = "Arrays produced in place"
    explain = "ringcast alone, one reader: loan_array beside enqueue"
    ringcast_only = True

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes."""
        return tuple(sized_cases(settings.loan_sizes))

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send for about as long as set."""
        messages = sources(case.nbytes, "float32")
        return deliver(subject, case, Traffic(messages, mark("float32"), _touch, case.nbytes, "array"), bench)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy."""
        return floor(case.nbytes, bench)


def _touch(array: Array) -> tuple[int, Any, Any]:
    """Touch every page, and look at both ends."""
    array[:: PAGE_BYTES // array.itemsize].tobytes()
    return len(array), array[0], array[-1]

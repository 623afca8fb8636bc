"""Producing in place: ringcast's `loan_array` against `enqueue` of an array, one reader.

"filled" copies a source into the loan, a stand-in for producing it there, and the only copy.
"only stamped" writes the first and the last element alone, and so shows what is left of the transport itself: its rate
counts bytes that nobody wrote. Every reader touches every page; checked are the first and the last element.
"""

from __future__ import annotations

from typing import Any

from ringcast.cli.lab.arrays import PAGE_BYTES, mark, sized_cases, sources
from ringcast.cli.lab.bench import Settings
from ringcast.cli.lab.stream import Traffic
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case

from .floors import CopiedOnce

_SIZES = (4 << 20, 16 << 20)


class Loan(CopiedOnce):
    """See the module."""

    key = "loan"
    title = "Arrays produced in place"
    explain = "ringcast alone, one reader: loan_array beside enqueue"
    ringcast_only = True

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes."""
        return tuple(sized_cases(_SIZES, settings))

    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """As workload "arrays", but looked at less."""
        return Traffic(sources(case.nbytes, "float32"), mark("float32"), case.nbytes, "array", _touch, every=True)


def _touch(array: Any) -> tuple[int, Any, Any]:
    """Touch every page, and look at both ends."""
    array[:: PAGE_BYTES // array.itemsize].tobytes()
    return len(array), array[0], array[-1]

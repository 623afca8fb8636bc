"""ringcast's extra rows.

"spin", "yield", "busy" and "park" wait in that manner, "many" uses enqueue_many and dequeue_many, "zero_copy" has torch
tensors on the shared memory instead of in copies, and the loans produce an array in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ringcast import MessageQueue
from ringcast.cli.lab.ringcast_queue import RINGCAST, Ringcast
from ringcast.waiting import Wait


@dataclass(frozen=True)
class Loan(Ringcast):
    """Produces in place, as if the array given were the work to do: all of it, or only its ends."""

    filled: bool = True

    def send_with(self, queue: MessageQueue) -> Callable[[Any], object]:
        """With a loan."""
        loan_array = queue.loan_array

        def fill(source: Any) -> None:
            with loan_array(source.shape, source.dtype) as array:
                array[...] = source

        def stamp(source: Any) -> None:
            with loan_array(source.shape, source.dtype) as array:
                array[0] = source[0]
                array[-1] = source[-1]

        return fill if self.filled else stamp


def _extra(kind: type[Ringcast], key: str, label: str, *workloads: str, **options: Any) -> Ringcast:
    """A row of these workloads only."""
    named = f"ringcast-{key}", f"ringcast{label}", "ringcast", "ringcast"
    return kind(*named, standing="extra", only=workloads, **options)


def _waiting(wait: Wait, *workloads: str) -> Ringcast:
    """A row that shows a waiting strategy."""
    return _extra(Ringcast, f"{wait}", f", wait={wait}", *workloads, wait=wait)


SUBJECTS = (
    RINGCAST,
    # Spinning ends that share CPUs take turns by time slices: in the step pattern one step would take milliseconds.
    _waiting("spin", "latency", "dict", "bursts", "arrays"),
    _waiting("yield", "latency", "dict", "bursts", "step", "wake", "cpu", "arrays"),
    _waiting("busy", "latency", "dict", "bursts", "step", "wake", "cpu"),
    _waiting("park", "dict", "step"),
    _extra(Ringcast, "many", ", many at once", "rate"),
    _extra(Ringcast, "zero-copy", ", zero_copy=True", "tensors", "tensor_list", zero_copy=True),
    _extra(Loan, "loan", " loan_array, filled", "loan"),
    _extra(Loan, "loan-stamp", " loan_array, only stamped", "loan", filled=False),
)

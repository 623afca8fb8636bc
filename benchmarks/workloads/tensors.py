"""torch CPU tensors, float32, to one reader: single ones, and a list of 32 in one message.

A reader of ringcast gets private copies; the row "zero_copy" has them on the shared memory. The peers pickle them
(plain pickle, protocol 5). Every page is touched, and the message dropped. The floor is the one memcpy of the workload
with arrays. Without torch the single tensors are left out, and the list is of NumPy arrays.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bench import Bench
from ..measure import Outcome
from ..peers.base import Subject
from ..settings import PAYLOAD_DEPTH, Settings
from .base import Case
from .payload import Array, Look, PayloadWorkload, Traffic, deliver, floor, look_at, mark, sized_cases, sources

_LIST_LENGTH = 32
_PART_BYTES = 64 << 10
_LIST_BYTES = _LIST_LENGTH * _PART_BYTES


class Tensors(PayloadWorkload):
    """See the module."""

    key = "tensors"
    title = "torch tensors"
    explain = f"float32 on the CPU, one reader, every page touched, depth {PAYLOAD_DEPTH}"

    def lacking(self) -> str:
        """Torch is nobody's dependency."""
        return _import_torch()

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes."""
        return tuple(sized_cases(settings.tensor_sizes))

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send for about as long as set."""
        torch = importlib.import_module("torch")
        tensors = [torch.from_numpy(array) for array in sources(case.nbytes, "float32")]
        traffic = Traffic(tensors, torch.from_numpy(mark("float32")), _look_at_tensor, case.nbytes, "tensor")
        return deliver(subject, case, traffic, bench)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy."""
        return floor(case.nbytes, bench)


class TensorList(PayloadWorkload):
    """See the module."""

    key = "tensor_list"
    title = "A list of tensors"
    explain = f"{_LIST_LENGTH} of 64 KiB in one message (arrays without torch), every page touched"

    def lacking(self) -> str:
        """Nothing: it can do without torch. Imports it if it is there, before any process is forked."""
        _import_torch()
        return ""

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send for about as long as set."""
        lists: list[list[Any]] = [np.split(array, _LIST_LENGTH) for array in sources(_LIST_BYTES, "float32")]
        end: list[Any] = [mark("float32")]
        look: Look = _look_at_arrays
        if not _import_torch():
            torch = importlib.import_module("torch")
            # Each with memory of its own: torch pickles all of the memory that a tensor is a part of.
            lists = [[torch.from_numpy(array).clone() for array in parts] for parts in lists]
            end = [torch.from_numpy(end[0])]
            look = _look_at_tensors
        return deliver(subject, case, Traffic(lists, end, look, _LIST_BYTES, "tensor"), bench)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """One memcpy of as many bytes."""
        return floor(_LIST_BYTES, bench)


def _look_at_tensor(tensor: Any) -> tuple[bytes, Any]:
    array: Array = tensor.numpy()
    return look_at(array)


def _look_at_tensors(tensors: Sequence[Any]) -> list[tuple[bytes, Any]]:
    return [look_at(tensor.numpy()) for tensor in tensors]


def _look_at_arrays(arrays: Sequence[Array]) -> list[tuple[bytes, Any]]:
    return [look_at(array) for array in arrays]


def _import_torch() -> str:
    """Import torch, for one thread; why it cannot be imported, empty if it can."""
    try:
        importlib.import_module("torch").set_num_threads(1)
    except Exception as error:  # one that breaks on import must not end the benchmark
        return f"torch: {type(error).__name__}: {error}"
    return ""

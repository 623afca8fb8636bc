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

from ringcast.cli.lab.arrays import DEPTH, look_at, mark, sized_cases, sources
from ringcast.cli.lab.bench import Settings
from ringcast.cli.lab.stream import Traffic
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case

from .floors import CopiedOnce

_SIZES = (1 << 20, 16 << 20, 64 << 20)
_LIST_LENGTH = 32
_LIST_BYTES = _LIST_LENGTH * (64 << 10)


class Tensors(CopiedOnce):
    """See the module."""

    key = "tensors"
    title = "torch tensors"
    explain = f"float32 on the CPU, one reader, every page touched, depth {DEPTH}"

    def lacking(self) -> str:
        """Torch is nobody's dependency."""
        return _import_torch()

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes."""
        return tuple(sized_cases(_SIZES, settings))

    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """Tensors of this size."""
        torch = importlib.import_module("torch")
        tensors = [torch.from_numpy(array) for array in sources(case.nbytes, "float32")]
        end = torch.from_numpy(mark("float32"))
        return Traffic(tensors, end, case.nbytes, "tensor", _look_at_tensor, every=True)


class TensorList(CopiedOnce):
    """See the module."""

    key = "tensor_list"
    title = "A list of tensors"
    explain = f"{_LIST_LENGTH} of 64 KiB in one message (arrays without torch), every page touched"

    def lacking(self) -> str:
        """Nothing: it can do without torch. Imports it if it is there, before any process is forked."""
        _import_torch()
        return ""

    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """Lists of tensors."""
        lists: list[list[Any]] = [np.split(array, _LIST_LENGTH) for array in sources(_LIST_BYTES, "float32")]
        end: list[Any] = [mark("float32")]
        if _import_torch():
            return Traffic(lists, end, _LIST_BYTES, "tensor", _look_at_arrays, every=True)
        torch = importlib.import_module("torch")
        # Each with memory of its own: torch pickles all of the memory that a tensor is a part of.
        lists = [[torch.from_numpy(array).clone() for array in parts] for parts in lists]
        return Traffic(lists, [torch.from_numpy(end[0])], _LIST_BYTES, "tensor", _look_at_tensors, every=True)

    def copied(self, case: Case) -> int:
        """All of it."""
        return _LIST_BYTES


def _look_at_tensor(tensor: Any) -> tuple[bytes, Any]:
    return look_at(tensor.numpy())


def _look_at_tensors(tensors: Sequence[Any]) -> list[tuple[bytes, Any]]:
    return [_look_at_tensor(tensor) for tensor in tensors]


def _look_at_arrays(arrays: Sequence[Any]) -> list[tuple[bytes, Any]]:
    return [look_at(array) for array in arrays]


def _import_torch() -> str:
    """Import torch, for one thread; why it cannot be imported, empty if it can."""
    try:
        importlib.import_module("torch").set_num_threads(1)
    except Exception as error:  # one that breaks on import must not end the benchmark
        return f"torch: {type(error).__name__}: {error}"
    return ""

"""The workloads, in the order of the report."""

from __future__ import annotations

from .arrays import Arrays
from .base import Workload
from .copies import Copies
from .cpu import Cpu
from .latency import Latency
from .loan import Loan
from .objects import Objects
from .rate import Rate
from .startup import Startup
from .tensors import TensorList, Tensors
from .wake import Wake

__all__ = ["WORKLOADS", "Workload"]

WORKLOADS: tuple[Workload, ...] = (
    Latency(),
    Rate(),
    Wake(),
    Cpu(),
    Startup(),
    Objects(),
    Arrays(),
    Tensors(),
    TensorList(),
    Loan(),
    Copies(),
)

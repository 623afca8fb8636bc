"""The workloads, in the order of the report."""

from __future__ import annotations

from .arrays import Arrays
from .base import Workload
from .bursts import Bursts
from .copies import Copies
from .cpu import Cpu
from .dicts import Dicts
from .latency import Latency
from .loan import Loan
from .objects import Objects
from .rate import Rate
from .startup import Startup
from .step import Step
from .tensors import TensorList, Tensors
from .wake import Wake

__all__ = ["WORKLOADS", "Workload"]

WORKLOADS: tuple[Workload, ...] = (
    Latency(),
    Rate(),
    Dicts(),
    Bursts(),
    Step(),
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

"""The workloads, in the order of the report."""

from __future__ import annotations

from ringcast.cli.lab.workload import Workload

from .across import LinkBytes, LinkLatency, LinkRate, Tcp
from .bursts import Bursts
from .calls import Calls, CallsArray, CallsRate
from .copies import Copies
from .cpu import Cpu
from .dicts import Dicts
from .floors import Arrays, Latency, Rate
from .keys import KeyRate
from .loan import Loan
from .objects import Objects
from .paged import Paged
from .pool import Pool
from .pool_bytes import PoolBytes
from .select import Select
from .startup import Startup
from .step import Step
from .tensors import TensorList, Tensors
from .tiers import Tiers
from .wake import Wake

_KIB, _MIB = 1 << 10, 1 << 20
_ARRAYS = (64 * _KIB, 256 * _KIB, _MIB, 4 * _MIB, 16 * _MIB, 64 * _MIB)

WORKLOADS: tuple[Workload, ...] = (
    Latency(),
    Rate((1, 2, 4, 8)),
    Dicts(),
    Bursts(),
    Step(),
    Wake(),
    Cpu(),
    Startup(),
    Objects((1, 2, 4)),
    Arrays({1: _ARRAYS, 2: _ARRAYS, 4: (256 * _KIB, 4 * _MIB, 16 * _MIB)}),
    Tensors(),
    TensorList(),
    Loan(),
    Copies(),
    Select((1, 8, 64, 256)),
    Calls((1, 2, 4)),
    KeyRate(),
    CallsRate((1, 2, 4)),
    CallsArray(),
    Pool((1, 2, 4)),
    PoolBytes((1, 2, 4)),
    Tiers(),
    Paged(),
    LinkLatency(),
    LinkRate(),
    LinkBytes(),
    Tcp(),
)

"""NumPy arrays to several numbers of readers, each of which gets every array.

Three sources are sent in turn. Every reader looks at one element of every 4,096-byte page and at the last element of
every array, which differ from source to source, then drops it: what is torn or stale shows. The figure is GB/s that the
slowest reader got. Arrays below 1 MiB are uint8, the others float32.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import QueueSpec, Subject
from ringcast.cli.lab.workload import Case, Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Slots of a queue, and the arrays that are sent in turn.
DEPTH = 4
SOURCES = 3
PAGE_BYTES = 4096
SECONDS = 0.2
#: Room in a message for what a pickle adds.
ROOM_BYTES = 64 << 10

GIGABYTES = Metric("rate", "GB/s a reader", "GB/s", better="higher")


class PayloadWorkload(Workload):
    """What the workloads with large payloads share: the measurement of a `Traffic`."""

    metrics: ClassVar[tuple[Metric, ...]] = (GIGABYTES,)
    seconds: ClassVar[float] = SECONDS

    @abstractmethod
    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """What is sent."""

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Send for about as long as set."""
        traffic = self.traffic(subject, case)
        spec = self.spec(case, traffic, bench)
        delivered = deliver(subject, spec, traffic, bench.settings.seconds(self.seconds), bench)
        return Outcome({GIGABYTES.key: delivered.gigabytes})

    def spec(self, case: Case, traffic: Traffic, bench: Bench) -> QueueSpec:
        """The queue for it."""
        return bench.spec(case.n_readers, DEPTH, traffic.nbytes + ROOM_BYTES, traffic.payload)


class Arrays(PayloadWorkload):
    """See the module. `sizes` are those for each number of readers."""

    key = "arrays"
    title = "NumPy arrays"
    explain: ClassVar[str] = f"every page touched by every reader, depth {DEPTH}"

    def __init__(self, sizes: Mapping[int, Sequence[int]]) -> None:
        """So many readers get arrays of these sizes."""
        self._sizes = sizes

    def lacking(self) -> str:
        """NumPy is an extra."""
        return lacking()

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes, for each number of readers."""
        cases: list[Case] = []
        for n_readers, sizes in self._sizes.items():
            cases += sized_cases(sizes, settings, n_readers, f"{n_readers} reader{'s' if n_readers > 1 else ''}")
        return tuple(cases)

    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """Arrays of this size."""
        return traffic(case.nbytes)


def lacking() -> str:
    """Why there are no arrays here; empty if there are."""
    return "" if find_spec("numpy") else 'NumPy is not installed: pip install "ringcast[numpy]"'


def traffic(nbytes: int) -> Traffic:
    """Arrays of this size, each looked at."""
    dtype = "uint8" if nbytes < 1 << 20 else "float32"
    return Traffic(sources(nbytes, dtype), mark(dtype), nbytes, "array", look_at, every=True)


@lru_cache(maxsize=1)
def sources(nbytes: int, dtype: str) -> tuple[NDArray[Any], ...]:
    """Arrays to send, touched, each with contents of its own, never 0 at their ends; kept from subject to subject."""
    import numpy as np

    made = []
    for number in range(1, SOURCES + 1):
        random = np.random.default_rng(number)
        length = nbytes // np.dtype(dtype).itemsize
        array: NDArray[Any] = (
            random.random(length, np.float32)
            if dtype == "float32"
            else random.integers(0, 256, length, dtype=np.dtype(dtype))
        )
        array[0] = array[-1] = number
        made.append(array)
    return tuple(made)


def mark(dtype: str) -> NDArray[Any]:
    """A page of zeros, as no source is."""
    import numpy as np

    return np.zeros(PAGE_BYTES // np.dtype(dtype).itemsize, dtype)


def look_at(array: NDArray[Any]) -> tuple[bytes, Any]:
    """One element of every page, and the last element."""
    return array[:: PAGE_BYTES // array.itemsize].tobytes(), array[-1]


def named(nbytes: int) -> str:
    """A size for tables."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def sized_cases(sizes: Iterable[int], settings: Settings, n_readers: int = 1, group: str = "") -> list[Case]:
    """One case a size; every other one in a brief run."""
    key = f"/{n_readers}" if group else ""
    chosen = list(sizes)[:: 2 if settings.brief else 1]
    return [Case(f"{named(size).replace(' ', '')}{key}", named(size), n_readers, group, size) for size in chosen]

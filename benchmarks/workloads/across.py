"""Across machines: what ringcast's link does over loopback, beside its peers and the same work in native code.

Subjects are those that can cross a network. Two ends, as elsewhere: one CPU has the writer, one the reader; link
processes and the native pump's sender and receiver run where the scheduler likes.

Latency: a message there and back over two queues, half of its time. The floor is one way by two futex wakes and TCP
between them, with nothing that spins: writer, sender, receiver and reader are four threads of control.
Rate and payloads: as for local ends. The floor is a native pump with the link's copies: from private memory into a
ring, from there into the kernel, from there into another ring; a place of the first ring is free again when the second
one has its message. The workload "TCP alone" is native too: one send and one receive for the same bytes, no ring.
"""

from __future__ import annotations

import multiprocessing
from typing import ClassVar

from ringcast.cli.lab import arrays, latency, rate
from ringcast.cli.lab.arrays import GIGABYTES, PayloadWorkload
from ringcast.cli.lab.bench import DEPTH, MESSAGE_BYTES, Bench, Settings
from ringcast.cli.lab.measure import P50, P99, Metric, Outcome
from ringcast.cli.lab.rate import RATE
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import QueueSpec, Subject
from ringcast.cli.lab.workload import Case, Workload
from tests import own_shm

from .messages import STEP_DEPTH

_KIB, _MIB = 1 << 10, 1 << 20
_SIZES = (4 * _KIB, 64 * _KIB, _MIB, 16 * _MIB, 64 * _MIB)
#: From here on a queue of `STEP_DEPTH` messages takes too much memory, twice.
_LARGE_BYTES = 16 * _MIB
#: Long enough for several of the largest.
_SECONDS = 0.6
#: Of the floor's latency.
_TRIPS = 5_000


class Across(Workload):
    """What the workloads across machines share."""

    def takes(self, subject: Subject) -> bool:
        """Those alone that are made for it."""
        return self.key in subject.only

    def lacking(self) -> str:
        """A /dev/shm of its own for the reader."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        with ours, theirs:
            process = context.Process(target=lambda: theirs.send(own_shm.enter() or ""))
            process.start()
            process.join()
            reason: str = ours.recv() if ours.poll() else f"exit code {process.exitcode}"
        return reason and f"no second /dev/shm here: {reason}"


class LinkLatency(Across, latency.Latency):
    """See the module."""

    key = "link_latency"
    title = "Across machines, one-way latency"
    explain = f"over loopback, {MESSAGE_BYTES}-byte bytes, half of a round trip over two queues"
    metrics = (P50, P99)
    trips = 2_000
    floor_label = "native TCP and two futex wakes"

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """Four processes in a row."""
        return Outcome({P50.key: bench.floor.chain(bench.settings.count(_TRIPS))})


class LinkRate(Across):
    """See the module."""

    key = "link_rate"
    title = "Across machines, rate of small messages"
    explain = f"over loopback, {MESSAGE_BYTES}-byte bytes"
    metrics: ClassVar[tuple[Metric, ...]] = (RATE,)
    floor_label = "native pump, two rings"

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """Two depths."""
        return tuple(Case(f"depth{depth}", f"depth {depth:,}") for depth in (DEPTH, STEP_DEPTH))

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Stream for about as long as set."""
        traffic = Traffic(rate.MESSAGES, rate.END, MESSAGE_BYTES)
        spec = bench.spec(1, _depth(case), MESSAGE_BYTES)
        return Outcome({RATE.key: deliver(subject, spec, traffic, bench.settings.seconds(_SECONDS), bench).rate})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """The same copies."""
        return Outcome({RATE.key: bench.floor.pump(MESSAGE_BYTES, _depth(case), bench.settings.seconds(_SECONDS))})


class LinkBytes(Across, PayloadWorkload):
    """See the module."""

    key = "link_bytes"
    title = "Across machines, NumPy arrays"
    explain = f"over loopback, every page touched, depth {STEP_DEPTH}, {arrays.DEPTH} from 16 MiB on"
    seconds = _SECONDS
    floor_label = "native pump, two rings"

    def lacking(self) -> str:
        """NumPy is an extra."""
        return arrays.lacking() or super().lacking()

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes."""
        return tuple(arrays.sized_cases(_SIZES, settings))

    def traffic(self, subject: Subject, case: Case) -> Traffic:
        """Arrays of this size."""
        return arrays.traffic(case.nbytes)

    def spec(self, case: Case, traffic: Traffic, bench: Bench) -> QueueSpec:
        """As deep as its size allows."""
        return bench.spec(1, _depth(case), traffic.nbytes + arrays.ROOM_BYTES, traffic.payload)

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """The same copies."""
        seconds = bench.settings.seconds(_SECONDS)
        return Outcome({GIGABYTES.key: bench.floor.pump(case.nbytes, _depth(case), seconds) * case.nbytes / 1e9})


class Tcp(Workload):
    """See the module."""

    key = "tcp"
    title = "TCP alone"
    explain = "native, over loopback, from one buffer into another"
    metrics = (Metric("rate", "GB/s", "GB/s", better="higher"),)
    floor_label = "native TCP"
    has_subjects = False

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The sizes of the workload with arrays."""
        return tuple(arrays.sized_cases(_SIZES, settings))

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Never called."""
        raise NotImplementedError  # has_subjects is False

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """No ring."""
        return Outcome({"rate": bench.floor.tcp(case.nbytes, bench.settings.seconds(_SECONDS))})


def _depth(case: Case) -> int:
    if case.nbytes:
        return STEP_DEPTH if case.nbytes < _LARGE_BYTES else arrays.DEPTH
    return DEPTH if case.key == f"depth{DEPTH}" else STEP_DEPTH

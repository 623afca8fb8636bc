"""`ringcast bench`: what the installed package does on this machine, beside `multiprocessing.Queue`, in ten seconds.

A first impression: processes are not pinned and nothing is repeated. The full suite is in the repository, in
`benchmarks/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ringcast.cli import common

if TYPE_CHECKING:
    from ringcast.cli.lab.measure import Result

DEPTH = 64
SMALL_BYTES = 64
ARRAY_BYTES = 1 << 20
PACE_SECONDS = 0.001

HELP = """Measure latency and rate of the installed package on this machine, in about ten seconds.

Each for one and for two readers, and beside one multiprocessing.Queue per reader of the same depth: the latency of a
message of 64 bytes when one is sent every millisecond (from just before the send until a reader has it), the rate of
such messages sent one by one as fast as it goes, and the rate of NumPy arrays of 1 MiB, whose every page the readers
touch.

A first impression: nothing is pinned or repeated. The full suite, with other libraries and the hardware's own speed
beside it, is in benchmarks/ in ringcast's repository.
"""

EPILOG = f"""\b
Example: what a reader costs that waits by spinning
  RINGCAST_WAIT=spin ringcast bench

{common.EXIT_CODES}
"""


@click.command("bench", help=HELP, epilog=EPILOG, short_help="Measure latency and rate on this machine.")
@click.option(
    "--seconds", type=click.FloatRange(0.01, 60), default=0.7, show_default=True, help="For each of 12 measurements."
)
def command(seconds: float) -> None:
    from rich.table import Table

    from ringcast.cli.lab.channels import RINGCAST, STANDARD

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("readers", RINGCAST, STANDARD, "times better"):
        table.add_column(heading, justify="right", no_wrap=True)
    with common.progress("measuring", 2 * 6) as advance:
        for readers in (1, 2):
            latency, small, large = _measure(readers, seconds, lambda: advance(1))
            for name, share in (("latency p50, 64 B every 1 ms, us", 0.5), ("latency p99", 0.99)):
                ours, standard = (1e6 * result.latency(share) for result in latency)
                table.add_row(name, str(readers), f"{ours:,.1f}", f"{standard:,.1f}", f"{standard / ours:,.1f}")
            ours, standard = (result.messages_per_second for result in small)
            table.add_row(
                "64 B, messages/s", str(readers), f"{ours:,.0f}", f"{standard:,.0f}", f"{ours / standard:,.1f}"
            )
            ours, standard = (result.bytes_per_second / 1e6 for result in large)
            table.add_row(
                "1 MiB arrays, MB/s", str(readers), f"{ours:,.0f}", f"{standard:,.0f}", f"{ours / standard:,.1f}"
            )
    common.print_table(table)


def _measure(readers: int, seconds: float, step: Callable[[], None]) -> tuple[list[Result], list[Result], list[Result]]:
    """The results of latency, small messages and arrays, each for ours and for the standard library's."""
    import numpy as np

    from ringcast.cli.lab.bench_worker import ARRAYS, PLAIN, STAMPED, work
    from ringcast.cli.lab.channels import RingcastSender, Sender, StandardSender
    from ringcast.cli.lab.measure import measuring_team, run_pass

    array = np.ones(ARRAY_BYTES, dtype=np.uint8)
    kinds: list[tuple[str, Callable[[], Any], float]] = [
        (STAMPED, _stamped, PACE_SECONDS), (PLAIN, lambda: bytes(SMALL_BYTES), 0.0), (ARRAYS, lambda: array, 0.0)
    ]  # fmt: skip
    results: list[list[Result]] = []
    with ExitStack() as stack:
        senders: list[Sender] = []
        for make in (
            lambda: RingcastSender(readers, depth=DEPTH, largest=2 * ARRAY_BYTES),
            lambda: StandardSender(readers, depth=DEPTH),
        ):
            senders.append(make())
            stack.callback(senders[-1].close)
        team = stack.enter_context(measuring_team(work, readers, senders))
        for kind, message, pause in kinds:
            results.append([])
            for sender in senders:
                run_pass(team, sender, kind, _for_seconds(seconds / 10, message, pause))  # to warm up
                results[-1].append(run_pass(team, sender, kind, _for_seconds(seconds, message, pause)))
                step()
    latency, small, large = results
    return latency, small, large


def _stamped() -> bytes:
    from ringcast.cli.lab.bench_worker import stamp

    return stamp().ljust(SMALL_BYTES, b"\0")


def _for_seconds(seconds: float, message: Callable[[], Any], pause: float) -> Iterator[Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield message()
        if pause:
            time.sleep(pause)

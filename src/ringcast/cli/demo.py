"""`ringcast demo`: the standard library's sources, broadcast to worker processes, beside `multiprocessing.Queue`.

Real input, checked: every worker must have received every file, byte for byte.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import click

from ringcast.cli import common

if TYPE_CHECKING:
    from ringcast.cli.lab.results import Results

ROUNDS = 3
_WORDS = {"rate": ("faster", "slower"), "bytes": ("faster", "slower"), "cpu": ("less", "more")}

HELP = f"""Broadcast the standard library's sources to worker processes, as fast as it goes.

One process reads every source file of this Python's standard library (tests left out) and broadcasts each, as a dict
with its path and bytes, to all workers; each compares every file that it receives with the original. Through ringcast
that is one MessageQueue, and through the standard library one multiprocessing.Queue for each worker. The two take
turns, for {ROUNDS} rounds of about a second. No process is pinned to a CPU.
"""

EPILOG = f"""\b
Example:
  ringcast demo --workers 2

{common.EXIT_CODES} A file that differs is a failure.
"""


@click.command("demo", help=HELP, epilog=EPILOG, short_help="Broadcast the standard library to 4 workers.")
@click.option("--workers", type=common.Whole(1, 64), default=4, show_default=True, help="Worker processes.")
@click.option("--compare/--no-compare", default=True, help="Measure multiprocessing.Queue too, or not.")
@click.option("--files", type=common.Whole(1), hidden=True, help="Only so many files.")
@click.option("--rounds", type=common.Whole(1), default=ROUNDS, hidden=True, help="How often each is measured.")
def command(*, workers: int, compare: bool, files: int | None, rounds: int) -> None:
    from ringcast.cli.lab.bench import Settings
    from ringcast.cli.lab.demo_corpus import standard_library
    from ringcast.cli.lab.files import Files
    from ringcast.cli.lab.machine import busy
    from ringcast.cli.lab.mp_queue import MP_QUEUE
    from ringcast.cli.lab.placement import Placement
    from ringcast.cli.lab.progress import Progress
    from ringcast.cli.lab.ringcast_queue import RINGCAST
    from ringcast.cli.lab.run import measured

    corpus = standard_library(files)
    if not corpus:
        raise common.CommandError("this Python has no source files of its standard library")
    size = sum(len(file.data) for file in corpus)
    crew = f"{workers} worker{'s' if workers > 1 else ''}"
    click.echo(
        f"{len(corpus):,} source files of Python {platform.python_version()}, {size / 1e6:,.1f} MB, "
        f"broadcast to {crew}\n"
    )
    subjects = (RINGCAST, MP_QUEUE) if compare else (RINGCAST,)
    progress = Progress(sys.stderr, quiet=True)
    results = measured(
        [Files(corpus, workers)],
        subjects,
        Settings(rounds, timeout_seconds=600),
        Placement.here(pinned=False),
        progress,
    )
    _check(results)
    _print(results)
    received = sum(round(row["received"]) for series in results.series.values() for row in series.rounds)
    times = f"{rounds} round{'s' if rounds > 1 else ''}"
    click.echo(
        f"\nMedians of {times} on {results.facts['cpus']} CPUs, {results.facts['cpu']}.\n"
        f"OK: {'each of ' if workers > 1 else ''}{crew} received {received:,} files, each byte for byte as it was sent."
    )
    if reason := busy(results.facts):
        click.echo(f"ringcast: warning: the machine was busy: {reason}", err=True)


def _check(results: Results) -> None:
    """A measurement that failed, or found a file that is not the one sent, is the end."""
    for (_, _, subject), series in results.series.items():
        for error in series.errors:
            raise common.CommandError(f"through {subject}: {error.splitlines()[0]}")


def _print(results: Results) -> None:
    from rich.table import Table

    from ringcast.cli.lab.text import faster, figure

    ((workload, (case,)),) = results.workloads
    shown = workload.metrics[:3]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for metric in shown:
        table.add_column(f"{metric.title}{' to each' if metric.key == 'bytes' else ''}", justify="right", no_wrap=True)
    for subject in results.subjects:
        values = [figure(results.value(workload, case, subject.key, metric), metric.unit) for metric in shown]
        table.add_row(subject.label, *values)
    if len(results.subjects) > 1:
        ours, theirs = (subject.key for subject in results.subjects)
        ratios = [results.ratio(workload, case, ours, theirs, metric) for metric in shown]
        words = [
            faster(ratio, metric.better == "lower", _WORDS[metric.key]) if ratio is not None else "-"
            for ratio, metric in zip(ratios, shown, strict=True)
        ]
        table.add_row("ringcast is", *words)
    common.print_table(table)

"""`ringcast demo`: the standard library's sources, broadcast to worker processes that count its tokens.

Real work on real input, checked: the workers' sum must be what one process counts, and each worker must have received
every file, byte for byte. Then the same broadcast through `multiprocessing.Queue`, side by side.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import click

from ringcast.cli import common

if TYPE_CHECKING:
    from ringcast.cli.lab.demo_corpus import SourceFile
    from ringcast.cli.lab.demo_run import Counted
    from ringcast.cli.lab.measure import Result

ROUNDS = 20
PACED = 500

HELP = """Broadcast the standard library's sources to worker processes that count its tokens.

One process reads every source file of this Python's standard library (tests left out) and broadcasts each, as a dict
with a NumPy array, through one MessageQueue to all workers. Every worker receives every file, counts the tokens of its
share, and answers over a queue of its own. The sum is checked against a count in a single process.

Then the broadcast alone is measured, through ringcast and through one multiprocessing.Queue per worker: every file many
times as fast as it goes, and one file every 2 milliseconds for the latency (from just before the send until a worker
has the file in its hands, decoded). Takes about half a minute at most.
"""

EPILOG = f"""\b
Example:
  ringcast demo --workers 2

{common.EXIT_CODES} A count that differs is a failure.
"""


@click.command("demo", help=HELP, epilog=EPILOG, short_help="Count the standard library's tokens with 4 workers.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Worker processes.")
@click.option("--compare/--no-compare", default=True, help="Measure multiprocessing.Queue too, or not.")
@click.option("--files", type=click.IntRange(min=1), hidden=True, help="Only so many files, the largest.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, hidden=True, help="How often each is broadcast.")
@click.option("--paced", type=click.IntRange(min=1), default=PACED, hidden=True, help="Messages of the paced pass.")
def command(*, workers: int, compare: bool, files: int | None, rounds: int, paced: int) -> None:
    from ringcast.cli.lab.demo_corpus import standard_library
    from ringcast.cli.lab.demo_run import Demo, count_alone

    corpus = standard_library(files)
    crew = f"{workers} worker{'s' if workers > 1 else ''}"
    size = sum(len(file.data) for file in corpus)
    if not corpus:
        raise common.CommandError("this Python has no source files of its standard library")
    click.echo(f"{len(corpus):,} source files of Python {platform.python_version()}, {_megabytes(size)}")

    with common.progress("counting in one process", len(corpus)) as advance:
        alone = count_alone(corpus, advance)
    click.echo(f"one process: {alone.total:,} tokens in {alone.seconds:.2f} s")

    with Demo(corpus, workers, compare) as demo:
        with common.progress(f"counting with {crew}", len(corpus)) as advance:
            together, result = demo.count(advance)
        click.echo(
            f"{crew}: {together.total:,} tokens in {together.seconds:.2f} s "
            f"({alone.seconds / together.seconds:.2f} times as fast), each received {result.taken[0].messages:,} files"
        )
        rows = {}
        for sender in demo.senders:
            with common.progress(f"broadcasting, {sender.name}", len(corpus) * rounds) as advance:
                demo.broadcast(sender, 1, lambda _: None)  # to warm up
                full = demo.broadcast(sender, rounds, advance)
            with common.progress(f"one every 2 ms, {sender.name}", paced) as advance:
                rows[sender.name] = full, demo.broadcast_paced(sender, paced, advance)
    click.echo(
        f"\nThe broadcast alone, every file {rounds} times ({len(corpus) * rounds:,} messages, "
        f"{_megabytes(size * rounds)}) to each of {crew};\nlatency: {paced} files, one every 2 ms"
    )
    _print_comparison(rows)
    _check_counts(alone, together)
    _check_received(corpus, result)
    for full, _ in rows.values():
        _check_received(corpus * rounds, full)
    click.echo(
        f"\nOK: {crew} counted {together.total:,} tokens in {len(corpus):,} files, as many as one process; "
        "each received every file, byte for byte."
    )


def _check_counts(alone: Counted, together: Counted) -> None:
    for path, tokens in alone.tokens.items():
        if together.tokens.get(path) != tokens:
            raise common.CommandError(
                f"WRONG: the workers counted {together.tokens.get(path)} tokens in {path}, one process {tokens}"
            )


def _check_received(files: list[SourceFile], result: Result) -> None:
    from ringcast.cli.lab.demo_run import checksum_of

    expected = checksum_of(files)
    for rank, taken in enumerate(result.taken):
        if (taken.messages, taken.checksum) != (len(files), expected):
            raise common.CommandError(
                f"WRONG: worker {rank} received {taken.messages} of {len(files)} files, "
                f"checksum {taken.checksum:08x} instead of {expected:08x}"
            )


def _print_comparison(rows: dict[str, tuple[Result, Result]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("seconds", "messages/s", "MB/s", "CPU seconds", "latency p50", "latency p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, (full, paced) in rows.items():
        table.add_row(
            name, f"{full.seconds:.2f}", f"{full.messages_per_second:,.0f}", f"{full.bytes_per_second / 1e6:,.0f}",
            f"{full.cpu_seconds:.2f}", _microseconds(paced.latency(0.5)), _microseconds(paced.latency(0.99)),
        )  # fmt: skip
    common.print_table(table)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} us"

"""`ringcast bench`: what the installed package does on this machine, beside `multiprocessing.Queue`.

Three workloads of the engine in `ringcast.cli.lab`, which also runs the full suite, in the repository's `benchmarks/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringcast.cli import common

if TYPE_CHECKING:
    from ringcast.cli.lab.measure import Metric
    from ringcast.cli.lab.results import Results
    from ringcast.cli.lab.workload import Case, Workload

READERS = (1, 2)
ARRAY_BYTES = 1 << 20
SECONDS = 0.1
ROUNDS = 5

HELP = f"""Measure latency and rate of the installed package on this machine, in about ten seconds.

Each to one and to two readers, and beside one multiprocessing.Queue for each reader: the one-way latency of a message
of 64 bytes (half of a round trip), the rate of such messages, and the rate of NumPy arrays of 1 MiB, whose every page
the readers touch. Writer and readers are processes of their own, pinned to CPUs, and check what they receive.

The two take turns, for {ROUNDS} rounds; figures are medians of the rounds, comparisons of each round's own ratios. What
other processes did meanwhile is measured, too, and said if it was much.
"""

EPILOG = f"""\b
Examples:
  ringcast bench --rounds 20 --plot bench.png
  ringcast bench --json > bench.json

The JSON has the machine, the versions, the settings, and for each workload, case and subject the median and every
round; times are in ns. A picture needs "ringcast[bench]". Other libraries and the hardware's own speed are in the full
suite, benchmarks/ in ringcast's repository.

{common.EXIT_CODES}
"""


def _picture(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Whatever would keep a picture from being made is said before anything is measured."""
    if path is None:
        return None
    if path.suffix not in (".png", ".svg"):
        raise click.BadParameter(f"{path} is neither .png nor .svg.")
    if not path.resolve().parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder.")
    if find_spec("matplotlib") is None:
        raise common.CommandError('a picture needs matplotlib: pip install "ringcast[bench]"')
    return path


@click.command("bench", help=HELP, epilog=EPILOG, short_help="Measure latency and rate on this machine.")
@click.option(
    "--seconds", type=common.Seconds(0.01, 60), default=SECONDS, show_default=True,
    help="About how long each of 12 measurements of a round lasts.",
)  # fmt: skip
@click.option("--rounds", type=common.Whole(1, 1000), default=ROUNDS, show_default=True, help="How often.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that was found as JSON.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path), callback=_picture, metavar="FILE",
    help="Draw a picture, .png or .svg.",
)  # fmt: skip
def command(*, seconds: float, rounds: int, as_json: bool, plot: Path | None) -> None:
    results = measure(seconds, rounds)
    if as_json:
        click.echo(json.dumps(results.as_json(), indent=1))
    else:
        _print(results)
    if plot is not None:
        from ringcast.cli.lab.plot import all_panels, draw

        document = results.as_json()
        draw(document, plot, all_panels(document))
        common.note(f"drawn: {plot}")
    _complain(results)


def measure(seconds: float, rounds: int) -> Results:
    """The three workloads."""
    import sys

    from ringcast.cli.lab import rate
    from ringcast.cli.lab.arrays import Arrays
    from ringcast.cli.lab.bench import Settings
    from ringcast.cli.lab.latency import Latency
    from ringcast.cli.lab.mp_queue import MP_QUEUE
    from ringcast.cli.lab.placement import Placement
    from ringcast.cli.lab.progress import Progress
    from ringcast.cli.lab.ringcast_queue import RINGCAST
    from ringcast.cli.lab.run import measured

    workloads = (Latency(READERS), rate.Rate(READERS), Arrays(dict.fromkeys(READERS, (ARRAY_BYTES,))))
    settings = Settings(rounds, effort=seconds / rate.SECONDS)
    progress = Progress(sys.stderr, quiet=True)
    return measured(workloads, (RINGCAST, MP_QUEUE), settings, Placement.here(), progress)


def _print(results: Results) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("readers", *(subject.label for subject in results.subjects), "ringcast is"):
        table.add_column(heading, justify="right", no_wrap=True)
    for workload, cases in results.workloads:
        for metric in workload.metrics:
            rows = [row for case in cases if (row := _row(results, workload, case, metric))]
            for number, row in enumerate(rows):
                table.add_row(_title(workload, metric) if number == 0 else "", *row)
    common.print_table(table)
    settings, facts = results.facts["settings"], results.facts
    click.echo(
        f"\n{facts['cpu']}, {facts['cpus']} CPUs, {facts['kernel']}, {facts['python']}\n{facts['placement']}; "
        f"medians of {settings['rounds']} rounds"
    )
    for remark in (*_too_few(results), *_left_out(results)):
        click.echo(remark)


def _title(workload: Workload, metric: Metric) -> str:
    names = {"latency": "latency of 64 B, {}", "rate": "rate of 64 B", "arrays": "arrays of 1 MiB"}
    return names[workload.key].format(metric.title)


def _row(results: Results, workload: Workload, case: Case, metric: Metric) -> Sequence[str] | None:
    """The figures of one case; None where there is none at all, because too few samples carry none."""
    from ringcast.cli.lab.text import faster, figure

    ours, theirs = (subject.key for subject in results.subjects)
    values = [results.value(workload, case, key, metric) for key in (ours, theirs)]
    if values == [None, None] and metric.pooled is not None:
        return None
    ratio = results.ratio(workload, case, ours, theirs, metric)
    words = "-" if ratio is None else faster(ratio, metric.better == "lower")
    return [f"{case.n_readers}", *(figure(value, metric.unit) for value in values), words]


def _too_few(results: Results) -> list[str]:
    """Which percentiles are not shown, and what they would take."""
    from ringcast.cli.lab.measure import TAIL_SAMPLES

    lacking: dict[str, int] = {}
    for workload, cases in results.workloads:
        for metric in workload.metrics:
            for case in cases:
                for subject in results.subjects:
                    samples = len(results.of(workload.key, case.key, subject.key).pool)
                    if metric.pooled is not None and samples and not metric.carried_by(samples):
                        lacking[metric.title] = samples
    if not lacking:
        return []
    names, samples = " and ".join(lacking), max(lacking.values())
    return [f"No {names}: {samples:,} samples were taken, {TAIL_SAMPLES:,} carry one (--rounds, --seconds)."]


def _left_out(results: Results) -> list[str]:
    return [f"Left out: {name.removeprefix('workload ')}: {reason}" for name, reason in results.missing.items()]


def _complain(results: Results) -> None:
    """Say what makes the figures doubtful, and fail if one is missing."""
    from ringcast.cli.lab.machine import busy

    if reason := busy(results.facts):
        click.echo(f"ringcast: warning: the machine was busy: {reason}. Close what runs, and measure again.", err=True)
    errors = [
        f"{workload}, {subject}: {error.splitlines()[0]}"
        for (workload, _, subject), series in results.series.items()
        for error in series.errors
    ]
    if errors:
        raise common.CommandError(f"{len(errors)} measurements failed; the last: {errors[-1]}")

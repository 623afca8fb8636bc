"""`ringcast trace`: records what happens to each message of a queue, for Perfetto."""

from __future__ import annotations

import sys

import click

from ringcast.cli import common
from ringcast.cli.ls import complete_names, named
from ringcast.instruments.looking import list_queues
from ringcast.instruments.recorder import record

HELP = """Record when each message of the queue NAME is published, read and released, and who is woken, for Perfetto.

Looks at the queue from outside, without a seat, so that nobody is stopped or waits: an event is known as well as looks
are close to each other. The trace says how well (otherData, precision), and each event within how many microseconds.
Wake-ups are exact. Open the file at https://ui.perfetto.dev, which keeps it on this machine, or at chrome://tracing.
Ctrl-C ends the recording sooner; the file is written in any case.
"""

EPILOG = f"""\b
Example: ten seconds of a queue
  ringcast trace sched --seconds 10 --out sched.json

{common.EXIT_CODES}
"""


@click.command("trace", help=HELP, epilog=EPILOG, short_help="Record what happens to each message of a queue.")
@click.argument("name", shell_complete=lambda context, parameter, start: complete_names(start))
@click.option("--seconds", type=common.Seconds(0.001), default=10.0, show_default=True, help="For how long.")
@click.option("--out", metavar="FILE", show_default="NAME.trace.json", help="Where to write; - is the standard output.")
@click.option(
    "--interval", type=common.Seconds(0, 1), default=0.0001, show_default=True,
    help="Seconds between looks; 0 looks all the time, and takes a core.",
)  # fmt: skip
@click.option(
    "--messages", type=common.Whole(1), default=20_000, show_default=True,
    help="Trace so many one by one, and count the rest.",
)  # fmt: skip
def command(*, name: str, seconds: float, out: str | None, interval: float, messages: int) -> None:
    queue = named(list_queues(), name)
    called = queue["name"] or queue["segment"]
    out = f"{called}.trace.json" if out is None else out
    with click.open_file(out, "w") as file:  # before the recording: where it cannot be written, nobody waits for it
        common.note(f"recording queue '{called}' for {seconds:g} s; Ctrl-C ends it sooner")
        trace = record(queue["segment"], seconds, interval=interval, most=messages, name=called)
        trace.write(file)
    between = trace.precision["between_looks_us"]
    known = f", each within {between['p50']:.0f} µs (99 %: {between['p99']:.0f} µs)" if between else ""
    left_out = f"; {trace.left_out} more were only counted" if trace.left_out else ""
    click.echo(
        f"{out}: {common.some(len(trace.messages), 'message')} of queue '{called}'{known}{left_out}",
        err=out == "-",
        file=sys.stderr if out == "-" else None,
    )

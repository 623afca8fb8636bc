"""`ringcast link`: the link process of a job, by hand and in the foreground."""

from __future__ import annotations

import click

from ringcast.cli import common

HELP = """Be the link process of JOB on this machine, through which its queues reach other machines.

Queues start it by themselves. By hand it is for programs that cannot. Its log goes to the standard error, and to the
file that RINGCAST_LINK_LOG names. It ends 2 seconds after the last queue of the job that needs it.

With --log: write the last lines of the log of the link of JOB that runs, and end.
"""

EPILOG = f"""\b
Example: the job that an error message names
  ringcast link 01q5v7x2k9d

\b
What its link has to say
  ringcast link 01q5v7x2k9d --log

{common.EXIT_CODES}
"""

_ANSWERED_WITHIN_S = 5.0


@click.command("link", help=HELP, epilog=EPILOG, short_help="Be a job's link to other machines.")
@click.argument("job")
@click.option("--log", "only_log", is_flag=True, help="write the last lines of the log of the one that runs, and end")
def command(job: str, only_log: bool) -> None:
    if only_log:
        for line in last_lines(job):
            click.echo(line)
        return
    from ringcast.net.link._process import main

    main(job, log_to_stderr=True)


def last_lines(job: str) -> list[str]:
    """Of the log of this job's link. Raises SegmentNotFoundError if none runs, and what asking it raises."""
    from ringcast.net._deadline import Deadline
    from ringcast.net.link._desk import Place

    with Place.take(job) as place:
        return [str(line) for line in place.ask({"op": "log"}, Deadline(_ANSWERED_WITHIN_S))["last"]]

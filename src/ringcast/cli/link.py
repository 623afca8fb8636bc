"""`ringcast link`: the link process of a job, by hand and in the foreground."""

from __future__ import annotations

import click

from ringcast.cli import common

HELP = """Be the link process of JOB on this machine, through which its queues reach other machines.

Queues start it by themselves. By hand it is for programs that cannot, and to see its log, which goes to the standard
error. It ends 2 seconds after the last queue of the job that needs it.
"""

EPILOG = f"""\b
Example: the job that an error message names
  ringcast link 01q5v7x2k9d

{common.EXIT_CODES}
"""


@click.command("link", help=HELP, epilog=EPILOG, short_help="Be a job's link to other machines.")
@click.argument("job")
def command(job: str) -> None:
    from ringcast.net.link._process import main

    main(job, log_to_stderr=True)

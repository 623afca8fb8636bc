"""`ringcast secret`: a fresh secret for RINGCAST_SECRET."""

from __future__ import annotations

import click

from ringcast.cli import common
from ringcast.cli.fresh import fresh_secret

HELP = """Write a fresh random secret of 256 bits, for RINGCAST_SECRET.

Set it to the same value for all processes of a job, on all machines: what passes between them is then sealed under it.
Who knows it can read that and can take part.
"""

EPILOG = f"""\\b
Example: one for the processes that this shell starts
  export RINGCAST_SECRET=$(ringcast secret)

\\b
Example: one in a file that nobody else reads
  (umask 077 && ringcast secret > job.secret)

{common.EXIT_CODES}
"""


@click.command("secret", help=HELP, epilog=EPILOG, short_help="Write a fresh RINGCAST_SECRET.")
def command() -> None:
    click.echo(fresh_secret())

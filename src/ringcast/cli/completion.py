"""`ringcast completion`: the script that lets a shell complete commands, options and the names of queues."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ringcast.cli import common

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_RINGCAST_COMPLETE"  # where click's scripts say what is to be completed

HELP = """Write the script that lets a shell complete commands, options, and the names of queues.

For zsh write it to a file called _ringcast in a directory of $fpath, or evaluate it after compinit.
"""

EPILOG = f"""\b
Example: for bash, in ~/.bashrc
  eval "$(ringcast completion bash)"

\b
Example: for fish
  ringcast completion fish > ~/.config/fish/completions/ringcast.fish

{common.EXIT_CODES}
"""


@click.command("completion", help=HELP, epilog=EPILOG, short_help="Write a shell's completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "ringcast", VARIABLE).source())

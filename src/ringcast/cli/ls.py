"""`ringcast ls`: the queues of this machine, as a table or as JSON. Looks only: takes no seat, blocks nobody."""

from __future__ import annotations

import json

import click

from ringcast._stats import QueueInfo
from ringcast.cli import common
from ringcast.instruments.looking import list_queues

HELP = """List the queues of this machine.

A queue is shown by the name that programs attach to, or, if it has none, by its segment in shared memory, with its
writer, its readers, the messages it can hold (DEPTH), the messages that the slowest reader has not read (QUEUED), and
the memory that it occupies now. Queues whose writer is gone, and segments that cannot be read, are shown with --all.
"""

EPILOG = """\b
Example: the names of all queues that have something waiting
  ringcast ls --json | jq -r '.[] | select(.queued > 0) | .name'
"""


@click.command("ls", help=HELP, epilog=EPILOG, short_help="List the queues of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON array, with every field of every reader.")
@click.option("--all", "everything", is_flag=True, help="Also queues whose writer is gone, and unreadable segments.")
def command(as_json: bool, everything: bool) -> None:
    found = list_queues()
    queues = [info for info in found.queues if everything or info["writer"]["alive"]]
    unreadable = found.unreadable if everything else []
    if as_json:
        click.echo(json.dumps([*queues, *unreadable], indent=2))
        return
    if queues:
        _print_table(queues)
    for one in unreadable:
        click.echo(f"unreadable: {one['error']}")
    left_out = len(found.queues) + len(found.unreadable) - len(queues) - len(unreadable)
    if not queues and not unreadable:
        click.echo("No live queues here." if left_out else "No queues here.")
    if any(not info["writer"]["alive"] for info in queues):
        click.echo("Queues of dead writers are removed by: ringcast clean")
    if left_out:
        click.echo(f"{left_out} left over by writers that are gone, or unreadable: ringcast ls --all")


def _print_table(queues: list[QueueInfo]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("QUEUE", "SEGMENT", "WRITER"):
        table.add_column(heading, no_wrap=True)
    for heading in ("READERS", "DEPTH", "QUEUED", "SENT", "MEMORY"):
        table.add_column(heading, justify="right", no_wrap=True)
    for info in queues:
        alive = sum(reader["alive"] for reader in info["readers"])
        memory = info["memory"]["control"] + info["memory"]["data_committed"]
        table.add_row(
            Text(info["name"] or "-"), Text(info["segment"]), _writer(info), f"{alive} of {info['n_reader']}",
            str(info["depth"]), str(info["queued"]), str(info["messages"]), common.human_bytes(memory),
        )  # fmt: skip
    common.print_table(table)


def _writer(info: QueueInfo) -> str:
    pid = info["writer"]["pid"]
    if not info["writer"]["alive"]:
        return f"{pid} (dead)"
    return f"{pid} (closed)" if info["closed"] else str(pid)

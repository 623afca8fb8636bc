"""`ringcast ls`: the queues of this machine, as a table or as JSON. Looks only: takes no seat, blocks nobody."""

from __future__ import annotations

import json
from typing import Any

import click

from ringcast.cli import common
from ringcast.segment import SegmentInfo, list_segments

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
    found = list_segments()
    shown = found if everything else [info for info in found if info.writer_alive and info.error is None]
    if as_json:
        click.echo(json.dumps([_plain(info) for info in shown], indent=2))
        return
    if shown:
        _print_table(shown)
        if any(info.error is None and not info.writer_alive for info in shown):
            click.echo("Queues of dead writers are removed by: ringcast clean")
    else:
        click.echo("No queues here." if everything or not found else "No live queues here.")
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} left over by writers that are gone, or unreadable: ringcast ls --all")


def _plain(info: SegmentInfo) -> dict[str, Any]:
    """`info` and its readers as JSON objects, not as bare arrays."""
    return {**info._asdict(), "readers": [reader._asdict() for reader in info.readers]}


def _print_table(shown: list[SegmentInfo]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("QUEUE", "SEGMENT", "WRITER"):
        table.add_column(heading, no_wrap=True)
    for heading in ("READERS", "DEPTH", "QUEUED", "SENT", "MEMORY"):
        table.add_column(heading, justify="right", no_wrap=True)
    for info in shown:
        name = Text(info.name or "-")
        if info.error is not None:
            table.add_row(name, Text(info.segment), "unreadable")
            continue
        alive = sum(reader.alive for reader in info.readers)
        table.add_row(
            name, Text(info.segment), _writer(info), f"{alive} of {info.n_reader}", str(info.depth),
            str(info.queued), str(info.messages), common.human_bytes(info.memory_bytes),
        )  # fmt: skip
    common.print_table(table)
    for info in shown:
        if info.error is not None:
            click.echo(f"unreadable: {info.error}")


def _writer(info: SegmentInfo) -> str:
    if not info.writer_alive:
        return f"{info.writer_pid} (dead)"
    return f"{info.writer_pid} (closed)" if info.closed else str(info.writer_pid)

"""`ringcast clean`: removes what dead processes of this user have left in shared memory. Never anything alive."""

from __future__ import annotations

import click

from ringcast._sizes import human_bytes
from ringcast.cli import common
from ringcast.instruments.looking import SweptSegment, counted, sweep

HELP = """Remove the queues, pools and desks of links that dead processes have left in shared memory.

Only segments that ringcast made, of this user, whose writer the kernel says is gone; of a pool, whose server and
clients all are. Readers that have attached to such a queue keep it and still get everything that was sent. A pool that
is to be kept is left to `ringcast pool rm`. Making a queue does the same, so this is for when none is made.
"""

EPILOG = f"""\b
Example: what would be removed
  ringcast clean --dry-run

{common.EXIT_CODES}
"""

_FATES = {
    "dead": "would be removed",
    "removed": "removed",
    "removing": "another process is removing it",
    "kept": "to be kept: ringcast pool rm removes it",
}


@click.command("clean", help=HELP, epilog=EPILOG, short_help="Remove what dead processes have left.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def command(dry_run: bool) -> None:
    found = sweep(dry_run)
    shown = [one for one in found if one.fate != "alive"]
    if shown:
        _print_table(shown)
    gone = [one for one in shown if one.fate in ("dead", "removed")]
    size = human_bytes(sum(one.memory_bytes for one in gone))
    alive = [one for one in found if one.fate == "alive"]
    left = f" {counted(alive)} in use left alone." if alive else ""
    if not gone:
        click.echo(f"Nothing to remove.{left}")
    else:
        click.echo(f"{'Would remove' if dry_run else 'Removed'} {counted(gone)}, {size}.{left}")


def _print_table(shown: list[SweptSegment]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "SEGMENT", "WRITER"):
        table.add_column(heading, no_wrap=True)
    table.add_column("MEMORY", justify="right", no_wrap=True)
    table.add_column("WHAT")
    for one in shown:
        writer = f"{one.writer_pid} (dead)" if one.writer_pid else "dead" if one.dead or one.fate == "kept" else "-"
        what = _FATES.get(one.fate) or f"left alone: {one.reason}"
        table.add_row(Text(one.name or "-"), Text(one.segment), writer, human_bytes(one.memory_bytes), Text(what))
    common.print_table(table)

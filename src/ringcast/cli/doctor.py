"""`ringcast doctor`: looks whether this machine gives ringcast what it needs, and says what to do where it does not."""

from __future__ import annotations

import json

import click

from ringcast.cli import common
from ringcast.instruments.doctor import Check, examine

HELP = """Check what ringcast needs of this machine.

Looks at the size of shared memory, the limits of this process and its container, and what dead processes have left;
tries the system calls that queues use; and makes one queue. Changes nothing. The exit code is 1 if there is a problem;
warnings alone end with 0.
"""

EPILOG = f"""\b
Example: in a container, before the work starts
  ringcast doctor || exit

{common.EXIT_CODES}
"""

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command("doctor", help=HELP, epilog=EPILOG, short_help="Check what ringcast needs of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON array: subject, status, found, remedy.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    checks = list(examine())
    problems, warnings = (sum(check.status == status for check in checks) for status in ("problem", "warning"))
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        _print_table(checks)
        click.echo(_verdict(problems, warnings))
    if problems:
        context.exit(common.EXIT_FAILURE)


def _verdict(problems: int, warnings: int) -> str:
    found = [_count(problems, "problem")] * (problems > 0) + [_count(warnings, "warning")] * (warnings > 0)
    return f"{' and '.join(found)}." if found else "All is well."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_table(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for check in checks:
        table.add_row(Text(check.status, _STYLES[check.status]), check.subject, Text(check.found))
        if check.remedy:
            table.add_row("", "", Text(f"-> {check.remedy}", "italic"))
    common.print_table(table)

"""What the commands share: exit codes, the error they raise, option types, byte streams, notes and progress.

Imports click, and nothing else that is not there anyway; rich is imported by the function that draws something.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

from ringcast import _sizes
from ringcast._arguments import INT32_MAX
from ringcast.errors import ArgumentError

if TYPE_CHECKING:
    from rich.console import RenderableType

    FloatType: TypeAlias = click.ParamType[float]
    IntType: TypeAlias = click.ParamType[int]
else:
    FloatType = IntType = click.ParamType  # generic in the latest releases only

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2  # as click has it
EXIT_TIMEOUT = 124  # as timeout(1) has it
EXIT_INTERRUPTED = 130  # as a shell reports a program ended by Ctrl-C

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage, 124 a --timeout ran out, "
    "130 interrupted with Ctrl-C."
)


class CommandError(Exception):
    """A command cannot do what it was asked; its message is the one line that the user sees."""


class Group(click.Group):
    """Commands in their own order; who misspells one is told the nearest, or which there are."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if not ctx.resilient_parsing and not args[0].startswith("-") and args[0] not in names:
            near = get_close_matches(args[0], names, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(names)}."
            raise click.UsageError(f"No such command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


def require_command(context: click.Context) -> None:
    """In a group's own function: refuse to be called without one of its commands."""
    group = context.command
    assert isinstance(group, Group)
    if context.invoked_subcommand is None:
        raise click.UsageError(f"Which command? There are {', '.join(group.list_commands(context))}.", context)


class Seconds(FloatType):
    """An option's type: a finite number of seconds from `least` to `most`. NaN and infinities are refused."""

    name = "seconds"

    def __init__(self, least: float = 0, most: float = math.inf) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or not self._least <= number <= self._most:
            bounds = f"{self._least:g} or more" if self._most == math.inf else f"{self._least:g} to {self._most:g}"
            self.fail(f"{value!r} is not allowed; give a finite number of seconds, {bounds}.", param, ctx)
        return number


class Whole(IntType):
    """An option's type: a whole number from `least` to `most`."""

    name = "count"

    def __init__(self, least: int, most: int = INT32_MAX) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = self._least - 1
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not allowed; give a whole number from {self._least} to {self._most}.", param, ctx)
        return number


def byte_size(text: str | int) -> int:
    """An option's type: a number of bytes, with or without a binary unit: 4096, 64KiB, 1.5G."""
    try:
        return _sizes.byte_size("a size", text)
    except ArgumentError:
        raise click.BadParameter(f"{text!r} is not a size; write 4096, 64KiB or 1MiB.") from None


def binary_stdin() -> io.BufferedReader:
    """The standard input as bytes."""
    if sys.stdin is None:
        raise CommandError("the standard input is closed: there is nothing to publish")
    return io.BufferedReader(io.FileIO(sys.stdin.fileno(), "rb", closefd=False))


def binary_stdout() -> IO[bytes]:
    """The standard output as bytes."""
    if sys.stdout is None:
        raise CommandError("the standard output is closed: there is nowhere to write to")
    return sys.stdout.buffer


def let_every_character_through() -> None:
    """What the standard output's encoding lacks (µ, where it is ASCII) is written as an escape, and no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """The standard output cannot be written any more: send the rest nowhere, or the interpreter complains at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def on_terminal() -> bool:
    """Whether a person sees the standard error now."""
    return sys.stderr is not None and sys.stderr.isatty()


def note(text: str) -> None:
    """A line for a person who watches; silent where the standard error goes to a file or a pipe."""
    if on_terminal():
        click.echo(text, err=True)


@contextmanager
def progress(description: str, total: int | None, *, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A bar on the standard error if that is a terminal; yields the function that moves it on by so many steps.

    With `unit="B"` the steps are bytes. There is no bar if `total` is None: nobody knows where the work ends.
    """
    if total is None or not on_terminal():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    count: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
    columns = [TextColumn("{task.description}"), BarColumn(), *count, TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


def watch(seconds: float, look: Callable[[], list[RenderableType]]) -> NoReturn:
    """Draw what `look` returns, each time anew, until Ctrl-C; on a terminal in place, else one below the other."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        while True:
            for part in look():
                print_table(part)
            click.echo()
            time.sleep(seconds)
    with Live(Group(*look()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(Group(*look()), refresh=True)


def some(count: int, one: str) -> str:
    """So many of them: "1 chunk", "2 chunks"."""
    return f"{count} {one}{'' if count == 1 else 's'}"


def plain(line: str) -> RenderableType:
    """A line as it is: no markup, no colours."""
    from rich.text import Text

    return Text(line, overflow="fold")


def print_table(table: RenderableType) -> None:
    """Print to the standard output: as wide as the terminal, or, where a program reads it, as the content is wide."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 1000
    console.print(table)

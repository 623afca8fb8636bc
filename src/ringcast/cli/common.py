"""What the commands share: exit codes, the error they raise, option types, byte streams, notes and progress.

Imports click, and nothing else that is not there anyway; rich is imported by the function that draws something.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import click

from ringcast._arguments import INT32_MAX, INT64_MAX

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


_SIZE = re.compile(r"(\d+)\s*([kmg])?(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def byte_size(text: str | int) -> int:
    """An option's type: a number of bytes, with or without a binary unit: 4096, 64KiB, 1M."""
    match = _SIZE.fullmatch(str(text).strip())
    size = int(match[1]) * _UNITS[(match[2] or "").lower()] if match else 0
    if not 0 < size <= INT64_MAX:
        raise click.BadParameter(f"{text!r} is not a size; write 4096, 64KiB or 1MiB.")
    return size


def human_bytes(count: float) -> str:
    """`count` bytes in binary units, three digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


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

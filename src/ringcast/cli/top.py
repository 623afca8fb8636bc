"""`ringcast top`: what all queues, worker groups, links and pools of this user do now, on a whole screen."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ringcast.cli import common, top_view
from ringcast.cli.top_view import Line
from ringcast.instruments.overview import Observer, Overview

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

GLANCES_S = 1.0
MOST_BLOCKED = 5

HELP = """Show what all queues, worker groups, links and pools of this user do, live, and who blocks whom.

Takes no seat, stores nothing in shared memory, and asks no process anything: what it looks at runs as if it were not
there. RATE is in messages a second, SLOWEST the reader that has most unread, LOST the wake-ups that readers should have
had and did not. WAITS is the part of the time, of that looked at, in which an end was seen asleep, and for what: a
writer for "room" (a reader has not read), "memory" (views hold it), "readers" (who have not come) or "delivery", a
reader for a "message". CPU is of one core; SLEEPS/S how often a process gave up its core to wait.

\b
Keys: up, down or k, j  choose a row       enter  open it, escape  close it
      s  sort by another column, r  the other way round
      /  show only rows with some text in them, escape  all again
      space  freeze, and go on             q  quit
"""

EPILOG = f"""\b
Example: which process holds others up, now
  ringcast top --once --json | jq -r '.blocked[] | "\\(.holder_pid) \\(.reason)"'

{common.EXIT_CODES}
"""


@click.command("top", help=HELP, epilog=EPILOG, short_help="Show what everything does, live, and who blocks whom.")
@click.option("--once", is_flag=True, help="Look for one interval, print what there is, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: write JSON, of ringcast.instruments.Overview.")
@click.option(
    "--interval", type=common.Seconds(0.1), show_default="3, or 0.5 with --once", help="Look again after so long."
)
@click.option("--sort", type=click.Choice(top_view.SORTS), default="blocked", show_default=True, help="Of queues.")
@click.option("--filter", "text", default="", metavar="TEXT", help="Show only rows that have it in them.")
def command(*, once: bool, as_json: bool, interval: float | None, sort: str, text: str) -> None:
    if as_json and not once:
        raise click.UsageError("--json goes with --once: call top --once --json as often as you like.")
    if once:
        overview = _once(Observer(), 0.5 if interval is None else interval)
        if as_json:
            click.echo(json.dumps(overview, indent=2))
            return
        _print(overview, sort, text)
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal, for its keys: elsewhere there is top --once, and --once --json.")
    Screen(3.0 if interval is None else interval, sort, text).run()


def _once(observer: Observer, interval: float) -> Overview:
    """Two looks, so that there are rates, and glances between."""
    observer.look()
    end = time.monotonic() + interval
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, interval / 10))
        observer.glance()
    return observer.look()


def _print(overview: Overview, sort: str, text: str) -> None:
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else None
    lines = [
        Line(top_view.summary(overview), top_view.summary_style(overview)),
        *top_view.blocked_lines(overview["blocked"]),
        Line(""),
        *top_view.rows(overview, width, text, sort, False),
    ]
    for line in lines:
        click.secho(line.text, bold="bold" in line.style, fg="red" if "red" in line.style else None)


class Screen:
    """The live screen: looks, draws, and does what keys say."""

    def __init__(self, interval: float, sort: str, text: str) -> None:
        self._interval = interval
        self._sort = sort
        self._text = text
        self._typing = False
        self._backwards = False
        self._frozen = False
        self._opened: str | None = None
        self._chosen = ""
        self._first = 0
        self._keys: list[str] = []
        self._drawn: list[tuple[str, str]] = []

    def run(self) -> None:
        """Until `q`, Ctrl-C, or the end of the terminal."""
        from rich.console import Console

        from ringcast.cli.keyboard import Keyboard

        console = Console(highlight=False, markup=False)
        observer = Observer()
        self._overview = observer.look()
        # The first rates come soon.
        next_look = time.monotonic() + min(self._interval, 0.5)
        with Keyboard() as keyboard, _whole_screen(console):
            drawn: object = None
            while True:
                if drawn != (now := (console.size, self._overview["at_ns"])):
                    drawn = now
                    self._draw(console)
                try:
                    key = keyboard.key(min(next_look, time.monotonic() + GLANCES_S))
                except (EOFError, OSError):
                    return
                if key is not None:
                    if not self._press(key):
                        return
                    drawn = None
                    if key == " ":
                        next_look = time.monotonic()
                elif self._frozen or time.monotonic() < next_look:
                    observer.glance()
                    if self._frozen:
                        next_look = time.monotonic() + GLANCES_S
                else:
                    self._overview = observer.look()
                    next_look = time.monotonic() + self._interval

    def _press(self, key: str) -> bool:
        """False: end."""
        if self._typing:
            if key in ("enter", "escape"):
                self._typing = False
                self._text = self._text if key == "enter" else ""
            elif key == "backspace":
                self._text = self._text[:-1]
            elif len(key) == 1 and key.isprintable():
                self._text += key
            return True
        if key == "q":
            return False
        if key == " ":
            self._frozen = not self._frozen
        elif key == "s":
            self._sort = top_view.SORTS[(top_view.SORTS.index(self._sort) + 1) % len(top_view.SORTS)]
        elif key == "r":
            self._backwards = not self._backwards
        elif key == "/":
            self._typing, self._text, self._opened = True, "", None
        elif key == "enter" and self._opened is None:
            self._opened = self._chosen or (self._keys[0] if self._keys else None)
        elif key in ("escape", "backspace", "enter"):
            self._opened, self._text = None, self._text if self._opened is not None else ""
        elif key in _STEPS:
            self._step(_STEPS[key])
        return True

    def _step(self, by: int) -> None:
        keys = self._keys
        if keys:
            at = keys.index(self._chosen) + by if self._chosen in keys else 0
            self._chosen = keys[max(0, min(at, len(keys) - 1))]
            if self._opened is not None:
                self._opened = self._chosen

    def _draw(self, console: Console) -> None:
        width, height = console.size
        lines = self._lines(width, height)
        if lines == self._drawn:
            return
        self._drawn = lines
        from rich.control import Control
        from rich.segment import ControlType, Segment, Segments
        from rich.style import Style

        parts = []
        for i, (text, style) in enumerate(lines):
            parts.append(Segment(text[:width].ljust(width), Style.parse(style) if style else None))
            if i < len(lines) - 1:
                parts.append(Segment.line())
        console.control(Control((ControlType.CURSOR_MOVE_TO, 0, 0)))
        console.print(Segments(parts), end="", soft_wrap=True)

    def _lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """As many as the screen has."""
        overview = self._overview
        when = time.strftime("%H:%M:%S", time.localtime(overview["at_ns"] / 1e9))
        state = "frozen" if self._frozen else f"every {self._interval:g} s"
        lines = [(f"ringcast top  {when}  {state}   {top_view.summary(overview)}", top_view.summary_style(overview))]
        detail = None if self._opened is None else top_view.opened(overview, self._opened, width)
        table = top_view.rows(overview, width, self._text, self._sort, self._backwards)
        self._keys = [line.key for line in table if line.key]
        if self._chosen not in self._keys:
            self._chosen = self._keys[0] if self._keys else ""
        if self._opened is not None:
            body = detail if detail is not None else [Line("It is gone. Press escape.")]
        else:
            lines += [(line.text, line.style) for line in top_view.blocked_lines(overview["blocked"], MOST_BLOCKED)]
            body = table
        lines.append(("", top_view.PLAIN))
        room = max(1, height - len(lines) - 1)
        lines += self._window(body, room)
        lines += [("", top_view.PLAIN)] * (height - len(lines) - 1)
        return [*lines[: height - 1], (self._foot(), top_view.CHOSEN)]

    def _window(self, body: list[Line], room: int) -> list[tuple[str, str]]:
        """What there is room for, with the chosen row in it."""
        at = next((i for i, line in enumerate(body) if line.key and line.key == self._chosen), 0)
        first = min(self._first, max(0, len(body) - room))
        if at < first + 1:
            first = max(0, at - 1)
        elif at >= first + room:
            first = at - room + 1
        self._first = first
        return [
            (line.text, top_view.CHOSEN if line.key and line.key == self._chosen else line.style)
            for line in body[first : first + room]
        ]

    def _foot(self) -> str:
        if self._typing:
            return f"only rows with: {self._text}_   (enter keeps it, escape shows all)"
        shown = f"only rows with {self._text!r}   " if self._text else ""
        way = ", backwards" if self._backwards else ""
        return f"{shown}q quit   s sort ({self._sort}{way})   r reverse   / filter   space freeze   enter open"


_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -20, "page down": 20}


@contextmanager
def _whole_screen(console: Console) -> Iterator[None]:
    console.set_alt_screen(True)
    console.show_cursor(False)
    try:
        yield
    finally:
        console.show_cursor(True)
        console.set_alt_screen(False)

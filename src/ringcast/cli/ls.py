"""`ringcast ls`: the queues of this machine, or one in detail. Looks only: takes no seat, blocks nobody.

On a terminal the first columns are what one looks for, and a further one is there only if the whole table still fits,
so that no number is ever cut. Where a program reads the table it has every column.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, TypeAlias

import click
from click.shell_completion import CompletionItem

from ringcast import _core
from ringcast._names import POOL_PREFIX, suffix
from ringcast._sizes import human_bytes
from ringcast._stats import QueueInfo, ReaderStats, StreamStats
from ringcast.cli import common
from ringcast.instruments.looking import Found, list_queues, sweep

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

REDRAW_SECONDS = 1.0
_WORDS = {
    "QUEUE", "WRITER", "SEGMENT", "STATE", "PROCESS", "HOST", "STREAM TO", "STREAM FROM", "RANKS", "ENCRYPTED",
}  # fmt: skip
"""Headings of columns that are no numbers."""
_WAITS: dict[str, Literal["parks", "rescued_wakes"]] = {"PARKS": "parks", "RESCUED": "rescued_wakes"}
Columns: TypeAlias = "list[tuple[str, list[str]]]"
"""Headings and cells."""

HELP = """List the queues of this machine, or show the one called NAME.

QUEUE is the name that programs attach to or, if it has none, its segment in shared memory; READERS how many of those
that there is room for live; QUEUED the messages that the slowest has not read; WRITER its pid, marked if that is dead
or stopped, or if the queue is closed; and its host, if a link brings the queue here from another machine. A wide
terminal shows more, a pipe everything. Queues whose writer is gone, and segments that cannot be read, are shown with
--all.

NAME may be a segment, too. Each of its readers is a line, wherever it is, and so is each stream to or from another
machine: UNDER WAY is how many messages have not arrived at its other end, OUT and IN are bytes over the wire, and
RECONNECTS is how often it had to connect again. PARKS is how often a reader has slept, RESCUED how many of these sleeps
ended by looking and not by a wake-up: 0. The exit code is 1 if there is no such queue.
"""

EPILOG = f"""\b
Example: the names of all queues that have something waiting
  ringcast ls --json | jq -r '.[] | select(.queued > 0) | .name'

\b
Example: what one queue does, every second until Ctrl-C
  ringcast ls news --watch

{common.EXIT_CODES}
"""


_LEFT_ALONE = "it is not ringcast's to remove, and ringcast clean leaves it to whoever made it"
_WHAT_TO_DO = {
    "alive": "its writer lives: look at it with the release that made it",
    "dead": "its writer is gone: ringcast clean removes it",
    "removing": "another process is removing it",
}
"""By what a sweep makes of it."""


@click.command("ls", help=HELP, epilog=EPILOG, short_help="List the queues of this machine, or show one.")
@click.argument("name", required=False, shell_complete=lambda context, parameter, start: complete_names(start))
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the fields of ringcast.QueueInfo.")
@click.option("--all", "everything", is_flag=True, help="Also queues whose writer is gone, and unreadable segments.")
@click.option("--watch", is_flag=True, help="Look again every second, with rates, until Ctrl-C.")
def command(name: str | None, *, as_json: bool, everything: bool, watch: bool) -> None:
    if as_json and watch:
        raise click.UsageError("--json and --watch do not go together: call ls --json as often as you like.")
    if as_json:
        found = list_queues()
        shown = [*_chosen(found, everything), *(found.unreadable if everything else [])]
        click.echo(json.dumps(named(found, name) if name else shown, indent=2))
    elif watch:
        common.watch(REDRAW_SECONDS, _rates_of(name, everything))
    else:
        for part in _view(list_queues(), name, everything, {}):
            common.print_table(part)


def complete_names(start: str) -> list[CompletionItem]:
    """The names of queues that begin so, for a shell."""
    names = {info["name"] or info["segment"] for info in list_queues().queues}
    return [CompletionItem(one) for one in sorted(names) if one.startswith(start)]


def _rates_of(name: str | None, everything: bool) -> Callable[[], list[RenderableType]]:
    """Looks, and compares with the last look."""
    before: dict[int, tuple[float, int]] = {}

    def look() -> list[RenderableType]:
        found = list_queues()
        now = time.monotonic()
        rates = {
            info["epoch"]: (info["messages"] - sent) / (now - when)
            for info in found.queues
            if (last := before.get(info["epoch"])) is not None
            for when, sent in [last]
        }
        before.clear()
        before.update({info["epoch"]: (now, info["messages"]) for info in found.queues})
        return list(_view(found, name, everything, rates))

    return look


def _chosen(found: Found, everything: bool) -> list[QueueInfo]:
    return [info for info in found.queues if everything or info["writer"]["alive"]]


def named(found: Found, name: str) -> QueueInfo:
    """The queue of that name, a living one first, or of that segment."""
    same = [info for info in found.queues if name in (info["name"], info["segment"])]
    if same:
        return max(same, key=lambda info: (info["writer"]["alive"], info["writer"]["relayed_by"] is None))
    near = get_close_matches(name, [info["name"] or info["segment"] for info in found.queues], 1)
    raise common.CommandError(
        f"there is no queue {name!r}. {f'Did you mean {near[0]!r}?' if near else 'ringcast ls shows those there are.'}"
    )


def _view(found: Found, name: str | None, everything: bool, rates: dict[int, float]) -> Iterator[RenderableType]:
    if name is not None:
        yield from _detail(named(found, name), rates)
        return
    queues = _chosen(found, everything)
    unreadable = found.unreadable if everything else []
    if queues:
        yield _fitting(queues, rates)
    fates = {one.segment: one.fate for one in sweep(dry_run=True)} if unreadable else {}
    for one in unreadable:
        what = _WHAT_TO_DO.get(fates.get(one["segment"], "skipped"), _LEFT_ALONE)
        yield common.plain(f"unreadable: {one['error']}; {what}")
    gone, unread = len(found.queues) - len(queues), len(found.unreadable) - len(unreadable)
    if not queues and not unreadable:
        yield common.plain("No live queues here." if gone or unread else "No queues here.")
    if any(not info["writer"]["alive"] for info in queues):
        yield common.plain("Queues of dead writers are removed by: ringcast clean")
    if gone or unread:
        counts = [(gone, "left over by writers that are gone"), (unread, "that cannot be read")]
        told = ", ".join(f"{count} {what}" for count, what in counts if count)
        yield common.plain(f"{told}: ringcast ls --all")
    if any(segment.endswith(suffix()) for segment in _core.list_names(POOL_PREFIX)):
        yield common.plain("There are pools, too: ringcast pool ls")


def _fitting(queues: list[QueueInfo], rates: dict[int, float]) -> Table:
    columns: Columns = [
        ("QUEUE", [info["name"] or info["segment"] for info in queues]),
        ("READERS", [f"{_alive(info)} of {info['n_reader']}" for info in queues]),
        ("QUEUED", [str(info["queued"]) for info in queues]),
        ("WRITER", [_writer(info) for info in queues]),
        *([("RATE", [_rate(info, rates) for info in queues])] if rates else []),
        ("DEPTH", [str(info["depth"]) for info in queues]),
        ("SENT", [str(info["messages"]) for info in queues]),
        ("MEMORY", [human_bytes(_memory(info)) for info in queues]),
        ("SEGMENT", [info["segment"] for info in queues]),
    ]
    return _table(_fitted(columns, least=4, shortened=0))


def _fitted(columns: Columns, least: int, shortened: int) -> Columns:
    """As many of the columns as fit the terminal, at least `least`; words of one are shortened, no number ever is."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        while len(columns) > least and _width(columns) > console.width:
            columns.pop()
        heading, cells = columns[shortened]
        room = max(8, console.width - _width([*columns[:shortened], *columns[shortened + 1 :]]) - 2)
        columns[shortened] = (
            heading,
            [one if len(one) <= room else one[: room - 1] + "\N{HORIZONTAL ELLIPSIS}" for one in cells],
        )
    return columns


def _width(columns: Columns) -> int:
    return sum(max(map(len, [heading, *cells])) + 2 for heading, cells in columns) - 2


def _table(columns: Columns) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, _ in columns:
        words = heading in _WORDS
        table.add_column(heading, justify="left" if words else "right", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _detail(info: QueueInfo, rates: dict[int, float]) -> Iterator[RenderableType]:
    rate = f" ({_rate(info, rates)})" if info["epoch"] in rates else ""
    yield common.plain(f"queue    {info['name'] or 'without a name'}")
    yield common.plain(f"segment  {info['segment']}")
    yield common.plain(f"writer   {_writer(info)}")
    if relay := info["writer"]["relayed_by"]:
        yield common.plain(f"relayed  by the link here, pid {relay['pid']} ({relay['process']})")
    yield common.plain(f"sent     {info['messages']} messages, {human_bytes(info['bytes'])}{rate}")
    yield common.plain(f"queued   {info['queued']} of {info['depth']}")
    yield common.plain(f"memory   {human_bytes(_memory(info))}")
    awaited = f", {info['expected_elsewhere']} to come from other machines" if info["expected_elsewhere"] else ""
    yield common.plain(f"readers  {_alive(info)} of {info['n_reader']}{awaited}")
    if readers := info["readers"]:
        elsewhere = any(reader["host"] for reader in readers)
        columns: Columns = [
            ("RANK", [str(reader["rank"]) for reader in readers]),
            *([("HOST", [reader["host"] or "-" for reader in readers])] if elsewhere else []),
            ("PID", [str(reader["pid"] or "-") for reader in readers]),
            ("STATE", [reader["state"] for reader in readers]),
            ("BEHIND", [str(reader["behind"]) for reader in readers]),
            ("VIEWS", ["-" if reader["host"] else str(reader["leased_blocks"]) for reader in readers]),
            ("HELD", ["-" if reader["host"] else human_bytes(reader["leased_bytes"]) for reader in readers]),
            *((heading, [_waited(reader, what) for reader in readers]) for heading, what in _WAITS.items()),
            ("PROCESS", [reader["process"] for reader in readers]),
        ]
        yield _table(_fitted(columns, least=5, shortened=1) if elsewhere else columns)
    if links := info["links"]:
        yield common.plain("")
        yield _streams("STREAM TO", links, [link["host"] for link in links], [
            ("RANKS", [" ".join(map(str, link["ranks"])) or "-" for link in links]),
        ])  # fmt: skip
    if relay := info["writer"]["relayed_by"]:
        yield common.plain("")
        yield _streams("STREAM FROM", [relay], [info["writer"]["host"]], [])


def _waited(reader: ReaderStats, what: Literal["parks", "rescued_wakes"]) -> str:
    return str(reader["waits"][what]) if reader["waits"] else "-"


def _streams(heading: str, streams: Sequence[StreamStats], hosts: list[str | None], more: Columns) -> Table:
    columns: Columns = [
        (heading, [host or "-" for host in hosts]),
        ("PID", [str(stream["pid"]) for stream in streams]),
        ("STATE", [_stream_state(stream) for stream in streams]),
        ("UNDER WAY", [str(stream["under_way"]) for stream in streams]),
        ("OUT", [human_bytes(stream["bytes_sent"]) for stream in streams]),
        ("IN", [human_bytes(stream["bytes_received"]) for stream in streams]),
        ("RECONNECTS", [str(stream["reconnects"]) for stream in streams]),
        ("ENCRYPTED", ["yes" if stream["encrypted"] else "no" for stream in streams]),
        *more,
        ("PROCESS", [stream["process"] for stream in streams]),
    ]
    return _table(_fitted(columns, least=4, shortened=0))


def _stream_state(stream: StreamStats) -> str:
    """Of one that is there, for how long it is out of reach; else what has become of it."""
    state = stream.get("state", "active" if stream["alive"] else "dead")
    cut_s = stream["out_of_reach_s"]
    return f"cut for {cut_s:.0f} s" if state == "active" and cut_s is not None else str(state)


def _alive(info: QueueInfo) -> int:
    return sum(reader["alive"] for reader in info["readers"])


def _memory(info: QueueInfo) -> int:
    return info["memory"]["control"] + info["memory"]["data_committed"]


def _rate(info: QueueInfo, rates: dict[int, float]) -> str:
    return f"{rates[info['epoch']]:.0f}/s" if info["epoch"] in rates else "-"


def _writer(info: QueueInfo) -> str:
    writer = info["writer"]
    relay = writer["relayed_by"]
    if relay is not None:
        end = "closed" if info["closed"] and writer["alive"] else "dead" if not writer["alive"] else ""
        return f"{writer['pid']} on {writer['host']}{f' ({end})' if end else ''}"
    marks = ["dead"] if not writer["alive"] else ["stopped"] if writer["process"] == "stopped" else []
    if info["closed"] and writer["alive"]:
        marks.append("closed")
    return f"{writer['pid']} ({', '.join(marks)})" if marks else str(writer["pid"])

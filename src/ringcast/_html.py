"""What notebooks show of queues, groups and clients: a line of facts and a table, in plain HTML, without colours.

A notebook calls `_repr_html_` of the object that a cell ends with, wherever that object may be by then: so nothing
here raises, waits, or sends anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ringcast._sizes import human_bytes

if TYPE_CHECKING:
    from ringcast._stats import QueueStats

Record = TypeVar("Record", bound=Mapping[str, Any])


class Shown(dict[str, Any]):
    """A record of statistics: a dict, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        if "readers" in self:
            return queue(self["name"] or self["segment"], cast("QueueStats", self))
        return ranks("Worker group", self)


def shown(record: Record) -> Record:
    """The same record, with a picture of itself for notebooks."""
    return cast("Record", Shown(record))


def queue(title: str, stats: QueueStats) -> str:
    """An end's queue: what is in it, what it takes, and each of its readers."""
    memory, writer = stats["memory"], stats["writer"]
    facts = {
        "this end": stats["role"] if stats["rank"] is None else f"{stats['role']} of rank {stats['rank']}",
        "messages": f"{stats['messages']:,}",
        "queued": f"{stats['queued']} of {stats['depth']}",
        "large messages": f"{human_bytes(memory['data_used'])} of {human_bytes(memory['data_budget'])}",
        "writer": f"pid {writer['pid']}, {writer['process'] if writer['alive'] else 'dead'}",
        "closed": "yes" if stats["closed"] else "no",
    }
    rows = [
        (
            reader["rank"], reader["host"] or "", reader["pid"] or "", reader["state"], reader["process"],
            reader["behind"], human_bytes(reader["leased_bytes"]) if reader["leased_blocks"] else "",
        )
        for reader in stats["readers"]
    ]  # fmt: skip
    return page(title, facts, ("rank", "host", "pid", "state", "process", "behind", "views hold"), rows)


def ranks(title: str, stats: Mapping[str, Any]) -> str:
    """A worker group's ranks: how many calls each has answered, and how long they took."""
    rows = [
        (
            rank["rank"], rank["pid"], "alive" if rank["alive"] else "ended", rank["answers"], rank["under_way"],
            _ms(rank["latency_p50"]), _ms(rank["latency_p99"]), _ms(rank["behind_p50"]), f"{rank['slowest']:.0%}",
        )
        for rank in stats["ranks"]
    ]  # fmt: skip
    columns = ("rank", "pid", "", "answers", "under way", "p50", "p99", "behind the first", "slowest")
    return page(title, {"calls under way": stats["under_way"]}, columns, rows)


def page(
    title: str, facts: Mapping[str, object], columns: Sequence[str] = (), rows: Iterable[Sequence[object]] = ()
) -> str:
    """A title, facts behind their names, and a table."""
    told = " · ".join(f"{_text(name)}: <b>{_text(value)}</b>" for name, value in facts.items())
    lines = ["<div>", f"<div><code>{_text(title)}</code></div>"]
    if told:
        lines.append(f"<div>{told}</div>")
    body = [f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows]
    if body:
        heads = "".join(f"<th>{_text(name)}</th>" for name in columns)
        lines.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>")
    return "".join([*lines, "</div>"])


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.2f} ms"


def _text(value: object) -> str:
    import html  # rarely needed

    return html.escape(str(value))

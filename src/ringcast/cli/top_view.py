"""What `ringcast top` shows: lines of text with a style each, made of an overview; nothing here looks or draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ringcast._sizes import human_bytes
from ringcast._stats import WaitStats
from ringcast.instruments.blocking import Blocked
from ringcast.instruments.groups import GroupView
from ringcast.instruments.overview import LinkView, Overview, PoolView
from ringcast.instruments.processes import ProcessStats
from ringcast.instruments.watched import EndView, QueueView, ends_of, rescued_wakes

SORTS = ("blocked", "rate", "queued", "memory", "cpu", "name")
PLAIN, BOLD, FAINT, ALARM, BAD, CHOSEN = "", "bold", "dim", "bold red", "red", "reverse"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_WIDEST_NAME = 40


class Line(NamedTuple):
    """A line of the screen. `key` is that of the row which it shows, empty if it shows none."""

    text: str
    style: str = PLAIN
    key: str = ""


class _Row(NamedTuple):
    key: str
    cells: tuple[str, ...]
    style: str = PLAIN


class _Section(NamedTuple):
    headings: tuple[str, ...]
    """Those of words end in a space: they are flush left."""
    rows: list[_Row]


def summary(overview: Overview) -> str:
    """All of it in a line."""
    queues = overview["queues"]
    rate = sum(one["rate"] or 0.0 for one in queues)
    memory = sum(_memory(one) for one in queues) + sum(pool["capacity"] for pool in overview["pools"])
    counts = [
        f"{len(found)} {what}{'' if len(found) == 1 else 's'}"
        for what, found in (
            ("queue", queues), ("group", overview["groups"]), ("link", overview["links"]), ("pool", overview["pools"]),
        )
    ]  # fmt: skip
    lost, rescued = overview["lost_wakeups"], overview["rescued_wakes"]
    return (
        f"{', '.join(counts)}   {number(rate)} messages/s   {human_bytes(memory)}   "
        f"{len(overview['blocked'])} blocked   {lost} lost wake-up{'' if lost == 1 else 's'}"
        f"{f', {rescued} rescued' if rescued else ''}"
    )


def summary_style(overview: Overview) -> str:
    """Of that line."""
    return ALARM if overview["lost_wakeups"] or overview["rescued_wakes"] else BOLD


def blocked_lines(blocked: Sequence[Blocked], most: int | None = None) -> Iterator[Line]:
    """Who blocks whom, and why."""
    shown = blocked if most is None or len(blocked) <= most else blocked[: most - 1]
    for one in shown:
        yield Line(
            f"BLOCKED  {one['queue']}: {one['waiter']} waits for {one['holder']}, which {one['reason']} "
            f"({one['seconds']:.0f} s)",
            ALARM,
        )
    if len(shown) < len(blocked):
        yield Line(f"BLOCKED  and {len(blocked) - len(shown)} more", ALARM)


def rows(overview: Overview, width: int | None, text: str, sort: str, backwards: bool) -> list[Line]:
    """All sections, those rows that have `text` in them, as wide as `width` (None: as wide as they are)."""
    lines: list[Line] = []
    cpu = {one["pid"]: one["cpu"] for one in overview["processes"]}
    for section in (
        _queues(overview, cpu, sort, backwards),
        _groups(overview["groups"], cpu),
        _links(overview["links"]),
        _pools(overview["pools"], cpu),
        _processes(overview["processes"], sort, backwards),
    ):
        kept = [row for row in section.rows if text.lower() in " ".join(row.cells).lower()]
        if kept:
            lines += [*([Line("")] if lines else []), *_table(section._replace(rows=kept), width)]
    if not lines:
        lines.append(Line(f"Nothing here has {text!r} in it." if text else "No queues, groups, links or pools here."))
    lines += [Line(f"unreadable: {one}", FAINT) for one in overview["unreadable"]]
    return lines


def _table(section: _Section, width: int | None) -> Iterator[Line]:
    """Headings and rows; a narrow screen has the first columns, and names shortened before any number is left out."""
    names = [row.cells[0] for row in section.rows]
    widths = [
        max(len(heading.strip()), *(len(row.cells[i]) for row in section.rows))
        for i, heading in enumerate(section.headings)
    ]
    if width is not None:
        widths[0] = min(widths[0], _WIDEST_NAME)
        while len(widths) > 2 and sum(widths) + 2 * (len(widths) - 1) > width:
            last = len(widths) - 1
            if section.headings[last].endswith(" ") and (room := width - sum(widths[:last]) - 2 * last) >= 12:
                widths[last] = room
            elif widths[0] > 16:
                widths[0] = max(16, widths[0] - (sum(widths) + 2 * last - width))
            else:
                widths.pop()
        names = [_cut(name, widths[0]) for name in names]

    def line(cells: Sequence[str]) -> str:
        parts = [
            _cut(cell, room).ljust(room) if heading.endswith(" ") else cell.rjust(room)
            for cell, room, heading in zip(cells, widths, section.headings, strict=False)
        ]
        return "  ".join(parts).rstrip()

    yield Line(line([heading.strip() for heading in section.headings]), BOLD)
    for name, row in zip(names, section.rows, strict=True):
        yield Line(line([name, *row.cells[1:]]), row.style, row.key)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + _ELLIPSIS


def _queues(overview: Overview, cpu: dict[int, float | None], sort: str, backwards: bool) -> _Section:
    orders: dict[str, Callable[[QueueView], object]] = {
        "blocked": lambda queue: (-len(queue["blocked"]), -(queue["rate"] or 0.0)),
        "rate": lambda queue: -(queue["rate"] or 0.0),
        "queued": lambda queue: -queue["queued"],
        "memory": lambda queue: -_memory(queue),
        "cpu": lambda queue: -(_cpu_of(queue, cpu) or 0.0),
        "name": lambda queue: (queue["name"] is None, queue["name"] or queue["segment"]),
    }
    order: Callable[[QueueView], object] = orders[sort]
    headings = (
        "QUEUE ", "RATE", "BYTES/S", "QUEUED", "DEPTH", "READERS", "SLOWEST ", "WRITER ", "LOST", "MEMORY", "CPU",
        "WAITS ",
    )  # fmt: skip
    found = sorted(overview["queues"], key=order, reverse=backwards)  # type: ignore[arg-type]
    names = {
        segment: f"{'answers to' if i else 'calls of'} {group['pid']}"
        for group in overview["groups"]
        for i, segment in enumerate(group["segments"])
    }
    return _Section(headings, [
        _Row(
            f"queue {queue['epoch']}",
            (
                queue["name"] or names.get(queue["segment"], queue["segment"]), _rate(queue["rate"]),
                _byte_rate(queue["byte_rate"]), str(queue["queued"]), str(queue["depth"]),
                f"{_alive(queue)}/{queue['n_reader']}", _slowest(queue),
                _writer(queue), str(queue["lost_wakeups"]), human_bytes(_memory(queue)), _cpu(_cpu_of(queue, cpu)),
                _waits(queue),
            ),
            BAD if queue["blocked"] or rescued_wakes(queue) else FAINT if not queue["writer"]["alive"] else PLAIN,
        )
        for queue in found
    ])  # fmt: skip


def _groups(groups: Sequence[GroupView], cpu: dict[int, float | None]) -> _Section:
    headings = ("WORKER GROUP ", "CALLS/S", "CALLS", "WORKERS", "BEHIND", "UNREAD", "CPU", "SLOWEST ")
    found = []
    for group in groups:
        workers = group["workers"]
        slowest = max(workers, key=lambda one: one["behind"])
        found.append(_Row(f"group {group['epoch']}", (
            f"of {group['pid']}", _rate(group["rate"]), str(group["calls"]),
            f"{sum(one['alive'] for one in workers)}/{len(workers)}", str(slowest["behind"]),
            str(sum(one["unread_answers"] for one in workers)), _cpu(_sum(cpu.get(one["pid"]) for one in workers)),
            f"rank {slowest['rank']} (pid {slowest['pid']}, {slowest['process']})" if slowest["behind"] else "-",
        ), PLAIN if all(one["process"] not in ("stopped", "gone") for one in workers) else BAD))  # fmt: skip
    return _Section(headings, found)


def _links(links: Sequence[LinkView]) -> _Section:
    headings = ("LINK ", "OUT/S", "IN/S", "UNDER WAY", "RECONNECTS", "PID", "STATE ")
    return _Section(headings, [
        _Row("", (
            f"{link['queue']} {link['way']} {link['host'] or 'another machine'}", _byte_rate(link["send_rate"]),
            _byte_rate(link["receive_rate"]), str(link["under_way"]), str(link["reconnects"]), str(link["pid"]),
            _link_state(link),
        ), BAD if _link_state(link) != "up" else PLAIN)
        for link in links
    ])  # fmt: skip


def _link_state(link: LinkView) -> str:
    if not link["alive"]:
        return "dead"
    cut_s = link["out_of_reach_s"]
    return "stopped" if link["process"] == "stopped" else "up" if cut_s is None else f"cut for {cut_s:.0f} s"


def _pools(pools: Sequence[PoolView], cpu: dict[int, float | None]) -> _Section:
    headings = (
        "POOL ", "LOOKUPS/S", "FOUND", "HITS/S", "STORED/S", "EVICTED/S", "USED", "OF", "CHUNKS", "CLIENTS", "CPU",
        "SERVER ",
    )  # fmt: skip
    return _Section(headings, [
        _Row(f"pool {pool['name']}", (
            pool["name"], _rate(pool["rates"].get("lookups")), _share(pool["keys_found"], pool["keys_looked_up"]),
            _rate(pool["rates"].get("hits")), _rate(pool["rates"].get("stored")), _rate(pool["rates"].get("evicted")),
            human_bytes(pool["used_bytes"]), human_bytes(pool["capacity"]), str(pool["chunks"]),
            str(sum(client["alive"] for client in pool["clients"])), _cpu(cpu.get(pool["server_pid"])),
            f"{pool['server_pid']} ({pool['server']})",
        ), BAD if pool["blocked"] else FAINT if pool["server"] == "gone" else PLAIN)
        for pool in pools
    ])  # fmt: skip


def _processes(processes: Sequence[ProcessStats], sort: str, backwards: bool) -> _Section:
    headings = ("PROCESS ", "PID", "CPU", "MEMORY", "SLEEPS/S", "STATE ", "FOR ")
    found = sorted(processes, key=lambda one: -(one["cpu"] or 0.0), reverse=backwards and sort == "cpu")
    return _Section(headings, [
        _Row("", (
            one["name"] or "-", str(one["pid"]), _cpu(one["cpu"]),
            "-" if one["resident_bytes"] is None else human_bytes(one["resident_bytes"]), _rate(one["sleeps"]),
            one["state"], _roles(one["roles"]),
        ), BAD if one["state"] in ("stopped", "gone", "dead") else PLAIN)
        for one in found
    ])  # fmt: skip


def _roles(roles: Sequence[str]) -> str:
    return "; ".join(roles[:3]) + (f"; and {len(roles) - 3} more" if len(roles) > 3 else "")


def opened(overview: Overview, key: str, width: int | None) -> list[Line] | None:
    """One queue, group or pool in detail; None: it is gone."""
    kind, _, name = key.partition(" ")
    cpu = {one["pid"]: one["cpu"] for one in overview["processes"]}
    for queue in overview["queues"]:
        if kind == "queue" and name == str(queue["epoch"]):
            return list(_queue(queue, cpu, width))
    for group in overview["groups"]:
        if kind == "group" and name == str(group["epoch"]):
            return list(_group(group, cpu, width))
    for pool in overview["pools"]:
        if kind == "pool" and name == pool["name"]:
            return list(_pool(pool, width))
    return None


def _queue(queue: QueueView, cpu: dict[int, float | None], width: int | None) -> Iterator[Line]:
    yield Line(f"queue    {queue['name'] or 'without a name'}   segment {queue['segment']}", BOLD)
    yield Line(f"writer   {_writer(queue)}   {_waits_of(queue['ends'][0], queue['watched_s']) or 'awake'}")
    yield Line(
        f"sent     {queue['messages']} messages, {human_bytes(queue['bytes'])}   {_rate(queue['rate'])}/s, "
        f"{_byte_rate(queue['byte_rate'])}/s   {queue['oversize']} above {human_bytes(queue['max_chunk_bytes'])}"
    )
    yield Line(f"queued   {queue['queued']} of {queue['depth']}   lost wake-ups {queue['lost_wakeups']}")
    memory = queue["memory"]
    yield Line(
        f"memory   {human_bytes(memory['control'])} ring, {human_bytes(memory['data_committed'])} of "
        f"{human_bytes(memory['data_budget'])} for large messages, {human_bytes(memory['data_used'])} in "
        f"{memory['blocks']} blocks in use"
    )
    yield from blocked_lines(queue["blocked"])
    by_seat = {end["seat"]: end for end in queue["ends"]}
    headings = (
        "RANK", "PID", "BEHIND", "LAG ", "RATE", "SLEEP ", "WAKES", "VIEWS", "HELD", "CPU", "STATE ", "PROCESS ",
        "WAITS ",
    )  # fmt: skip
    found = []
    for reader in queue["readers"]:
        end = by_seat.get(reader["seat"]) if reader["host"] is None else None
        behind = reader["behind"]
        found.append(_Row("", (
            str(reader["rank"]), str(reader["pid"] or "-"), str(behind), _bar(behind, queue["depth"]),
            _rate(end["rate"] if end else None), end["sleep"] if end else "-", str(end["wakes"]) if end else "-",
            str(reader["leased_blocks"]), human_bytes(reader["leased_bytes"]), _cpu(cpu.get(reader["pid"])),
            reader["state"], reader["process"] + (f" on {reader['host']}" if reader["host"] else ""),
            _waits_of(end, queue["watched_s"]) if end else "",
        ), BAD if behind >= queue["depth"] or reader["process"] in ("stopped", "gone") else PLAIN))  # fmt: skip
    if found:
        yield Line("")
        yield from _table(_Section(headings, found), width)
    if counted := list(ends_of(queue)):
        yield Line("")
        yield from _table(_counted(counted), width)


def _counted(ends: list[tuple[str, WaitStats]]) -> _Section:
    """How the waits of each end have ended, by its own count."""
    headings = ("WAITS OF ", "BRIEF", "AWAKE", "PARKED", "PARKS", "RESCUED", "LONG", "WAKE-UP", "VAIN CPU")
    return _Section(headings, [
        _Row("", (
            end, str(waits["brief"]), str(waits["awake"]), str(waits["parked"]), str(waits["parks"]),
            str(waits["rescued_wakes"]), str(waits["long_waits"]),
            "-" if waits["wakeup_s"] is None else f"{1e6 * waits['wakeup_s']:.0f} us", f"{waits['vain_s']:.2f} s",
        ), BAD if waits["rescued_wakes"] else PLAIN)
        for end, waits in ends
    ])  # fmt: skip


def _group(group: GroupView, cpu: dict[int, float | None], width: int | None) -> Iterator[Line]:
    yield Line(f"group    of process {group['pid']}, {len(group['workers'])} workers", BOLD)
    yield Line(f"calls    {group['calls']}   {_rate(group['rate'])}/s")
    yield Line(f"queues   {' '.join(group['segments'])}")
    yield Line("")
    headings = ("RANK", "PID", "BEHIND", "ANSWERS", "UNREAD", "CPU", "PROCESS ")
    yield from _table(_Section(headings, [
        _Row("", (
            str(one["rank"]), str(one["pid"]), str(one["behind"]), str(one["answers"]), str(one["unread_answers"]),
            _cpu(cpu.get(one["pid"])), one["process"],
        ), BAD if one["process"] in ("stopped", "gone") else PLAIN)
        for one in group["workers"]
    ]), width)  # fmt: skip


def _pool(pool: PoolView, width: int | None) -> Iterator[Line]:
    yield Line(f"pool     {pool['name']}   segment {pool['segment']}", BOLD)
    yield Line(f"server   {pool['server_pid']} ({pool['server']}), epoch {pool['epoch']}, policy {pool['policy']}")
    yield Line(
        f"used     {human_bytes(pool['used_bytes'])} of {human_bytes(pool['capacity'])}, {pool['chunks']} chunks"
    )
    yield Line(
        f"gone     {pool['limbo']} in limbo, {pool['quarantined']} quarantined, {pool['reserved']} being stored; "
        f"{pool['evicted']} evicted"
    )
    yield Line(
        f"hits     {_share(pool['keys_found'], pool['keys_looked_up'])} of lookups, "
        f"{_share(pool['hits'], pool['keys_retrieved'])} of retrieves"
    )
    yield from blocked_lines(pool["blocked"])
    if pool["clients"]:
        yield Line("")
        yield from _table(_Section(("CLIENT ", "PID", "PINS", "OLDEST", "LOOKUPS", "RETRIEVES", "HITS"), [
            _Row("", (
                client["worker_id"], str(client["pid"]), str(client["pins"]), f"{client['oldest_pin_s']:.1f} s",
                str(client["lookups"]), str(client["retrieves"]), str(client["hits"]),
            ), PLAIN if client["alive"] else BAD)
            for client in pool["clients"]
        ]), width)  # fmt: skip


def number(count: float) -> str:
    """Four characters or so: 12, 3.4 k, 1.2 M."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit or count >= 100 else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else number(rate)


def _byte_rate(rate: float | None) -> str:
    return "-" if rate is None else human_bytes(rate)


def _cpu(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f} %"


def _share(found: int, wanted: int) -> str:
    return f"{100 * found / wanted:.0f} %" if wanted else "-"


def _bar(behind: int, depth: int) -> str:
    full = min(10, -(-10 * behind // depth))
    return "\N{FULL BLOCK}" * full + "\N{LIGHT SHADE}" * (10 - full)


def _alive(queue: QueueView) -> int:
    return sum(reader["alive"] for reader in queue["readers"])


def _memory(queue: QueueView) -> int:
    return queue["memory"]["control"] + queue["memory"]["data_committed"]


def _slowest(queue: QueueView) -> str:
    readers = [one for one in queue["readers"] if one["state"] != "evicted" and one["behind"]]
    slowest = max(readers, key=lambda one: one["behind"], default=None)
    return f"rank {slowest['rank']}: {slowest['behind']}" if slowest else "-"


def _writer(queue: QueueView) -> str:
    writer = queue["writer"]
    marks = ["dead"] if not writer["alive"] else ["stopped"] if writer["process"] == "stopped" else []
    marks += ["closed"] if queue["closed"] and writer["alive"] else []
    where = f" on {writer['host']}" if writer["host"] else ""
    return f"{writer['pid']}{where}{' (' + ', '.join(marks) + ')' if marks else ''}"


def _pids(queue: QueueView) -> set[int]:
    return {one["pid"] for one in queue["readers"] if one["host"] is None} | {queue["writer"]["pid"]}


def _cpu_of(queue: QueueView, cpu: dict[int, float | None]) -> float | None:
    return _sum(cpu.get(pid) for pid in _pids(queue))


def _sum(parts: Iterator[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _waits_of(end: EndView, seconds: float) -> str:
    """Why this end waits, as parts of the time that it was watched."""
    if seconds <= 0:
        return ""
    parts = [
        f"{cause} {min(100, 100 * waited / seconds):.0f} %"
        for cause, waited in sorted(end["waits"].items(), key=lambda one: -one[1])
        if waited > 0
    ]
    return ", ".join(parts)


def _waits(queue: QueueView) -> str:
    """The writer's, and the readers' together."""
    said = []
    if writer := _waits_of(queue["ends"][0], queue["watched_s"]):
        said.append(f"writer {writer}")
    readers = queue["ends"][1:]
    if readers and queue["watched_s"] > 0:
        waited = sum(sum(end["waits"].values()) for end in readers) / len(readers)
        if waited > 0:
            said.append(f"readers message {min(100, 100 * waited / queue['watched_s']):.0f} %")
    return "; ".join(said) or "-"

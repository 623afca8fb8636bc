"""What an end tells people, through loggers that are children of "ringcast", one for each concern: waits that are long,
readers that were evicted, messages that nobody read for a promised rank.

Each record has an attribute `ringcast`, a dict of the same facts as the message, for handlers that keep structure. The
native end calls these functions; they decide nothing.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ringcast import _core
from ringcast._segment import GATING_STATES
from ringcast._stats import described
from ringcast.errors import QueueClosedError

if TYPE_CHECKING:
    from ringcast._stats import LinkStats, QueueInfo, QueueStats, ReaderStats, WriterStats


class ReportingEnd(Protocol):
    """What is told of an end."""

    segment: str
    name: str | None
    role: Literal["writer", "reader"]
    rank: int | None
    _tells_losses: bool

    @property
    def closed(self) -> bool: ...
    @property
    def _segment(self) -> _core.Segment | None: ...
    @property
    def _context(self) -> str: ...
    def stats(self) -> QueueStats: ...


_MOST_PEERS = 4  # named in one message; the record's attribute has all
_MOST_RANKS = 16

_CAUSES = {
    "dead": "it died without leaving its seat",
    "slow": "it was in the way for longer than full_deadline",
    "absent": "it has never attached, and was in the way for longer than full_deadline",
    "linkless": "it had not attached, and cannot any more, because this machine's link process has died",
}
_LIVES = {
    "absent": "absent",
    "gone": "dead",
    "unknown": "alive",
    "running": "alive, running",
    "stopped": "alive, but stopped",
}


def long_wait(end: ReportingEnd, waited_s: float) -> None:
    """Log who has waited, for whom, and what that one is doing."""
    stats = _stats_of(end)
    if stats is None:
        return  # the wait ends, too
    facts = _facts(end, stats, waited_s)
    absent_here = _not_attached(end, stats)
    if stats["role"] == "writer":
        ways = [link for link in stats["links"] if _holds_up(link)]
        behind = sorted((r for r in stats["readers"] if _in_the_way(r, ways)), key=lambda r: -r["behind"])
        facts["waiting_for"], facts["links"] = behind, ways
        peers = [_described(r) for r in behind[:_MOST_PEERS]]
        peers += [described_link(link) for link in ways[:_MOST_PEERS]]
        if (absent := stats["expected_elsewhere"]) and not behind and not ways:
            peers.append(absent_elsewhere(absent))
        if not peers and absent_here:
            facts["missing"] = absent_here
            peers.append(_have_not_attached(absent_here))
        awaited = f"readers: {'; '.join(peers) or 'none is behind'}"
    else:
        writer = stats["writer"]
        facts["waiting_for"] = [writer]
        awaited = _described_writer(writer)
        if absent_here and end._segment is not None and end._segment.head == 0:  # for whom it may be waiting itself
            facts["missing"] = absent_here
            awaited += f"; {_have_not_attached(absent_here)}"
    _log("wait", "%s has waited %.0f s for %s", end._context, waited_s, awaited, facts=facts)


def select_waits(awaited: list[str], waited_s: float) -> None:
    """Log for whom a selector has waited: none of them has sent anything."""
    named = "; ".join(awaited[:_MOST_PEERS]) + ("; ..." if len(awaited) > _MOST_PEERS else "")
    facts = {"waited_s": waited_s, "waiting_for": awaited}
    _log("wait", "selector (pid %d) has waited %.0f s for any of %s", os.getpid(), waited_s, named, facts=facts)


def self_wait(end: ReportingEnd, waited_s: float) -> None:
    """Log that a call waits for this very process, in which no other thread could do what it waits for.

    Another thread may still be started, so it is no error. Nothing is logged where other threads are alive: an end may
    be idle for as long as it likes.
    """
    threading: Any = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return
    stats = _stats_of(end)
    if stats is None:
        return
    facts = _facts(end, stats, waited_s)
    if stats["role"] == "writer":
        peers = [reader for reader in stats["readers"] if _in_the_way(reader, [])]
        if stats["links"] or stats["expected_elsewhere"]:
            return  # they come to a queue by other processes
        if not peers or any(reader["pid"] != stats["pid"] or not reader["alive"] for reader in peers):
            return
        facts["waiting_for"] = peers
        ranks = ", ".join(str(reader["rank"]) for reader in peers)
        awaited = f"the readers of rank {ranks}"
        advice = f"read in another thread or process, or before sending more than max_chunks={stats['depth']} messages"
    else:
        if stats["writer"]["host"] is not None or stats["writer"]["pid"] != stats["pid"]:
            return
        if not stats["writer"]["alive"] or stats["queued"]:
            return
        facts["waiting_for"] = [stats["writer"]]
        awaited = "the writer"
        advice = "send in another thread or process, or before receiving"
    _log(
        "wait", "%s has waited %.0f s for %s of this very process, in which no other thread is running: %s",
        end._context, waited_s, awaited, advice, facts=facts,
    )  # fmt: skip


def reach(end: ReportingEnd, rank: int, host: str, cut: bool) -> None:
    """Log that a machine which this end has readers on, or whose messages it reads, is out of reach, or back."""
    facts = _facts(end, _stats_of(end), 0.0)
    facts["link"] = {"host": host, "rank": None if rank == _core.NOBODY else rank, "cut": cut}
    whose = "the writer's machine" if rank == _core.NOBODY else f"the machine of the reader of rank {rank}"
    if cut:
        _log(
            "link", "%s: %s, host %s, is out of reach: nothing has been heard from there for 4 s. What is sent is "
            "kept; it counts as lost once link_timeout is over",
            end._context, whose, host, facts=facts,
        )  # fmt: skip
    else:
        _log("link", "%s: %s, host %s, is back", end._context, whose, host, facts=facts)


def chunk_wait(end: ReportingEnd, waited_s: float) -> None:
    """Log that a call waits for a chunk that another thread of this process has open on the same end."""
    _log(
        "wait", "%s has waited %.0f s for another thread of this process, which has a chunk open on this end and has "
        "not left its block (acquire_write, loan, loan_array, acquire_read)",
        end._context, waited_s, facts=_facts(end, _stats_of(end), waited_s),
    )  # fmt: skip


def eviction(end: ReportingEnd, rank: int, pid: int, cause: str, behind: int, waited_s: float) -> None:
    """Log that the writer goes on without a reader."""
    stats = _stats_of(end)
    facts = _facts(end, stats, waited_s)
    who, where = _subject(stats, rank, pid)
    facts["evicted"] = {**where, "pid": pid or None, "cause": cause, "behind": behind}
    _log("evict", "%s has evicted %s, %d messages behind: %s", end._context, who, behind, _CAUSES[cause], facts=facts)


def name_left(end: ReportingEnd) -> None:
    """Log that a writer has closed, but may not remove its queue's name."""
    user = _core.user_id()
    facts = {"queue": end.name, "segment": end.segment, "user": user}
    with suppress(ImportError):  # a process without its privileges may not be able to read the library, nor to log
        _log(
            "memory", "%s %s is closed, but uid %d may not remove the name of segment %s. Its memory is given back "
            "once no reader uses it; the next queue of the user who made it, or `ringcast clean`, removes the name. "
            "Make queues after changing users.",
            type(end).__name__, end.name or end.segment, user, end.segment, facts=facts,
        )  # fmt: skip


_LOSSES = {
    "left": "has left",
    "died": "died or was ended by an exception",
}


def loss(end: ReportingEnd, rank: int, pid: int, cause: str, first: int, count: int, absent: bool) -> None:
    """Log that messages which a handle promised to a rank are not read by anybody."""
    if not end._tells_losses:
        return
    stats = _stats_of(end)
    facts = _facts(end, stats, 0.0)
    who, where = _subject(stats, rank, pid)
    facts["lost"] = {**where, "pid": pid, "cause": cause, "first": first, "count": count, "absent": absent}
    if not absent:
        what = f"{count} messages before {first + count} were lost to it before somebody took its rank"
    elif end.closed:
        what = f"{count} messages, from number {first} on, did not reach it"
    else:
        what = f"from message {first} on nobody reads for it"
    happened = "is lost" if rank == _core.STREAM else _LOSSES[cause]
    _log("loss", "%s: %s %s; %s", end._context, who, happened, what, facts=facts)


def worker_died(group: str, rank: int, pid: int, text: str) -> None:
    """Log that a worker has ended, and how; its group still runs."""
    _log("workers", "%s: %s", group, text, facts={"group": group, "rank": rank, "pid": pid})


def cast_lost(group: str, rank: int, cast: str, why: str) -> None:
    """Log that a worker could not rebuild a call that nobody waits for."""
    _log("workers", "%s: rank %d did not run %s: %s", group, rank, cast, why, facts={"group": group, "rank": rank})


def start_waits(group: str, ranks: list[int], waited_s: float, doing: str) -> None:
    """Log which workers are not ready yet, after how long."""
    named = ", ".join(f"rank {rank}" for rank in ranks)
    facts = {"group": group, "waited_s": waited_s, "waiting_for": ranks}
    _log("wait", "%s: %s not ready after %.0f s, %s", group, named, waited_s, doing, facts=facts)


def skipped(end: ReportingEnd, count: int) -> None:
    """Log that a reader that attached without a rank did not take what a handle promised to the rank that it got."""
    facts = _facts(end, _stats_of(end), 0.0)
    facts["skipped"] = count
    _log(
        "loss", "%s attached without asking for a rank and begins with the next message; %d messages that a handle had "
        "promised to its rank are lost: attach with rank=%s to get them",
        end._context, count, end.rank, facts=facts,
    )  # fmt: skip


def left_over(context: str, segment: str, rank: int, first: int, count: int) -> None:
    """Log what a reader that takes no more calls had taken, and handed to nobody."""
    facts = {
        "segment": segment,
        "lost": {"rank": rank, "host": None, "pid": os.getpid(), "cause": "interrupted", "first": first, "count": count,
                 "absent": False},
    }  # fmt: skip
    _log(
        "loss", "%s is closed, and %d messages, from number %d on, reached nobody: the calls that had taken them were "
        "interrupted, and no other came for them",
        context, count, first, facts=facts,
    )  # fmt: skip


def undelivered(
    end: ReportingEnd, memory: _core.Segment, messages: int, waited_s: float, why: str, dead_link: str | None
) -> None:
    """Log what promised readers miss that have not attached to a queue that is closed where nothing can be raised.

    `dead_link` says that the link has died by which some of them would have got it.
    """
    seen = described(memory)
    by_rank = _missed_by(seen)
    facts = {
        "queue": end.name, "segment": end.segment, "undelivered": messages, "ranks": [*by_rank], "by_rank": by_rank,
        "waited_s": waited_s,
        "expected_elsewhere": seen["expected_elsewhere"], "links": [one for one in seen["links"] if _holds_up(one)],
    }  # fmt: skip
    _log(
        "loss", "%s %s: %s, and %d messages did not reach %s%s",
        type(end).__name__, end.name or end.segment, why, messages, not_reached(seen),
        f": {dead_link}" if dead_link is not None and lacks_elsewhere(seen)
        else f" within {waited_s:g} s" if waited_s else "; keep the object for as long as readers may come",
        facts=facts,
    )  # fmt: skip


def lacks_elsewhere(seen: QueueInfo) -> bool:
    """Has anybody on another machine not got all messages?"""
    return bool(seen["expected_elsewhere"]) or any(map(_holds_up, seen["links"]))


def not_reached(seen: QueueInfo) -> str:
    """Who of a queue's readers has not got what: those who have not come, and those to whom it is under way."""
    each = "; ".join(f"rank {rank}: {count} messages" for rank, count in _missed_by(seen).items())
    who = [f"readers that had not attached ({each})"] if each else []
    if seen["expected_elsewhere"]:
        who.append(absent_elsewhere(seen["expected_elsewhere"]))
    who += [described_link(link) for link in seen["links"] if _holds_up(link)]
    return ", and ".join(who)


def absent_elsewhere(count: int) -> str:
    """Readers of other machines, of whom nobody knows yet which ranks they will be."""
    return (
        "1 reader of another machine, who has not come"
        if count == 1
        else (f"{count} readers of other machines, who have not come")
    )


def _missed_by(seen: QueueInfo) -> dict[int, int]:
    """How many messages each reader of this machine has not got that has not come."""
    return dict(sorted((reader["rank"], reader["behind"]) for reader in seen["readers"] if _is_absent(reader)))


def _not_attached(end: ReportingEnd, stats: QueueStats) -> list[int]:
    """The ranks of this machine that nobody reads for now."""
    memory = end._segment
    there = {reader["rank"] for reader in stats["readers"] if reader["host"] is None and reader["state"] != "expected"}
    return [] if memory is None else sorted(set(memory.ranks) - there)


def _have_not_attached(ranks: list[int]) -> str:
    named = ", ".join(map(str, ranks[:_MOST_RANKS])) + (", ..." if len(ranks) > _MOST_RANKS else "")
    return f"rank {named} has not attached" if len(ranks) == 1 else f"ranks {named} have not attached"


def _stats_of(end: ReportingEnd) -> QueueStats | None:
    """None: another thread closes the end in this moment, which is no reason to be silent."""
    try:
        return end.stats()
    except QueueClosedError:
        return None


def _facts(end: ReportingEnd, stats: QueueStats | None, waited_s: float) -> dict[str, Any]:
    return {
        "queue": end.name,
        "segment": end.segment,
        "role": end.role,
        "rank": end.rank,
        "pid": os.getpid(),
        "waited_s": waited_s,
        "queued": None if stats is None else stats["queued"],
    }


def _holds_up(link: LinkStats) -> bool:
    return link["under_way"] > 0 and link["state"] in GATING_STATES


def _is_absent(reader: ReaderStats) -> bool:
    return reader["host"] is None and reader["state"] == "expected"


def _in_the_way(reader: ReaderStats, ways: list[LinkStats]) -> bool:
    """A reader elsewhere is if something is under way on one of `ways`, and it has not read what is there already."""
    if reader["host"] is not None:
        return any(link["seat"] == reader["seat"] and reader["behind"] > link["under_way"] for link in ways)
    return reader["leased_blocks"] > 0 or (reader["behind"] > 0 and reader["state"] in GATING_STATES)


def _described(reader: ReaderStats) -> str:
    rank = f"rank {reader['rank']}"
    if reader["host"] is not None:
        told = "" if reader["state"] == "active" else f", {_DEATHS.get(reader['state'], reader['state'])}"
        return f"{rank} (host {reader['host']}, pid {reader['pid']}{told}, {reader['behind']} messages behind)"
    held = f", views of {reader['leased_bytes'] >> 20} MiB" if reader["leased_blocks"] else ""
    if reader["state"] == "expected":
        return f"{rank} (has not attached, {reader['behind']} messages behind)"
    return f"{rank} (pid {reader['pid']}, {_LIVES[reader['process']]}, {reader['behind']} messages behind{held})"


_DEATHS = {"failed": "dead", "lost": "lost with its link", "cut": "out of reach for now", "expected": "about to attach"}


def described_link(link: LinkStats) -> str:
    """ "the link to host B (pid 71, alive, running; ranks 2, 3), with 4 messages under way"."""
    return f"{_named_link(link)}, with {link['under_way']} messages under way"


def _named_link(link: LinkStats) -> str:
    to = "another machine" if link["host"] is None else f"host {link['host']}"
    ranks = ", ".join(map(str, link["ranks"]))
    life = "given up" if link["state"] == "failed" and link["alive"] else _LIVES[link["process"]]
    return f"the link to {to} (pid {link['pid']}, {life}; rank {ranks or 'not known'})"


def _described_writer(writer: WriterStats) -> str:
    relay = writer["relayed_by"]
    if relay is None:
        return f"the writer (pid {writer['pid']}, {_LIVES[writer['process']]})"
    dead = "" if writer["process"] == "unknown" else f", {_LIVES[writer['process']]}"
    return (
        f"the writer (host {writer['host']}, pid {writer['pid']}{dead}), through the link here "
        f"(pid {relay['pid']}, {_LIVES[relay['process']]})"
    )


def _subject(stats: QueueStats | None, rank: int, pid: int) -> tuple[str, dict[str, Any]]:
    """Of whom an eviction or a loss tells, in words and as facts."""
    if rank == _core.NOBODY:
        return "a reader of another machine", {"rank": None, "host": None}
    if rank == _core.STREAM:
        gone = [] if stats is None else [link for link in stats["links"] if link["state"] != "active"]
        ranks = sorted(one for link in gone for one in link["ranks"])
        hosts = sorted({link["host"] for link in gone if link["host"] is not None})
        host, of = ", ".join(hosts) or None, ", ".join(map(str, ranks))
        return (
            f"the link to {f'host {host}' if host else 'another machine'} (pid {pid}{f'; rank {of}' if of else ''})",
            {"rank": None, "host": host, "ranks": ranks},
        )
    host = None
    if stats is not None:
        host = next((one["host"] for one in stats["readers"] if one["rank"] == rank and one["host"]), None)
    told = ", ".join(([f"host {host}"] if host else []) + ([f"pid {pid}"] if pid else []))
    return f"the reader of rank {rank}{f' ({told})' if told else ''}", {"rank": rank, "host": host}


def _log(concern: str, message: str, *arguments: Any, facts: dict[str, Any]) -> None:
    import logging  # rarely needed, and not cheap to import

    logging.getLogger(f"ringcast.{concern}").warning(message, *arguments, extra={"ringcast": facts})

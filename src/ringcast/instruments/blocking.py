"""Who holds whom up, and why: what an observer concludes from a queue's or a pool's state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypedDict

from ringcast._sizes import human_bytes
from ringcast._stats import LinkStats, QueueInfo, ReaderStats
from ringcast.pool import PoolStats


class Blocked(TypedDict):
    """A `waiter` that cannot go on before its `holder` does; `reason` says why that does not, and what can be done.

    `cause` is "room", "memory", "readers", "message", "link" or "server". `queue` is a queue or a pool; pids are 0
    where there is none on this machine. `seconds` is for how long this has been seen.
    """

    queue: str
    cause: str
    waiter: str
    waiter_pid: int
    holder: str
    holder_pid: int
    reason: str
    seconds: float


def in_queue(
    info: QueueInfo, waits_for: int | None, causes: Collection[str], rates: Mapping[int | None, float | None]
) -> list[Blocked]:
    """`waits_for` is the seat that the writer sleeps for now, `causes` what it was seen to sleep for since the last
    look, `rates` how much each seat reads in a second."""
    return list(_in_queue(info, waits_for, causes, rates))


def _in_queue(
    info: QueueInfo, waits_for: int | None, causes: Collection[str], rates: Mapping[int | None, float | None]
) -> Iterator[Blocked]:
    queue, writer = info["name"] or info["segment"], info["writer"]

    def blocked(cause: str, waiter: str, waiter_pid: int, holder: str, holder_pid: int, reason: str) -> Blocked:
        return {
            "queue": queue, "cause": cause, "waiter": waiter, "waiter_pid": waiter_pid, "holder": holder,
            "holder_pid": holder_pid, "reason": reason, "seconds": 0.0,
        }  # fmt: skip

    who = f"writer {writer['pid']}"
    if writer["alive"] and writer["process"] != "stopped":
        for reader in info["readers"]:
            name = f"rank {reader['rank']}" + (f" (pid {reader['pid']})" if reader["pid"] else "")
            full = reader["host"] is None and reader["behind"] >= info["depth"]
            if reader["host"] is None and (reader["seat"] == waits_for or (full and "room" in causes)):
                yield blocked("room", who, writer["pid"], name, reader["pid"], _slow(reader, rates))
            elif "memory" in causes and reader["leased_blocks"]:
                views = f"{reader['leased_blocks']} view{'' if reader['leased_blocks'] == 1 else 's'}"
                reason = f"holds {views} of {human_bytes(reader['leased_bytes'])}{_stopped(reader['process'])}"
                yield blocked("memory", who, writer["pid"], name, reader["pid"], reason)
            elif "readers" in causes and reader["state"] == "expected":
                yield blocked("readers", who, writer["pid"], name, reader["pid"], "has not come yet")
        missing = info["n_reader"] - len(info["readers"]) if info["messages"] == 0 else info["expected_elsewhere"]
        if "readers" in causes and missing > 0:
            who_else = f"{missing} reader{'' if missing == 1 else 's'}"
            yield blocked(
                "readers", who, writer["pid"], who_else, 0, "has not come yet" if missing == 1 else "have not come yet"
            )
        for link in info["links"]:
            if link["seat"] == waits_for:
                holder = f"link to {link['host'] or 'another machine'} (pid {link['pid']})"
                yield blocked("link", who, writer["pid"], holder, link["pid"], _far(link))
        return
    waiting = [reader for reader in info["readers"] if reader["alive"] and reader["state"] == "active"]
    if waiting and not info["closed"]:
        ranks = " ".join(str(reader["rank"]) for reader in waiting)
        reason = "is stopped (kill -CONT lets it go on)" if writer["alive"] else "has died"
        if writer["host"] is not None:
            reason = f"on {writer['host']} is out of reach, or has died"
        waiter = f"rank{'s' if len(waiting) > 1 else ''} {ranks}"
        yield blocked("message", waiter, waiting[0]["pid"], who, writer["pid"], reason)


def _stopped(process: str) -> str:
    return {"stopped": ", and is stopped (kill -CONT lets it go on)", "gone": ", and has died"}.get(process, "")


def _slow(reader: ReaderStats, rates: Mapping[int | None, float | None]) -> str:
    behind = f"{reader['behind']} behind"
    if reader["process"] == "stopped":
        return f"is stopped (kill -CONT lets it go on), {behind}"
    if reader["state"] == "failed":
        return f"was ended by an exception, {behind}"
    if reader["state"] == "expected":
        return f"has not come yet, {behind}"
    if not reader["alive"]:
        return f"has died, {behind}"
    rate = rates.get(reader["seat"])
    return f"reads {rate:.0f} messages a second, {behind}" if rate else f"does not read, {behind}"


def _far(link: LinkStats) -> str:
    under_way = f"{link['under_way']} messages under way"
    if not link["alive"]:
        return f"has died, {under_way}"
    if link["process"] == "stopped":
        return f"is stopped (kill -CONT lets it go on), {under_way}"
    cut_s = link["out_of_reach_s"]
    return f"has had no connection for {cut_s:.0f} s, {under_way}" if cut_s is not None else f"is slow, {under_way}"


def in_pool(pool: PoolStats) -> list[Blocked]:
    """Clients whose server does not answer."""
    living = [client for client in pool["clients"] if client["alive"] and not client["forked"]]
    if pool["server"] == "living" or not living or pool["closed"]:
        return []
    reason = "is stopped (kill -CONT lets it go on)" if pool["server"] == "stopped" else "has died; start it again"
    who = f"{len(living)} client{'' if len(living) == 1 else 's'}"
    return [{
        "queue": pool["name"], "cause": "server", "waiter": who, "waiter_pid": living[0]["pid"],
        "holder": f"server {pool['server_pid']}", "holder_pid": pool["server_pid"], "reason": reason, "seconds": 0.0,
    }]  # fmt: skip

"""A group's ranks meet in a store.

Each rank counts its arrival and says who it is. Rank 0 waits for all, compares them, and writes the generation: who
belongs to the group. All other keys lie under it. So a rank that is started again alone finds a generation without
itself, and says so; and those who wait for it see that somebody came in its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ringcast.errors import GroupError, GroupMismatchError, GroupPeerError, GroupTimeoutError
from ringcast.net._client import Client
from ringcast.net._deadline import Deadline
from ringcast.net._group import FIRST_NAP_S, KINDS, LONGEST_NAP_S, TOLD_WITHIN_S, Group, about, differences
from ringcast.net._members import Member
from ringcast.net._sealing import SECRET, Sealer


def meet(
    client: Client, rank: int, arguments: Mapping[str, Any], size: int, deadline: Deadline, *, trusted: bool
) -> Group:
    """Wait for all ranks. Raises GroupTimeoutError, GroupMismatchError, GroupPeerError."""
    secret = Sealer("", trusted).check()
    arrival = client.count(f"arrivals/{rank}", deadline)
    me = Member.here(arrival, secret, dict(arguments))
    client.put(f"hello/{rank}/{arrival}", me.to_json(), deadline)
    members, generation = (
        _gather(client, me, rank, size, deadline) if rank == 0 else _follow(client, me, rank, deadline)
    )
    return Group(client, rank, members, generation, trusted)


def _gather(client: Client, me: Member, rank: int, size: int, deadline: Deadline) -> tuple[list[Member], str]:
    """Rank 0: wait for all, compare them, tell all."""
    members = {rank: me}
    nap = FIRST_NAP_S
    error: GroupError | None = None
    while error is None and len(members) < size:
        if deadline.left == 0:
            missing = [other for other in range(size) if other not in members]
            error = about(GroupTimeoutError(_missing(missing, members, deadline)), *missing)
            break
        for other in range(size):
            newest = _newest(client, other, members.get(other), deadline)
            if newest is not None and newest != members.get(other):
                members[other] = newest
                error = error or _difference(other, newest, rank, me)
        time.sleep(min(nap, deadline.left))
        nap = min(1.5 * nap, max(LONGEST_NAP_S, size * 0.0002))
    if error is None:
        everybody = [members[other] for other in range(size)]
        text = json.dumps([json.loads(member.to_json()) for member in everybody])
        client.put("generation", text.encode(), deadline)
        return everybody, me.incarnation
    late = isinstance(error, GroupTimeoutError)
    _tell(client, error, [other for other in (members if late else range(size)) if other != rank])
    raise error


def _tell(client: Client, error: GroupError, ranks: Sequence[int]) -> None:
    """Why there will be no group, to these ranks; they get a moment to come and read it, for the store may go."""
    grace = Deadline(TOLD_WITHIN_S)
    text = json.dumps([type(error).__name__, str(error), list(error.ranks)]).encode()
    told: dict[int, Member] = {}
    untold = set(ranks)
    while untold and grace.left > 0:
        for other in sorted(untold):
            newest = _newest(client, other, told.get(other), grace)
            if newest is not None and newest != told.get(other):
                told[other] = newest
                client.put(f"failed/{other}/{newest.arrival}", text, grace)
            elif newest is not None and (newest.is_dead or client.has([f"told/{other}/{newest.arrival}"], grace)):
                untold.discard(other)
        time.sleep(min(0.005, grace.left))


def _follow(client: Client, me: Member, rank: int, deadline: Deadline) -> tuple[list[Member], str]:
    """Any other rank: wait for what rank 0 says."""
    failed = f"failed/{rank}/{me.arrival}"
    nap = FIRST_NAP_S
    host: Member | None = None
    while True:
        if client.has([failed], deadline):
            kind, text, ranks = json.loads(client.take([failed], deadline)[0])
            client.put(f"told/{rank}/{me.arrival}", b"", deadline)
            raise about(KINDS.get(kind, GroupError)(text), *ranks)
        if client.has(["generation"], deadline):
            break
        newest = _newest(client, 0, host, deadline)
        if newest is not None and newest != host:
            host = newest
            if (error := _difference(0, host, rank, me)) is not None:
                _pause_for(client, f"failed/{rank}/{me.arrival}", Deadline(min(TOLD_WITHIN_S, deadline.left)))
                raise error
        if host is not None and host.is_dead:
            raise about(GroupPeerError(f"{host.named(0)}, who was to bring the ranks together, has ended"), 0)
        if deadline.left == 0:
            _fail_meeting(client, rank, me, deadline)
        time.sleep(min(nap, deadline.left))
        nap = min(1.5 * nap, 0.02)
    found = json.loads(client.take(["generation"], deadline)[0])
    members = [Member.of(json.dumps(one).encode()) for one in found]
    if rank >= len(members) or members[rank].incarnation != me.incarnation:
        before = members[rank].named(rank) if rank < len(members) else f"{len(members)} ranks without rank {rank}"
        raise about(
            GroupPeerError(
                f"{me.named(rank)} was started alone, or as a second one: the group runs, with {before}. "
                "All ranks have to make it again"
            ),
            rank,
        )
    return members, members[0].incarnation


def _pause_for(client: Client, key: str, grace: Deadline) -> None:
    """Rank 0 sees the same difference, and says it to all; who leaves before that would seem to have died."""
    while grace.left > 0 and not client.has([key], grace):
        time.sleep(min(0.01, grace.left))


def _fail_meeting(client: Client, rank: int, me: Member, deadline: Deadline) -> NoReturn:
    grace = Deadline(TOLD_WITHIN_S)
    size = int(me.arguments["world_size"])
    found = {other: _newest(client, other, None, grace) for other in range(size)}
    here = {other: member for other, member in found.items() if member is not None}
    missing = [other for other in range(size) if other not in here]
    if not missing:
        raise about(GroupTimeoutError(f"waited {deadline.seconds} s, and {here[0].named(0)} does not go on"), 0)
    raise about(GroupTimeoutError(_missing(missing, here, deadline)), *missing)


def _missing(missing: Sequence[int], here: Mapping[int, Member], deadline: Deadline) -> str:
    absent = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(map(str, missing))
    present = ", ".join(member.named(rank) for rank, member in sorted(here.items()))
    return (
        f"the group's ranks did not meet: waited {deadline.seconds} s, and {absent} did not come; there are {present}"
    )


def _newest(client: Client, rank: int, known: Member | None, deadline: Deadline) -> Member | None:
    """Who has come last as this rank, if one has."""
    arrival = known.arrival if known else 0
    while client.has([f"hello/{rank}/{arrival + 1}"], deadline):
        arrival += 1
    if known is not None and arrival == known.arrival:
        return known
    return Member.of(client.take([f"hello/{rank}/{arrival}"], deadline)[0]) if arrival else None


def _difference(rank: int, member: Member, own_rank: int, me: Member) -> GroupMismatchError | None:
    """What keeps two ranks from being in one group."""
    who, here = member.named(rank), me.named(own_rank)
    if member.version != me.version:
        return about(GroupMismatchError(f"{who} has ringcast {member.version}, {here} {me.version}"), rank)
    if member.arguments != me.arguments:
        difference = differences(member.arguments, me.arguments)
        return about(GroupMismatchError(f"{who} came with other arguments than {here}: {difference}"), rank)
    if member.secret != me.secret:
        which = "none" if not member.secret else "another one" if me.secret else "one"
        mine = "has one" if me.secret and not member.secret else "has none" if not me.secret else "has its own"
        return about(GroupMismatchError(f"{who} has {which} as {SECRET}, {here} {mine}"), rank)
    return None

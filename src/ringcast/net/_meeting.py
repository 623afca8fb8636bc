"""A group's ranks meet in a store.

Each rank counts its arrival and says who it is. Rank 0 waits for all, compares them, and writes the generation: who
belongs to the group. All other keys lie under it. So a rank that is started again alone finds a generation without
itself, and says so; and those who wait for it see that somebody came in its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ringcast.errors import GroupError, GroupMismatchError, GroupPeerError, GroupSecurityError, GroupTimeoutError
from ringcast.net._client import Client
from ringcast.net._deadline import Deadline
from ringcast.net._group import FIRST_NAP_S, KINDS, LONGEST_NAP_S, TOLD_WITHIN_S, Group, differences
from ringcast.net._members import Member, has_come, hello_of
from ringcast.net._records import about, foreign, is_failure, parsed
from ringcast.net._sealing import SECRET, Sealer


def meet(
    client: Client, rank: int, arguments: Mapping[str, Any], size: int, deadline: Deadline, *, trusted: bool
) -> Group:
    """Wait for all ranks. Raises GroupTimeoutError, GroupMismatchError, GroupPeerError, GroupError."""
    arrival = client.count(f"arrivals/{rank}", deadline)
    me = Member.here(arrival, dict(arguments))
    here = _Meeting(client, Sealer("", trusted), rank, me, size, deadline)
    me.say_hello(client, here.sealer, rank, deadline)
    members = _gather(here) if rank == 0 else _follow(here)
    return Group(client, rank, members, members[0].incarnation, trusted)


class _Meeting(NamedTuple):
    """One rank's part in it."""

    client: Client
    sealer: Sealer
    rank: int
    me: Member
    size: int
    deadline: Deadline

    def newest(self, rank: int, known: Member | None, deadline: Deadline | None = None) -> Member | None:
        """Who has come last as a rank, if one has. Raises GroupError."""
        deadline = deadline or self.deadline
        first = arrival = known.arrival if known else 0
        while has_come(self.client, rank, arrival + 1, deadline):
            arrival += 1
        return known if arrival == first else hello_of(self.client, self.sealer, rank, arrival, deadline)

    def put(self, key: str, value: Any, deadline: Deadline) -> None:
        self.client.put(key, self.sealer.seal(json.dumps(value).encode(), key), deadline)

    def take(self, key: str, what: str) -> Any:
        """What rank 0 has said. Raises GroupError."""
        try:
            data = self.sealer.unseal(self.client.take([key], self.deadline)[0], key, "rank 0")
        except GroupSecurityError as error:
            raise about(GroupMismatchError(f"{error}. All ranks need the same {SECRET}"), 0) from error
        return parsed(data, what)


def _gather(here: _Meeting) -> list[Member]:
    """Rank 0: wait for all, compare them, tell all."""
    members = {here.rank: here.me}
    nap = FIRST_NAP_S
    error: GroupError | None = None
    while error is None and len(members) < here.size:
        if here.deadline.left == 0:
            missing = [other for other in range(here.size) if other not in members]
            error = about(GroupTimeoutError(_missing(missing, members, here.deadline)), *missing)
            break
        for other in range(here.size):
            try:
                newest = here.newest(other, members.get(other))
            except (GroupTimeoutError, GroupPeerError):
                raise  # the store's, over which nobody can be told
            except GroupError as found:
                error = error or found
                continue
            if newest is not None and newest != members.get(other):
                members[other] = newest
                error = error or _difference(other, newest, here.rank, here.me) or _doubled(here, other, newest)
        time.sleep(min(nap, here.deadline.left))
        nap = min(1.5 * nap, max(LONGEST_NAP_S, here.size * 0.0002))
    if error is None:
        everybody = [members[other] for other in range(here.size)]
        here.put("generation", [member._asdict() for member in everybody], here.deadline)
        return everybody
    late = isinstance(error, GroupTimeoutError)
    _tell(here, error, [other for other in (members if late else range(here.size)) if other != here.rank])
    raise error


def _tell(here: _Meeting, error: GroupError, ranks: Sequence[int]) -> None:
    """Why there will be no group, to these ranks; they get a moment to come and read it, for the store may go."""
    grace = Deadline(TOLD_WITHIN_S)
    why = [type(error).__name__, str(error), list(error.ranks)]
    told = dict.fromkeys(ranks, 0)
    while told and grace.left > 0:
        for other, arrival in list(told.items()):
            if has_come(here.client, other, arrival + 1, grace):
                told[other] = arrival + 1
                here.put(f"failed/{other}/{arrival + 1}", why, grace)
            elif arrival and (here.client.has([f"told/{other}/{arrival}"], grace) or _has_died(here, other, arrival)):
                del told[other]
        time.sleep(min(0.005, grace.left))


def _has_died(here: _Meeting, rank: int, arrival: int) -> bool:
    try:
        return hello_of(here.client, here.sealer, rank, arrival, Deadline(TOLD_WITHIN_S)).is_dead
    except GroupError:  # who cannot be read is not known to have
        return False


def _follow(here: _Meeting) -> list[Member]:
    """Any other rank: wait for what rank 0 says."""
    client, rank, me, deadline = here.client, here.rank, here.me, here.deadline
    failed = f"failed/{rank}/{me.arrival}"
    nap = FIRST_NAP_S
    host: Member | None = None
    while True:
        if client.has([failed], deadline):
            client.put(f"told/{rank}/{me.arrival}", b"", deadline)
            what = "what rank 0 says of the meeting"
            failure = here.take(failed, what)
            if not is_failure(failure):
                raise about(foreign(what, failure), 0)
            kind, text, ranks = failure
            raise about(KINDS.get(kind, GroupError)(text), *ranks)
        if client.has(["generation"], deadline):
            break
        try:
            newest = here.newest(0, host)
            error = _difference(0, newest, rank, me) if newest is not None and newest != host else None
        except GroupMismatchError as found:
            error = found
        if error is not None:
            _pause_for(client, failed, Deadline(min(TOLD_WITHIN_S, deadline.left)))
            raise error
        host = newest
        if host is not None and host.is_dead:
            raise about(GroupPeerError(f"{host.named(0)}, who was to bring the ranks together, has ended"), 0)
        if deadline.left == 0:
            _fail_meeting(here)
        time.sleep(min(nap, deadline.left))
        nap = min(1.5 * nap, 0.02)
    members = _generation(here)
    if members[rank].incarnation != me.incarnation:
        raise _alone(here, members[rank].named(rank))
    return members


def _generation(here: _Meeting) -> list[Member]:
    """Who belongs to the group, as rank 0 has written."""
    what = "what rank 0 says of who is in the group"
    found = here.take("generation", what)
    if type(found) is not list or not found:
        raise about(foreign(what, found), 0)
    members = [Member.of(one, what) for one in found]
    if here.rank >= len(members):
        raise _alone(here, f"{len(members)} ranks without rank {here.rank}")
    if len(members) != here.size and members[here.rank].incarnation == here.me.incarnation:
        raise about(foreign(what, found), 0)
    return members


def _alone(here: _Meeting, before: str) -> GroupPeerError:
    return about(
        GroupPeerError(
            f"{here.me.named(here.rank)} was started alone, or as a second one: the group runs, with {before}. "
            "All ranks have to make it again"
        ),
        here.rank,
    )


def _pause_for(client: Client, key: str, grace: Deadline) -> None:
    """Rank 0 sees the same difference, and says it to all; who leaves before that would seem to have died."""
    while grace.left > 0 and not client.has([key], grace):
        time.sleep(min(0.01, grace.left))


def _fail_meeting(here: _Meeting) -> NoReturn:
    grace = Deadline(TOLD_WITHIN_S)
    found = {other: here.newest(other, None, grace) for other in range(here.size)}
    present = {other: member for other, member in found.items() if member is not None}
    missing = [other for other in range(here.size) if other not in present]
    if not missing:
        raise about(GroupTimeoutError(f"waited {here.deadline.seconds} s, and {present[0].named(0)} does not go on"), 0)
    raise about(GroupTimeoutError(_missing(missing, present, here.deadline)), *missing)


def _missing(missing: Sequence[int], here: Mapping[int, Member], deadline: Deadline) -> str:
    absent = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(map(str, missing))
    present = ", ".join(member.named(rank) for rank, member in sorted(here.items()))
    return (
        f"the group's ranks did not meet: waited {deadline.seconds} s, and {absent} did not come; there are {present}"
    )


def _doubled(here: _Meeting, rank: int, newest: Member) -> GroupMismatchError | None:
    """Two processes that live, as one rank? Who has ended, or has given up and comes once more, has a successor."""
    if newest.arrival < 2:
        return None
    before = hello_of(here.client, here.sealer, rank, newest.arrival - 1, here.deadline)
    if not before.is_known_to_live or (before.pid, before.boot) == (newest.pid, newest.boot):
        return None
    return about(
        GroupMismatchError(
            f"two processes came as rank {rank}: {before.pid} of host {before.host} and {newest.pid} of host "
            f"{newest.host}; each needs a rank of its own"
        ),
        rank,
    )


def _difference(rank: int, member: Member, own_rank: int, me: Member) -> GroupMismatchError | None:
    """What keeps two ranks from being in one group."""
    who, here = member.named(rank), me.named(own_rank)
    if member.version != me.version:
        return about(GroupMismatchError(f"{who} has ringcast {member.version}, {here} {me.version}"), rank)
    if member.arguments != me.arguments:
        difference = differences(member.arguments, me.arguments)
        return about(GroupMismatchError(f"{who} came with other arguments than {here}: {difference}"), rank)
    return None

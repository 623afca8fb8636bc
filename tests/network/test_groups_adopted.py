"""Worker groups over process groups: ranks that others have started, on this machine and on several."""

from __future__ import annotations

import gc
import os
import signal
import time
from typing import Any

import pytest

from ringcast import WorkerGroup
from ringcast.errors import ArgumentError, BusyError, CallTimeoutError, RoleError, WorkerDiedError
from ringcast.instruments import sweep
from ringcast.workers import _asking
from ringcast.workers import rank as own_rank
from tests.network.machines import visited
from tests.network.ranks import Meet, Starter
from tests.support import Link, eventually, segments
from tests.workers.objects import LONG_S, Broken, Model, late_at_a_gate

PROMPT_S = 30.0
"""Well above the second that is promised, for busy machines, and well below what any of these would take otherwise."""


def _adopts(link: Link, meet: Meet, control: Any, options: dict[str, Any]) -> None:
    """Rank 0 controls by `control(link, group)`; all say what their part has come to."""
    with meet() as pg:
        group = WorkerGroup.adopt(pg, Model, (10,), allow_callables=True, timeout=60, **options)
    if group is not None:
        with group:
            control(link, group)
    with pytest.raises(RoleError):
        own_rank()
    link.send("done")


def _calls(link: Link, group: WorkerGroup) -> None:
    ranks = list(group._calls.every)
    assert group.call("rank") == ranks
    assert group.call("pid") == group.pids
    assert group.scatter("echo", ranks) == ranks
    assert group.call("add", 1, ranks=ranks[-1:]) == [11]
    assert [len(blob) for blob in group.call("blob", 4 << 20)] == [4 << 20] * len(ranks)
    assert list(group.stream("count_to", 40)) == [[number] * len(ranks) for number in range(40)]
    futures = [group.submit("echo_only", number) for number in range(500)]
    assert [future.result(60) for future in futures] == [[number] * len(ranks) for number in range(500)]
    with pytest.raises(KeyError):
        group.call("fail", "of the test", ranks[-1:])
    vars(_asking)["_WITHIN_S"] = LONG_S  # all the time that they need to say what they do
    late = late_at_a_gate(lambda gate, deadline: group.call("wait_at", gate, deadline=deadline), *ranks)
    assert late.ranks == tuple(ranks)
    for rank in ranks:
        assert "objects.py" in late.stacks[rank]
        assert "in wait_at" in late.stacks[rank]
    with pytest.raises(ArgumentError, match="was adopted"):
        group.respawn(ranks[-1])


@pytest.mark.parametrize("include_self", [False, True])
def test_the_other_ranks_are_workers_and_so_is_the_controller_if_it_wants(ranks: Starter, include_self: bool) -> None:
    for rank in ranks(3, _adopts, _calls, {"include_self": include_self}):
        assert rank.receive() == "done"


def test_a_controller_alone_is_a_group_of_itself(ranks: Starter) -> None:
    (alone,) = ranks(1, _adopts, _calls, {"include_self": True})
    assert alone.receive() == "done"


def _drops(link: Link, meet: Meet) -> None:
    with meet() as pg:
        group = WorkerGroup.adopt(pg, Model, include_self=True)
    assert group is not None
    assert group.call("rank") == [0]
    del group
    gc.collect()
    eventually(lambda: not segments(), "the end of all that the group had")
    link.send("done")


def test_a_group_that_is_dropped_leaves_nothing(ranks: Starter) -> None:
    (alone,) = ranks(1, _drops)
    assert alone.receive() == "done"


_here: WorkerGroup | None = None


def _call_it(_: Model) -> Any:
    assert _here is not None
    return _here.call("rank")


def _nests_by_reference(link: Link, meet: Meet, options: dict[str, Any]) -> None:
    def control(_: Link, group: WorkerGroup) -> None:
        global _here
        _here = group
        with pytest.raises(BusyError, match="must not call the group"):
            group[0].call(_call_it)
        assert group.call("rank") == [0, 1]
        with pytest.raises(WorkerDiedError, match=r"rank 0 \(.*\) has left"):
            group[0].call("end", "exit")
        assert group[1].call("rank") == 1

    _adopts(link, meet, control, options)


def test_a_call_that_the_controller_runs_as_a_rank_cannot_call_the_group(ranks: Starter) -> None:
    for rank in ranks(2, _nests_by_reference, {"include_self": True}):
        assert rank.receive() == "done"


def _is_told(link: Link, group: WorkerGroup) -> None:
    """Of the last rank's death: in a call, and while nothing is called."""
    *_, first, last = group._calls.every
    for rank, busy in ((last, True), (first, False)):
        pid, host = group[rank].call("pid"), os.uname().nodename
        future = group[rank].submit("nap", 600) if busy else None
        link.send((rank, pid))
        begun = time.monotonic()
        if future is not None:
            with pytest.raises(
                WorkerDiedError, match=rf"rank {rank} \(host {host}, pid {pid}\) has died.*'nap'"
            ) as died:
                future.result(PROMPT_S)
            assert (died.value.rank, died.value.pid) == (rank, pid)
        else:
            eventually(lambda rank=rank: rank in group._calls.dead, "the news of a death", PROMPT_S)  # type: ignore[misc]
        assert time.monotonic() - begun < PROMPT_S
        with pytest.raises(WorkerDiedError, match="nothing was sent: call others"):
            group[rank].call("rank")
    with pytest.raises(ArgumentError, match="was adopted"):
        group.respawn(last)
    assert group.call("rank", ranks=[group._calls.every[0]]) == [group._calls.every[0]]


def test_a_rank_s_death_is_known_in_a_call_and_between_calls(ranks: Starter) -> None:
    controller, *others = ranks(4, _adopts, _is_told, {})
    for _ in range(2):
        _, pid = controller.receive()
        os.kill(pid, signal.SIGKILL)
    assert controller.receive() == "done"
    assert others[0].receive() == "done"


def _cannot_be_made(link: Link, meet: Meet, options: dict[str, Any], how: str) -> None:
    with meet() as pg:
        try:
            timeout = 8.0 if how == "hang" else LONG_S
            WorkerGroup.adopt(pg, Broken, (how, options["broken"]), timeout=timeout, include_self=True)
        except (KeyError, CallTimeoutError) as error:
            link.send((type(error).__name__, getattr(error, "ranks", ()), "objects.py" in str(error)))
        else:
            link.send("nothing")


@pytest.mark.parametrize("broken", [0, 1])
def test_an_object_that_cannot_be_made_is_an_error_on_the_controller_and_there(ranks: Starter, broken: int) -> None:
    told = [rank.receive() for rank in ranks(2, _cannot_be_made, {"broken": broken}, "raise")]
    assert told[0] == ("KeyError", (), False)
    assert told[1] == ("nothing" if broken == 0 else ("KeyError", (), False))


def test_a_rank_that_is_never_ready_is_named_with_what_it_does(ranks: Starter) -> None:
    controller, hanging = ranks(2, _cannot_be_made, {"broken": 1}, "hang")
    assert controller.receive() == ("CallTimeoutError", (1,), True)
    hanging.kill()
    sweep()


@pytest.mark.usefixtures("torch_machine_server")
@pytest.mark.parametrize("include_self", [False, True])
def test_ranks_of_other_machines_are_workers_too(include_self: bool) -> None:
    with visited(2) as (a, b):
        options = {"include_self": include_self, "trust_store": True}
        ranks = [
            machine.start(_adopts, Meet(rank, 4, 29500, host=a.ip), _calls, options)
            for rank, machine in enumerate([a, b, a, b])
        ]
        for rank in ranks:
            assert rank.receive() == "done"
            rank.wait()


def _is_told_from_afar(link: Link, group: WorkerGroup) -> None:
    future = group[1].submit("nap", 600)
    link.send(None)
    with pytest.raises(WorkerDiedError, match=r"rank 1 \(host machine-b, pid \d+\) has died.*'nap'"):
        future.result(PROMPT_S)
    assert group[2].call("rank") == 2


@pytest.mark.usefixtures("torch_machine_server")
def test_a_death_on_another_machine_is_told_with_its_host() -> None:
    with visited(2) as (a, b):
        places = [a, b, a]
        controller, far, near = [
            machine.start(_adopts, Meet(rank, 3, 29500, host=a.ip), _is_told_from_afar, {"trust_store": True})
            for rank, machine in enumerate(places)
        ]
        controller.receive()
        far.kill()
        assert controller.receive() == "done"
        assert near.receive() == "done"

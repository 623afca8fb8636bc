"""Workers that are actors of Ray's, on real nodes: two on this machine, and nodes on machines of their own.

Whoever has a group is a process of its own, as is whoever has the cluster: nothing of Ray's runs in the tests' process.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringcast import WorkerGroup
from ringcast.errors import ArgumentError, CallTimeoutError, QueueClosedError, RemoteError, WorkerDiedError
from ringcast.workers import _asking
from tests.support import Child, Link, eventually, segments
from tests.workers.objects import LONG_S, Broken, Model, late_at_a_gate

pytestmark = [
    pytest.mark.alone,  # a cluster takes all of the machine
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: ringcast[ray]"),
]

PROMPT_S = 30.0
"""Well above the second that is promised, for busy machines, and well below what any of these would take otherwise."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONUNBUFFERED": "1",  # what actors print is the driver's to print, which is looked for
}


def hold_cluster(link: Link) -> None:
    """A head and two nodes for actors, until it is told to end. Else what it is told is a node's number: it kills that
    one, and starts another."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    nodes = [cluster.add_node(num_cpus=2, **memory) for _ in range(2)]
    link.send(cluster.address)
    while (order := link.recv()) != "end":
        (doomed,) = [node for node in nodes if node.node_id == order]
        cluster.remove_node(doomed, allow_graceful=False)
        link.send(None)
        nodes[nodes.index(doomed)] = cluster.add_node(num_cpus=2, **memory)
        link.send(None)
    cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Child]:
    child = Child(hold_cluster, env=QUIET)
    yield child
    child.send("end")
    child.join()


@pytest.fixture(scope="module")
def address(cluster: Child) -> str:
    return str(cluster.receive())


@pytest.fixture
def drive(start: Callable[..., Child], address: str) -> Callable[..., Child]:
    """Starts a process that is in the cluster."""
    return lambda function, *arguments: start(function, address, *arguments, env=QUIET)


def placed(address: str, n: int = 2, strategy: str = "STRICT_SPREAD") -> Any:
    import ray

    ray.init(address=address)
    group = ray.util.placement_group([{"CPU": 1}] * n, strategy=strategy)
    ray.get(group.ready(), timeout=60)
    return group


def lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def calls_of_all_kinds(link: Link, address: str) -> None:
    options: Any = {"rank_args": [(1,), (2,)], "env": {"OF_THE_TEST": "here"}, "allow_callables": True}
    with WorkerGroup.on_ray(Model, placed(address), (10,), **options) as group:
        assert group.call("rank") == [0, 1]
        assert group.call("environment", "RINGCAST_RANK") == ["0", "1"]
        assert group.call("environment", "OF_THE_TEST") == ["here", "here"]
        assert group.call("pid") == group.pids
        assert group.call(node_of) != group.call(node_of, ranks=[1, 0])
        assert len(set(group.call(node_of))) == 2
        assert group.call("add", 100) == [111, 112]
        assert group.scatter("echo", ["one", "two"]) == ["one", "two"]
        assert [len(blob) for blob in group.call("blob", 8 << 20)] == [8 << 20] * 2
        assert list(group.stream("count_to", 40)) == [[number, number] for number in range(40)]
        futures = [group.submit("echo", number) for number in range(500)]
        assert [future.result(60) for future in futures] == [[number, number] for number in range(500)]
        with pytest.raises(KeyError) as caught:
            group.call("fail", "of the test", ranks=[1])
        assert isinstance(caught.value.__cause__, RemoteError)
        assert "objects.py" in str(caught.value.__cause__)
        vars(_asking)["_WITHIN_S"] = LONG_S  # all the time that it needs to say what it does
        late = late_at_a_gate(
            lambda gate, deadline: group.call("wait_at_by_rank", gate, deadline=deadline), 1, deadlines=(3.0, 30.0)
        )
        assert late.ranks == (1,)
        assert "wait_at_by_rank" in late.stacks[1]
        group[0].call("say", "words")
        link.send("said")
        link.recv()
        busy = group.submit("nap", 600)
        group.close(0)
        assert isinstance(busy.exception(PROMPT_S), QueueClosedError)
        with pytest.raises(QueueClosedError):
            group.call("rank")
        eventually(lambda: not any(map(lives, group.pids)), "the end of the actors", PROMPT_S)
    assert segments() == set()


def node_of(_: Model) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def test_actors_of_two_nodes_are_called_as_workers_are(
    start: Callable[..., Child], address: str, tmp_path: Path
) -> None:
    shown = tmp_path / "shown"  # pytest's capture loses what comes as it is looked at
    to_file = ("sh", "-c", f'exec "$@" > {shown}', "sh")
    driver = start(calls_of_all_kinds, address, env=QUIET, wrapper=to_file)
    driver.receive()
    eventually(lambda: "words" in shown.read_text(), "what an actor has printed, when Ray gets to it")
    assert "(Model rank 0 pid=" in shown.read_text()
    driver.send("seen")
    driver.join()


def actors_that_end(link: Link, address: str) -> None:
    with WorkerGroup.on_ray(Model, placed(address), (5,)) as group:
        with pytest.raises(ArgumentError, match="has not ended"):
            group.respawn(1)
        first = group.pids[1]
        busy = group[1].submit("nap", 600)
        os.kill(first, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(
            WorkerDiedError, match=rf"rank 1 \(host .*, pid {first}\) has died.*in call 0, 'nap'"
        ) as died:
            busy.result(PROMPT_S)
        assert time.monotonic() - begun < PROMPT_S
        assert (died.value.rank, died.value.pid) == (1, first)
        with pytest.raises(WorkerDiedError, match="nothing was sent"):
            group.call("rank")
        for number in range(200):  # more than the ring holds
            assert group[0].call("echo", number) == number
        group.respawn(1)
        assert group.call("add", 1) == [6, 6]
        with pytest.raises(WorkerDiedError, match="ended with exit code 7") as ended:
            group.call("end", "exit", 1)
        assert ended.value.exitcode == 7
        group.respawn(1)
        assert group.call("rank") == [0, 1]
        os.kill(group.pids[0], signal.SIGKILL)
        eventually(lambda: "[0] have ended" in repr(group), "the news of an idle actor's death", PROMPT_S)
    assert segments() == set()


def test_an_actor_s_death_fails_its_calls_and_it_can_be_brought_back(drive: Callable[..., Child]) -> None:
    drive(actors_that_end).join()


def actors_that_cannot_be_made(link: Link, address: str) -> None:
    group = placed(address)
    with pytest.raises(KeyError):
        WorkerGroup.on_ray(Broken, group, ("raise", 1))
    with pytest.raises(WorkerDiedError, match="while its object was made"):
        WorkerGroup.on_ray(Broken, group, ("_exit", 1))
    with pytest.raises(CallTimeoutError, match=r"rank 1 not ready within 6\.0 s, while its object was made") as late:
        WorkerGroup.on_ray(Broken, group, ("hang", 1), start_timeout=6.0)
    assert late.value.ranks == (1,)
    for wrong in (None, "CPU", [{"CPU": 1}]):
        with pytest.raises(ArgumentError, match="placement_group"):
            WorkerGroup.on_ray(Model, wrong)
    assert segments() == set()


def test_actors_that_cannot_be_made_are_an_error(drive: Callable[..., Child]) -> None:
    drive(actors_that_cannot_be_made).join()


def a_node_that_dies(link: Link, address: str) -> None:
    import ray

    with WorkerGroup.on_ray(Model, placed(address), allow_callables=True) as group:
        own = ray.get_runtime_context().get_node_id()  # which this process needs
        rank, node = next((rank, node) for rank, node in enumerate(group.call(node_of)) if node != own)
        future = group[rank].submit("nap", 600)
        link.send(node)
        with pytest.raises(WorkerDiedError, match="in call"):
            future.result(50)
        assert group[1 - rank].call("rank") == 1 - rank
    assert segments() == set()


def test_a_node_s_death_is_its_actors_death(drive: Callable[..., Child], cluster: Child) -> None:
    driver = drive(a_node_that_dies)
    cluster.ask(driver.receive())
    driver.join()
    cluster.receive()


def actors_and_a_word(link: Link, address: str) -> None:
    group = WorkerGroup.on_ray(Model, placed(address))
    group.cast("nap", 600)
    link.send(group.pids)
    link.recv()


def test_no_actor_outlives_a_group_s_process(drive: Callable[..., Child]) -> None:
    driver = drive(actors_and_a_word)
    pids = driver.receive()
    driver.kill()
    eventually(lambda: not any(map(lives, pids)), "the end of the actors")
    from ringcast.instruments import sweep

    sweep()


def test_without_a_cluster_it_is_said() -> None:
    script = """
from ringcast import WorkerGroup
try:
    WorkerGroup.on_ray(dict, None)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "call ray.init() before" in done.stdout, done.stderr

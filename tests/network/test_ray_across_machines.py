"""Workers that are Ray's actors on two machines: the one that is not the group's is reached through a link."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from ringcast import WorkerGroup
from ringcast.errors import WorkerDiedError
from ringcast.workers import _asking
from tests.network.machines import Machine, visited
from tests.support import ROOT, Link
from tests.workers.objects import LONG_S, Model, late_at_a_gate

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: ringcast[ray]"),
    pytest.mark.usefixtures("machine_server"),
]

PORT = 6379
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT),
    # A token of this test's own, so that whatever the machine is set to does not matter.
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # fmt: skip


def hold_node(link: Link, ip: str, *options: str) -> None:
    """A node of Ray's, until it is told to end."""
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    memory = ["--object-store-memory", str(100 << 20), "--num-cpus", "1", "--node-ip-address", ip]
    started = subprocess.run([*command, "start", *memory, *options], capture_output=True, text=True, check=False)
    link.send(started.stdout + started.stderr if started.returncode else None)
    link.recv()
    subprocess.run([*command, "stop", "--force"], capture_output=True, check=False)
    link.send(None)


def control(link: Link, ip: str, other: str) -> None:
    """The group's process, on the head's machine."""
    import ray

    ray.init(address=f"{ip}:{PORT}", _node_ip_address=ip)
    placed: Any = ray.util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    ray.get(placed.ready(), timeout=LONG_S)
    with WorkerGroup.on_ray(Model, placed, (10,), allow_callables=True) as group:
        hosts = group.call(lambda _: os.uname().nodename)
        assert sorted(hosts) == sorted([os.uname().nodename, other])
        far = hosts.index(other)
        assert group.call("rank") == [0, 1]
        assert [len(blob) for blob in group.call("blob", 4 << 20)] == [4 << 20] * 2
        assert list(group.stream("count_to", 40)) == [[number, number] for number in range(40)]
        futures = [group.submit("echo_only", number) for number in range(300)]
        assert [future.result(LONG_S) for future in futures] == [[number, number] for number in range(300)]
        vars(_asking)["_WITHIN_S"] = LONG_S  # all the time that it needs to say what it does
        late = late_at_a_gate(lambda gate, deadline: group[far].call("wait_at", gate, deadline=deadline), far)
        assert "in wait_at" in late.stacks[far]
        assert group[far].call("rank") == far  # so that the call which was late is over, and not what a death fails
        busy = group[far].submit("nap", 600)
        link.send(group.pids[far])
        with pytest.raises(WorkerDiedError, match=rf"rank {far} \(host {other}, pid \d+\) has died.*'nap'"):
            busy.result(LONG_S)
        assert group[1 - far].call("rank") == 1 - far
        group.respawn(far)
        assert group.call("rank") == [0, 1]
    link.send("done")


@pytest.fixture
def folder() -> Iterator[str]:
    """Ray's, whose path must be short."""
    made = tempfile.mkdtemp(prefix="rcray", dir="/tmp")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _node(machine: Machine, *options: str) -> Any:
    node = machine.start(hold_node, machine.ip, *options, env=ENVIRONMENT)
    assert node.receive() is None
    return node


def test_actors_of_another_machine_are_reached_through_a_link(folder: str) -> None:
    with visited(2) as (a, b):
        head = ("--head", "--port", str(PORT), "--include-dashboard=false", "--temp-dir", folder)
        nodes = [_node(a, *head), _node(b, "--address", f"{a.ip}:{PORT}")]
        group = a.start(control, a.ip, b.host, env=ENVIRONMENT)
        b.signal(group.receive(), signal.SIGKILL)
        assert group.receive() == "done"
        group.wait()
        for node in reversed(nodes):
            assert node.ask() is None
            node.wait()

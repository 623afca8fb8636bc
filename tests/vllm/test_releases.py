"""Each release of vLLM that the plugin is known to fit, by that release's own source: what it calls, and calling it.

`make engine-releases` fetches them, and runs the last test in the environment of a real engine.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringcast.vllm._fit import misfits
from ringcast.vllm._queue import Handle, MessageQueue
from tests.support import ROOT
from tests.vllm import layout
from tests.vllm.releases import RELEASES, SOURCES, source

_BROADCAST = "vllm/distributed/device_communicators/shm_broadcast.py"
_CALLERS = (
    "vllm/v1/executor/multiproc_executor.py", "vllm/v1/executor/ray_executor_v2.py",
    "vllm/distributed/parallel_state.py",
)  # fmt: skip
_OF_A_QUEUE = re.compile(r"(^|\.)(\w*mq|mq_broadcaster|\w*message_queue|MessageQueue)$")
_CALLED = {
    "MessageQueue", "create_from_handle", "export_handle", "wait_until_ready", "enqueue", "dequeue", "shutdown",
    "broadcast_object", "create_from_process_group", "create_from_process_group_single_reader",
}  # fmt: skip
_READ_OF_HANDLES = {"local_reader_ranks", "remote_subscribe_addr"}
PYTHON = "RINGCAST_ENGINE_PYTHON"
_WITHIN_S = 600.0


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Path:
    """The folder of a release."""
    folder = source(request.param)
    if folder is None:
        pytest.skip(f"the source of vLLM {request.param} is not here: make engine-releases fetches it to ${SOURCES}")
    return folder


def own_class(release: Path, name: str) -> ast.ClassDef:
    """A class of the release's module of its queue."""
    tree = ast.parse((release / _BROADCAST).read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def with_its_signatures(release: Path) -> type:
    """A class that has the signatures of the release's queue, and nothing else."""
    found = own_class(release, "MessageQueue")
    for function in (node for node in found.body if isinstance(node, ast.FunctionDef)):
        function.body, function.returns = [ast.Pass()], None
        function.decorator_list = [one for one in function.decorator_list if ast.unparse(one) == "staticmethod"]
        for parameter in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            parameter.annotation = None
    for inner in (node for node in found.body if isinstance(node, ast.ClassDef)):
        inner.body = [ast.Pass()]
    made: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(ast.Module([found], [])), "MessageQueue", "exec"), made)
    kind: type = made["MessageQueue"]
    return kind


def calls(release: Path) -> Iterator[tuple[str, ast.Call]]:
    """(method, call) of every call of a queue, or of its class, in the modules that use it."""
    for path in _CALLERS:
        for node in ast.walk(ast.parse((release / path).read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "MessageQueue":
                yield "MessageQueue", node
            elif isinstance(node.func, ast.Attribute) and _OF_A_QUEUE.search(ast.unparse(node.func.value)):
                yield node.func.attr, node


def test_its_queue_s_signatures_fit(release: Path) -> None:
    assert misfits(with_its_signatures(release), MessageQueue) == []


def test_each_of_its_calls_can_be_made(release: Path) -> None:
    seen = set()
    for name, call in calls(release):
        seen.add(name)
        of = MessageQueue if name == "MessageQueue" else getattr(MessageQueue, name)
        bound = [] if name == "MessageQueue" or inspect.ismethod(of) else [None]
        inspect.signature(of).bind(*bound, *call.args, **{str(one.arg): one.value for one in call.keywords})
    assert seen == _CALLED


def test_what_it_reads_of_a_handle_ours_has(release: Path) -> None:
    fields = {ast.unparse(node.target) for node in own_class(release, "Handle").body if isinstance(node, ast.AnnAssign)}
    read = {
        node.attr for path in _CALLERS for node in ast.walk(ast.parse((release / path).read_text()))
        if isinstance(node, ast.Attribute) and node.attr in fields
    }  # fmt: skip
    assert read == _READ_OF_HANDLES
    handle = Handle("segment", 1, (0,), (1, 1, 1, "segment"))
    assert [getattr(handle, field) for field in sorted(read)] == [(0,), None]


def test_the_layout_that_other_tests_take_for_vllm_s_is_its_own(release: Path, tmp_path: Path) -> None:
    assert "MessageQueue" not in {"", *layout.SIGNATURES}
    for name in ("vllm.v1.executor.multiproc_executor", "vllm.v1.executor.ray_executor_v2"):
        text = release.joinpath(*name.split(".")).with_suffix(".py").read_text()
        assert re.search(r"from vllm\.distributed\.device_communicators\.shm_broadcast import [^)]*MessageQueue", text)
    for name in ("utils/network_utils.py", "distributed/parallel_state.py"):
        text = (release / "vllm" / name).read_text()
        assert ("def get_ip(" if "utils" in name else "def in_the_same_node_as(") in text


def test_its_executor_and_worker_call_each_other_through_ours(release: Path) -> None:
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"${PYTHON} is not set: make engine-releases runs this in the environment of a real engine")
    environment = {
        **os.environ, "PYTHONPATH": f"{release}:{ROOT}", "RINGCAST_VLLM": "1", "VLLM_PLUGINS": "ringcast",
        "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "VLLM_TARGET_DEVICE": "cpu",
    }  # fmt: skip
    command = [python, "-m", "tests.vllm.executor_and_worker", release.name]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "all as it should be"

"""Whether the plugin is used: switched on, idempotent, and never where there is doubt."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ringcast.vllm import _fit, _switch, register
from ringcast.vllm._queue import MessageQueue
from tests.support import ROOT
from tests.vllm.layout import lay, run

WHERE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
import vllm.distributed.device_communicators.shm_broadcast as shm_broadcast
stock, handle, fence = shm_broadcast.MessageQueue, shm_broadcast.Handle, shm_broadcast.memory_fence
import vllm.v1.executor.multiproc_executor as early
from ringcast.vllm import register
print(register(), register())
import vllm.v1.executor.ray_executor_v2 as late
for module in (shm_broadcast, early, late):
    print(module.MessageQueue.__module__, module.Handle is handle)
print(shm_broadcast.memory_fence is fence)
"""
OURS = ["True True", *["ringcast.vllm._queue True"] * 3, "True"]
STOCK = ["False False", *["vllm.distributed.device_communicators.shm_broadcast True"] * 3, "True"]


def test_register_puts_the_queue_wherever_vllm_has_its_own_and_leaves_its_other_names(tmp_path: Path) -> None:
    said, log = run(lay(tmp_path), WHERE, RINGCAST_VLLM="1")
    assert said == OURS
    assert log.count("is in the place of vLLM's MessageQueue") == 1
    assert "vllm.v1.executor.multiproc_executor" in log


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({"VLLM_PLUGINS": "ringcast"}, True),
        ({"VLLM_PLUGINS": "lora,ringcast"}, True),
        ({"VLLM_PLUGINS": "lora"}, False),
        ({"VLLM_PLUGINS": "ringcast", "RINGCAST_VLLM": "0"}, False),
        ({"RINGCAST_VLLM": "1"}, True),
    ],
)
def test_only_who_is_asked_for_is_used(
    environment: dict[str, str], is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_PLUGINS", "RINGCAST_VLLM"):
        monkeypatch.setenv(name, environment.get(name, ""))
    assert _switch.is_on() is is_on


@pytest.mark.parametrize(
    "environment",
    [
        {"RINGCAST_VLLM": "yes"},
        {"RINGCAST_VLLM": "1", "RINGCAST_VLLM_WINDOW": "2ms"},
        {"RINGCAST_VLLM": "1", "RINGCAST_VLLM_WINDOW": "61"},
        {"RINGCAST_VLLM": "1", "RINGCAST_VLLM_SLICE": "1ms"},
        {"RINGCAST_VLLM": "1", "RINGCAST_VLLM_SLICE": "0.00001"},
    ],
)
def test_a_setting_that_makes_no_sense_is_logged_and_leaves_vllm_as_it_is(
    environment: dict[str, str], tmp_path: Path
) -> None:
    said, log = run(lay(tmp_path), WHERE, **environment)
    assert said == STOCK
    assert "vLLM's own queue stays in place" in log
    assert "the environment variable RINGCAST_VLLM" in log


@pytest.mark.parametrize(
    ("signatures", "told"),
    [
        ({"enqueue": "self, obj, timeout=None, priority=0"}, "enqueue has a new parameter priority=0"),
        ({"dequeue": "self, indefinite=False, timeout=None"}, "dequeue has indefinite=False as parameter 1"),
        ({"__init__": "self, n_reader, n_local_reader, local_reader_ranks=None, max_chunk_bytes=1"}, "max_chunk_bytes"),
        ({"broadcast_object": ""}, "broadcast_object is gone"),
        ({"dequeue_many": "self, n"}, "dequeue_many is new"),
        ({"export_handle": "self, *, secret"}, "export_handle has a new parameter secret"),
    ],
)
def test_a_vllm_that_calls_its_queue_otherwise_keeps_its_own_and_is_told_why(
    signatures: dict[str, str], told: str, tmp_path: Path
) -> None:
    said, log = run(lay(tmp_path, signatures), WHERE, RINGCAST_VLLM="1")
    assert said == STOCK
    assert "vLLM's own queue stays in place, since this release of vLLM (0.0.1)" in log
    assert told in log


def test_without_vllm_register_says_so_and_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_VLLM", "1")
    assert register() is False
    assert "vLLM's own queue stays in place" in caplog.text


def test_ours_fits_itself_and_an_older_vllm_without_the_arena() -> None:
    assert _fit.misfits(MessageQueue, MessageQueue) != []  # it offers much that vLLM's does not

    class Older:
        def __init__(
            self, n_reader: int, n_local_reader: int, local_reader_ranks: None = None,
            max_chunk_bytes: int = 24 << 20, max_chunks: int = 10, connect_ip: None = None,
        ) -> None: ...  # fmt: skip

    assert not [told for told in _fit.misfits(Older, MessageQueue) if "__init__" in told]


def test_the_window_is_the_environment_s_or_half_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGCAST_VLLM_WINDOW", raising=False)
    assert _switch.wait().window == 0.0005
    monkeypatch.setenv("RINGCAST_VLLM_WINDOW", "0.01")
    assert _switch.wait().window == 0.01


def test_vllm_s_interval_of_warnings_is_ours_unless_ours_is_given(tmp_path: Path) -> None:
    show = "\nfrom ringcast.waiting import report_interval_ns\nprint(report_interval_ns() // 10**9)"
    vllm_s = {"RINGCAST_VLLM": "1", "VLLM_RINGBUFFER_WARNING_INTERVAL": "7"}
    assert run(lay(tmp_path), WHERE + show, **vllm_s)[0][-1] == "7"
    assert run(lay(tmp_path), WHERE + show, **vllm_s, RINGCAST_WARNING_INTERVAL="5")[0][-1] == "5"
    assert run(lay(tmp_path), WHERE + show, RINGCAST_VLLM="1", VLLM_RINGBUFFER_WARNING_INTERVAL="0")[0][-1] == "60"


def test_what_the_queue_says_goes_where_vllm_s_log_goes(tmp_path: Path) -> None:
    script = """
import logging, sys
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("vLLM: %(name)s %(message)s"))
logging.getLogger("vllm").addHandler(handler)
logging.getLogger("vllm").propagate = False
from ringcast.vllm import register
register()
logging.getLogger("ringcast").warning("a long wait")
"""
    said, log = run(lay(tmp_path), script, RINGCAST_VLLM="1")
    assert said[-1] == "vLLM: ringcast a long wait"
    assert log == ""


BOTH_SIDES = """
import sys
from types import SimpleNamespace
from ringcast.vllm import register
register()
import vllm.distributed.device_communicators.shm_broadcast as shm_broadcast
import vllm.v1.executor.multiproc_executor as executor
print(executor.MessageQueue.create_from_handle(shm_broadcast.Handle(), 0))
print(register(), executor.MessageQueue.__module__, shm_broadcast.MessageQueue.__module__)
"""


def test_a_handle_of_vllm_s_own_queue_brings_vllm_s_own_back_and_that_is_said(tmp_path: Path) -> None:
    said, log = run(lay(tmp_path), BOTH_SIDES, RINGCAST_VLLM="1")
    stock = "vllm.distributed.device_communicators.shm_broadcast"
    assert said == ["('vLLM', 'create_from_handle')", f"False {stock} {stock}"]
    assert "vLLM's own queue is in place again: the handle of a queue came from a process" in log


def test_vllm_s_own_reader_of_our_handle_is_told_what_is_wrong() -> None:
    with MessageQueue(1, 1, connect_ip="10.0.0.1") as writer:
        handle = writer.export_handle()
        assert 0 in handle.local_reader_ranks
        assert handle.remote_subscribe_addr is None
        for field in ("buffer_handle", "remote_addr_ipv6"):
            with pytest.raises(RuntimeError, match="the plugin is not switched on here"):
                getattr(handle, field)


def test_the_package_names_the_plugin_as_vllm_looks_for_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."vllm.general_plugins"]\nringcast = "ringcast.vllm:register"\n' in text
    assert EntryPoint("ringcast", "ringcast.vllm:register", "vllm.general_plugins").load() is register

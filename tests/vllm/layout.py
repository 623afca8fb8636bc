"""vLLM's layout of modules, with nothing in it: where its queue's class is, who imports it, and what signatures it has.

For what can be tested without vLLM. That the layout and the signatures are vLLM's is tested in test_releases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import ROOT, run_python

SIGNATURES = {
    "__init__": "self, n_reader, n_local_reader, local_reader_ranks=None, max_chunk_bytes=1024 * 1024 * 24, "
    "max_chunks=10, connect_ip=None, enable_shm_tensor_arena=False",
    "export_handle": "self",
    "wait_until_ready": "self",
    "shutdown": "self",
    "acquire_write": "self, timeout=None",
    "acquire_read": "self, timeout=None, indefinite=False",
    "enqueue": "self, obj, timeout=None",
    "dequeue": "self, timeout=None, indefinite=False",
    "broadcast_object": "self, obj=None",
}
STATIC = {
    "create_from_handle": "handle, rank",
    "recv": "socket, timeout",
    "create_from_process_group_single_reader": "pg, max_chunk_bytes, max_chunks, reader_rank=0, blocking=False",
    "create_from_process_group": "pg, max_chunk_bytes, max_chunks, writer_rank=0, external_writer_handle=None, "
    "blocking=True",
}

_HANDLE = """
class Handle:
    local_reader_ranks = [0]
    local_subscribe_addr = "ipc:///nowhere"
"""
_IMPORTER = "from vllm.distributed.device_communicators.shm_broadcast import Handle, MessageQueue\n"
_MODULES = {
    "": "__version__ = '0.0.1'\n",
    "distributed": "",
    "distributed.device_communicators": "",
    "distributed.parallel_state": """
import torch.distributed as dist
def in_the_same_node_as(pg, source_rank=0):
    dist.barrier(pg)
    return [True] * dist.get_world_size(pg)
""",
    "v1": "",
    "v1.executor": "",
    "v1.executor.multiproc_executor": _IMPORTER,
    "v1.executor.ray_executor_v2": _IMPORTER,
    "utils": "",
    "utils.network_utils": "def get_ip(): return '127.0.0.1'\n",
}
BROADCAST = "distributed.device_communicators.shm_broadcast"


def lay(folder: Path, signatures: dict[str, str] | None = None) -> Path:
    """Write it there; with other signatures than the usual, None for those that are gone."""
    body = ["import math", _HANDLE, "def memory_fence(): pass", "SHM_PATH = '/dev/shm'", "class MessageQueue:"]
    for name, parameters in {**SIGNATURES, **STATIC, **(signatures or {})}.items():
        if parameters:
            static = ["    @staticmethod"] if name in STATIC else []
            body += [*static, f"    def {name}({parameters}): return ('vLLM', {name!r})"]
    body += ["    def _inner(self): pass"]
    for name, text in {**_MODULES, BROADCAST: "\n".join(body) + "\n"}.items():
        path = folder.joinpath("vllm", *name.split(".")) if name else folder / "vllm"
        is_package = not name or any(other.startswith(f"{name}.") for other in (*_MODULES, BROADCAST))
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(folder: Path, source: str, *arguments: str, **environment: str) -> tuple[list[str], str]:
    """The lines that a script prints in an interpreter that has this vLLM, and what it says on stderr."""
    cleared = {"VLLM_PLUGINS": "", "RINGCAST_VLLM": "", "PYTHONPATH": f"{folder}:{ROOT}"}
    options: dict[str, Any] = {"env": {**cleared, **environment}}
    result = run_python(source, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines(), result.stderr
